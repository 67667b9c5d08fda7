"""The commands of reranking: one module each, with its flags (``Options``) and its work (``main``)."""
