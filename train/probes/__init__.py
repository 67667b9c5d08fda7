"""Probes of frozen language models."""
