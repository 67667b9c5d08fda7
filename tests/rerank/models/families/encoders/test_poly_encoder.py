"""Poly-encoders: the formula, what must not change a score, and the command."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from sparring.rerank.cli import main
from sparring.rerank.data.runs import read_run
from sparring.rerank.engine.model import ScorerOptions
from sparring.rerank.errors import InputError, MissingResourceError
from sparring.rerank.models.families.encoders.poly_encoder import CODES_FILE, PolyCodes, poly_scores
from sparring.rerank.models.loading import FAMILY_KEY, load
from sparring.rerank.vocabulary import Candidates
from tiny_models import SIZES, save_bi_encoder, sentence

QUERY = "winter garden: coffee market"
TEXTS = tuple(sentence(random.Random(i), 2 + 3 * i) for i in range(7))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bi-encoder with five codes, large enough to look at different tokens."""
    path = save_bi_encoder(tmp_path_factory.mktemp("poly"))
    torch.manual_seed(1)
    codes = PolyCodes(5, SIZES["hidden_size"])
    codes.codes.data.normal_()
    codes.save(path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {FAMILY_KEY: "poly_encoder"}))
    return path


def score(folder: Path, texts: tuple[str, ...], asked: list[int] | None = None) -> np.ndarray:
    scorer = load(str(folder)).scorer(ScorerOptions(device="cpu", dtype="float32"))  # type: ignore[union-attr]
    topic = Candidates("q", QUERY, tuple(map(str, range(len(texts)))), texts, np.zeros(len(texts)))
    positions = np.array(range(len(texts)) if asked is None else asked, np.int32)[:, None]
    return scorer([topic], [positions])[0][:, 0]


def test_scores_are_the_formula(folder: Path) -> None:
    """y_k = Σ_t softmax_t(c_k·h_t) h_t, y = Σ_k softmax_k(e·y_k) y_k, s = e·y, from sentence-transformers' own states."""
    from safetensors.torch import load_file
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    codes = load_file(folder / CODES_FILE)["codes"]
    h = model.encode(QUERY, output_value="token_embeddings").float()
    e = torch.from_numpy(model.encode(list(TEXTS)))
    y_k = torch.einsum("kt,td->kd", torch.einsum("kd,td->kt", codes, h).softmax(1), h)
    y = torch.einsum("nk,kd->nd", torch.einsum("nd,kd->nk", e, y_k).softmax(1), y_k)
    expected = torch.einsum("nd,nd->n", e, y).numpy()
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(score(folder, TEXTS), expected, atol=1e-5)


def test_batches_and_order_change_no_score(folder: Path) -> None:
    together = score(folder, TEXTS)
    alone = [score(folder, (text,))[0] for text in TEXTS]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    order = [3, 0, 6, 2, 5, 1, 4]
    np.testing.assert_allclose(score(folder, tuple(TEXTS[i] for i in order)), together[order], atol=1e-5)
    np.testing.assert_allclose(score(folder, TEXTS, order), together[order], atol=1e-5)


def test_padding_of_queries_changes_no_context(folder: Path) -> None:
    encoder = load(str(folder)).encoder  # type: ignore[attr-defined]
    queries = [QUERY, "river", sentence(random.Random(9), 20)]
    packed = encoder(encoder.preprocess(queries))["contexts"]
    for query, context in zip(queries, packed, strict=True):
        torch.testing.assert_close(encoder(encoder.preprocess([query]))["contexts"][0], context, rtol=0, atol=1e-5)


def test_one_code_that_looks_everywhere_is_the_bi_encoder() -> None:
    """With a zero code the context is the mean of the tokens: the score is its dot product with the candidate."""
    states, mask = torch.randn(2, 6, 8), torch.ones(2, 6)
    codes = PolyCodes(1, 8)
    codes.codes.data.zero_()
    contexts = codes({"token_embeddings": states, "attention_mask": mask})["contexts"]
    candidates = torch.randn(4, 8)
    torch.testing.assert_close(poly_scores(contexts, candidates), states.mean(1) @ candidates.T)


def test_rerank_takes_poly_encoders(folder: Path, tmp_path: Path) -> None:
    rows = "".join(json.dumps({"id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(TEXTS))
    (tmp_path / "corpus.jsonl").write_text(rows)
    (tmp_path / "queries.tsv").write_text(f"q\t{QUERY}\n")
    run = tmp_path / "first.run"
    run.write_text("".join(f"q Q0 d{i} {i + 1} {9 - i} first\n" for i in range(len(TEXTS))))
    flags = [f"--run={run}", f"--dataset={tmp_path}", f"--model={folder}", "--device=cpu", "--dtype=float32"]
    assert main(["rerank", *flags, f"--output={tmp_path}/out.run"]) == 0
    expected = score(folder, TEXTS)
    docids, scores = read_run(tmp_path / "out.run")["q"]
    assert list(docids) == [f"d{i}" for i in np.argsort(-expected)]
    np.testing.assert_allclose(scores, np.sort(expected)[::-1], atol=1e-5)


def test_codes_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="not a poly-encoder"):
        PolyCodes.load(tmp_path, 8)
    PolyCodes(3, 8).save(tmp_path)
    with pytest.raises(InputError, match=r"codes \(3, 8\) do not fit embeddings of 32 dimensions"):
        PolyCodes.load(tmp_path, 32)
    (tmp_path / CODES_FILE).write_bytes(b"no tensors")
    with pytest.raises(InputError, match="not the codes of a poly-encoder"):
        PolyCodes.load(tmp_path, 8)
