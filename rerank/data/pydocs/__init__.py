"""The embedded collection: docstrings of installed packages, with questions and judgments."""
