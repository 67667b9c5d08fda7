"""Schedules: what to look at next. One file per family; registered components are found by import."""
