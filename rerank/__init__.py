"""Reranking: runs, candidates, schedules, the scoring engine, preferences and aggregators."""
