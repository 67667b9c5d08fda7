"""Requests that carry an instruction reach the model with it, and are refused where the model takes none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sparring.rerank.commands.serve import Options, open_service
from sparring.rerank.models.loading import load
from sparring.rerank.serving.dialects import Refused, parse
from tiny_generators import save_causal
from tiny_pairs import state_family
from tiny_server import DOCUMENTS, QUERY, ask, serving


def test_a_model_that_takes_none_refuses_it() -> None:
    with serving() as server:
        status, said = ask(server, {"query": QUERY, "documents": DOCUMENTS, "instruction": "Find rivers."})
        assert status == 422 and said["message"] == "instruction: this model takes none"
    with pytest.raises(Refused, match="instruction: expected a string, found a number"):
        parse(b'{"query": "q", "documents": ["a"], "instruction": 3}', 10)


def test_requests_are_judged_by_their_own_instruction(tmp_path: Path) -> None:
    folder = state_family(save_causal(tmp_path / "m"), "causal(format=qwen3)")
    service = open_service(Options(model=str(folder), device="cpu", dtype="float32"))
    service.start()
    try:
        bodies = [f'{{"query": "river", "documents": ["a", "b"]{more}}}' for more in ("", ', "instruction": "X?"')]
        answers = [service.answer(parse(body.encode(), 10)).scores for body in bodies]
    finally:
        service.close()
    told = load(str(folder), instruction="X?")
    service = open_service(Options(model=str(folder), device="cpu", dtype="float32", instruction="X?"))
    service.start()
    try:
        expected = service.answer(parse(bodies[0].encode(), 10)).scores
    finally:
        service.close()
    assert not np.allclose(*answers) and told.fingerprint != load(str(folder)).fingerprint
    np.testing.assert_allclose(answers[1], expected, atol=1e-6)
