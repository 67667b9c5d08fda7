"""Kinds of rerankers that can be trained: one file each."""
