"""Measures, their evaluation over runs, and the tests of significance between them."""
