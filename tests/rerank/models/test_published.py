"""A table of published rerankers: the family that claims each, how it is asked, and what is refused by name."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from sparring.rerank.errors import InputError, UsageError
from sparring.rerank.models.checkpoints import Checkpoint
from sparring.rerank.models.families.about import Described
from sparring.rerank.models.layout import read_layout
from sparring.rerank.models.loading import claimant
from sparring.rerank.registry import families

PUBLISHED: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("published.yaml").read_text())


def checkpoint_of(facts: dict[str, Any], folder: Path) -> Checkpoint:
    """A checkpoint whose folder holds the configs that the facts describe, and no weights."""
    folder.mkdir()
    config = {"model_type": facts["type"], "architectures": [facts["class"]], **facts.get("more", {})}
    if "labels" in facts:
        config["id2label"] = {str(i): f"LABEL_{i}" for i in range(facts["labels"])}
    config = {key: value for key, value in config.items() if value not in ("", [""])}
    (folder / "config.json").write_text(json.dumps(config))
    if "modules" in facts:
        package = "pylate.models" if facts.get("settings") == "ColBERT" else "sentence_transformers.models"
        rows = [
            {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": f"{package}.{name}"}
            for i, name in enumerate(facts["modules"])
        ]
        (folder / "modules.json").write_text(json.dumps(rows))
        settings = {"transformer_task": facts["task"]} if "task" in facts else {}
        (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    if "settings" in facts:
        (folder / "config_sentence_transformers.json").write_text(json.dumps({"model_type": facts["settings"]}))
    found = Checkpoint(facts["name"], folder, config, (), read_layout(folder))
    return replace(found, base=facts["base"]) if "base" in facts else found


@pytest.mark.parametrize("facts", PUBLISHED, ids=lambda facts: facts["name"])
def test_exactly_one_family_claims_it_or_it_is_refused_by_name(facts: dict[str, Any], tmp_path: Path) -> None:
    checkpoint = checkpoint_of(facts, tmp_path / "model")
    if "refused" in facts:
        with pytest.raises((InputError, UsageError)) as caught:
            claimant(checkpoint)
        said = str(caught.value)
        assert re.search(facts["refused"], said) and facts["name"] in said and "\n" not in said
        return
    claims = [name for name, cls in families if cls().claims(checkpoint)]
    assert claims == [facts["family"]]
    assert claimant(checkpoint).spec_name == facts["family"]


def test_the_table_is_printed() -> None:
    names = [facts["name"] for facts in PUBLISHED]
    assert len(set(names)) == len(names) >= 60
    for facts in PUBLISHED:  # to be seen with pytest -s
        print(row(facts))  # noqa: T201


def row(facts: dict[str, Any]) -> str:
    """A line of the table: name, family, template, score rule."""
    family = dict(families).get(facts.get("family", ""))
    chosen = facts.get("family", "refused")
    rule = family.about.returns if isinstance(family, Described) else ""
    return f"{facts['name']:<52} {chosen:<24} {facts['template']:<76} {rule}".rstrip()
