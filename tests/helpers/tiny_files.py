"""Files of a collection, written into a folder."""

from __future__ import annotations

import json
from pathlib import Path


def jsonl(*records: object) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def folder(tmp_path: Path, **files: str) -> Path:
    for name, content in files.items():
        path = tmp_path / "data" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return tmp_path / "data"
