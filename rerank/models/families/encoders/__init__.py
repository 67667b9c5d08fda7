"""Families whose scores a head reads off an encoder's states."""
