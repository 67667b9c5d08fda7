"""Models: from a name to weights with a template."""
