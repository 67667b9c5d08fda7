"""Language models that are asked in words: what they are shown, here or behind an endpoint, and what they said."""
