"""CrossEncoders of sentence-transformers that are put together from modules: a transformer and what follows."""
