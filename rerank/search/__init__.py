"""The first stage: vectors, indexes, words, and the fusion of runs."""
