"""Throughput on one machine, beside the libraries that people use."""
