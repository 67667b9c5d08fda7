"""Studies as the commands a user would type: printed, run as processes of their own, and not run twice."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from ...rerank import console


def sparring(*words: object, output: Path | None = None) -> None:
    """Prints ``sparring WORDS`` and runs it; with ``output`` only if that file, which it writes, is not there yet.

    Raises:
        subprocess.CalledProcessError: the command failed; it has said why.
    """
    arguments = [str(word) for word in (*words, *(("--output", output) if output is not None else ()))]
    shown = shlex.join(["sparring", *arguments])
    if output is not None and output.is_file():
        console.log.info("%s is there; it came from: %s", output, shown)
        return
    width = shutil.get_terminal_size((100, 24)).columns
    console.out(f"\n$ {shown}" if len(shown) < width else "\n$ " + shown.replace(" --", " \\\n    --"))
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "sparring.rerank.cli", *arguments], check=True)
    console.log.info("(%.0f s)", time.perf_counter() - started)
