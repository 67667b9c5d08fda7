"""`sparring list`: what every family says of itself, lines that fit, and one entry in full."""

from __future__ import annotations

import importlib

import pytest
from sparring.rerank.cli import main
from sparring.rerank.models.families.about import Described
from sparring.rerank.plugins import REGISTRIES
from sparring.rerank.registry import families


@pytest.mark.parametrize("name", families.names())
def test_every_family_says_what_it_is(name: str) -> None:
    family = dict(families)[name]
    assert isinstance(family, Described), (
        f"{name}: write `about: ClassVar[About]`, see rerank/models/families/about.py"
    )
    assert family.about.returns and bool(family.about.examples) != bool(family.about.made_by)
    assert all(example.name and example.licence for example in family.about.examples)


def test_list_models_names_examples_with_licences(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "models"]) == 0
    shown = capsys.readouterr().out
    for word in ("minilm (apache-2.0", "jina-reranker-v2-base-multilingual (cc-by-nc-4.0)", "listwise", "padded"):
        assert word in shown
    assert max(map(len, shown.splitlines())) <= 100


@pytest.mark.parametrize("group", sorted(REGISTRIES))
def test_one_of_every_registry_is_shown_in_full(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    place = REGISTRIES[group]
    registry = getattr(importlib.import_module(place.module), place.attribute)
    name = next(iter(registry))[0]
    assert main(["list", place.plural, name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(name) and len(lines) > 2
    assert main(["list", place.plural]) == 0
    assert max(len(line) for line in (*lines, *capsys.readouterr().out.splitlines())) <= 100


def test_options_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "schedules", "bayes"]) == 0
    shown = capsys.readouterr().out
    assert "stop: ends when the expected share" in shown and "rounds: int = 4" in shown
    assert main(["list", "schedules", "bays"]) == 2
    assert "did you mean 'bayes'?" in capsys.readouterr().err
    assert main(["list", "retrievers", "poly-encoder"]) == 0
    assert capsys.readouterr().out.startswith("poly")
