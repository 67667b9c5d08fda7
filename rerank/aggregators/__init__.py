"""Aggregators: from sparse preferences of many topics to a finite score for every candidate."""
