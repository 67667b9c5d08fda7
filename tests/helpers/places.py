"""Where things lie: the project, the helpers of the tests, the real collections."""

from __future__ import annotations

from pathlib import Path

HELPERS = Path(__file__).resolve().parent
ROOT = HELPERS.parent.parent
SHARED = ROOT.parent / "shared" / "data"
"""Real collections, absent from most machines: the fixture ``shared`` skips there."""
