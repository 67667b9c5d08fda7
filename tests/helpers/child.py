"""Another process that works with a ledger."""

from __future__ import annotations

import subprocess
import sys

from places import HELPERS

RUN = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from faults import FaultyScorer, topics_of
from faults import groups_of
from sparring.rerank.ledger.ledger import Ledger
"""


def child(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    program = RUN.format(tests=str(HELPERS)) + code
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
