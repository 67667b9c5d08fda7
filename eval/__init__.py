"""Measures, significance, diagnostics, benchmarks and reports."""
