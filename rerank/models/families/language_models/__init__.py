"""Families whose scores are read off a language model's next token, or off what it writes."""
