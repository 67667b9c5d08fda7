"""Training of bi-encoders and poly-encoders."""
