"""A library that lives in an environment of its own, asked as a process: a task on stdin, figures on stdout."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from ...rerank.errors import SparringError


def ask(python: str, script: str, task: dict[str, Any]) -> dict[str, Any]:
    """What ``script``, a file of this folder, says of a task when another environment's interpreter runs it.

    Raises:
        SparringError: the interpreter is absent or the script failed; its last line says why.
    """
    command = [python, str(Path(__file__).with_name(script))]
    try:
        done = subprocess.run(command, input=json.dumps(task), capture_output=True, text=True, check=False)
    except OSError as error:
        raise SparringError(f"{python} cannot be run: {error}") from None
    if done.returncode:
        raise SparringError(f"{python}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said
