"""The sampling bench: schedules played on stored preferences, quality against comparisons."""
