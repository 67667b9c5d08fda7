"""Training of rerankers and retrievers."""
