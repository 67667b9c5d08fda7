"""The lean forward pass: attention over packed sequences, without padding."""
