"""`sparring probe`: a direction is found without labels, in planted features and through the command."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from sparring.rerank.cli import main
from sparring.rerank.data.runs import read_run
from sparring.rerank.errors import InputError, UsageError
from sparring.train.losses import losses
from sparring.train.probes.fit import agreement, fit, standardised
from sparring.train.probes.states import States
from tiny_generators import save_causal, save_t5
from tiny_models import save_classifier, sentence

TOPICS, ITEMS, SIZE = 6, 12, 16


def planted(poles: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features (Q, n, P, H) with relevance along one direction, what a topic and a pole add, and noise; the mask."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(TOPICS, ITEMS, generator=generator)
    direction = torch.nn.functional.normalize(torch.randn(SIZE, generator=generator), dim=0)
    sign = torch.tensor([1.0, -1.0])[:poles, None]
    features = 8 * truth[..., None, None] * sign * direction
    features = features + 5 * torch.randn(TOPICS, 1, 1, SIZE, generator=generator)
    features = features + 5 * torch.randn(1, 1, poles, SIZE, generator=generator)
    features = features + torch.randn(TOPICS, ITEMS, poles, SIZE, generator=generator)
    mask = torch.ones(TOPICS, ITEMS, dtype=torch.bool)
    mask[1, 7:] = False
    features[1, 7:] = torch.nan
    return features, mask, truth


@pytest.mark.parametrize(
    ("loss", "poles"), [("ccs", 2), ("ccr_margin", 1), ("ccr_triplet", 1), ("ccr_ordinal", 1)]
)
def test_consistency_finds_the_planted_direction(loss: str, poles: int) -> None:
    features, mask, truth = planted(poles)
    features = standardised(features, mask)
    probe = fit(features, mask, losses.parse(loss), steps=200, restarts=3, learning_rate=0.02)
    logits = probe(features)
    scores = logits[..., 0] - logits[..., 1] if poles == 2 else logits[..., 0]
    within = [np.corrcoef(s[m], t[m])[0, 1] for s, t, m in zip(scores, truth, mask, strict=True)]
    assert abs(np.mean(within)) > 0.9
    assert len(set(np.sign(within))) == 1  # one direction for all topics


def test_what_topics_and_poles_add_is_taken_out() -> None:
    features, mask, _ = planted(2)
    found = standardised(features, mask)
    assert found.isfinite().all() and (found[~mask] == 0).all()
    assert found.sum(1).abs().max() < 1e-4
    assert found[mask].square().mean((0, 1)).sub(1).abs().max() < 1e-4


def test_the_best_of_several_starts_is_kept() -> None:
    features, mask, _ = planted(2)
    features = standardised(features, mask)
    loss = losses.parse("ccs")
    one, many = (fit(features, mask, loss, steps=20, restarts=count, seed=4).value for count in (1, 4))
    assert many <= one
    assert fit(features, mask, loss, steps=20, seed=1).value == fit(features, mask, loss, steps=20, seed=1).value


def test_agreement_is_kendalls_tau() -> None:
    assert agreement([np.array([3.0, 2.0, 1.0])]) == 1
    assert agreement([np.array([1.0, 2.0, 3.0])]) == -1
    assert agreement([np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0]), np.array([5.0])]) == 0
    assert agreement([np.array([2.0, 3.0, 1.0])]) == pytest.approx(1 / 3)


# --- states


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_causal(tmp_path_factory.mktemp("causal"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_classifier(tmp_path_factory.mktemp("encoder"), "bert", positions=256)


@pytest.mark.parametrize("layer", [-1, 1])
@pytest.mark.parametrize("kind", ["causal", "encoder"])
def test_states_are_those_of_the_prompt_alone(kind: str, layer: int, request: pytest.FixtureRequest) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = request.getfixturevalue(kind)
    prompts = ["winter coffee", "a much longer prompt about rivers and mountains in winter", "x"]
    found = States(str(folder), "cpu", "float32", layer)(prompts)
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for prompt, state in zip(prompts, found, strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer(prompt, return_tensors="pt"), output_hidden_states=True).hidden_states[
                layer
            ]
        torch.testing.assert_close(state, hidden[0, -1 if kind == "causal" else 0], atol=1e-5, rtol=1e-5)


def test_passages_are_cut_where_a_token_ends(causal: Path) -> None:
    states = States(str(causal), "cpu", "float32")
    text = "coffee in winter, by the river"
    (cut,) = states.cut([text], 3)
    assert text.startswith(cut) and 0 < len(cut) < len(text)
    assert states.cut(["", text], 100) == ["", text]


def test_models_that_cannot_be_probed(causal: Path, encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--layer 9: .* has hidden states 0 to 3"):
        States(str(causal), layer=9)
    with pytest.raises(UsageError, match="the model reads 256: lower --passage-tokens"):
        States(str(encoder), "cpu", "float32")(["coffee " * 400])
    with pytest.raises(InputError, match="is an encoder-decoder"):
        States(str(save_t5(tmp_path)))


# --- the command


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(5)
    corpus = [{"id": f"d{i}", "text": sentence(rng, 3 + i % 5)} for i in range(8)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in corpus))
    (folder / "queries.tsv").write_text("".join(f"q{i}\t{sentence(rng, 3)}\n" for i in range(3)))
    lines = [f"q{t} Q0 d{i} {i + 1} {20 - i} first\n" for t in range(3) for i in range(8 - t)]
    (folder / "first.run").write_text("".join(lines))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def probe(data: Path, model: Path, output: Path, *more: str) -> int:
    return main(
        [
            "probe",
            f"--run={data}/first.run",
            f"--dataset={data}",
            f"--model={model}",
            f"--output={output}",
            "--device=cpu",
            "--dtype=float32",
            "--steps=20",
            "--restarts=2",
            "--depth=5",
            "--quiet",
            *more,
        ]
    )


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("causal", ["--loss=ccs"]),
        ("causal", ["--loss=ccr_margin", "--prompt=pair"]),
        ("encoder", ["--loss=ccr_ordinal", "--passage-tokens=16"]),
        ("encoder", ["--loss=ccs", "--prompt=pair", "--passage-tokens=16"]),
    ],
)
def test_every_candidate_is_ranked(
    kind: str, more: list[str], data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first = read_run(data / "first.run")
    assert probe(data, request.getfixturevalue(kind), tmp_path / "out.run", *more) == 0
    run = read_run(tmp_path / "out.run")
    for qid, docids, scores in run.items():
        assert set(docids[:5]) == {f"d{i}" for i in range(5)} and docids[5:] == first[qid][0][5:]
        assert (np.diff(scores) < 0).all()
    order = [np.array([-docids.index(f"d{i}") for i in range(5)], float) for _, docids, _ in run.items()]
    assert agreement(order) >= 0
    assert "kendall with the run" in (tmp_path / "out.run.meta.yaml").read_text()


@pytest.mark.parametrize("prompt", ["item", "pair"])
def test_one_labelled_pair_says_which_end_is_up(causal: Path, data: Path, tmp_path: Path, prompt: str) -> None:
    rankings = []
    for better, worse in (("d1", "d3"), ("d3", "d1")):
        output = tmp_path / f"{better}.run"
        assert probe(data, causal, output, f"--prompt={prompt}", "--labelled-pair", "q1", better, worse) == 0
        docids = read_run(output)["q1"][0]
        assert docids.index(better) < docids.index(worse)
        rankings.append(docids[:5])
    assert prompt == "pair" or rankings[0] == rankings[1][::-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loss=bce"], "a probe of item prompts is fitted by ccs, ccr_margin, ccr_triplet, ccr_ordinal"),
        (["--loss=ccr_triplet", "--prompt=pair"], "a probe of pair prompts is fitted by ccs, ccr_margin"),
        (["--labelled-pair", "q1", "d1", "d7"], "expected a topic and two of its first 5 documents"),
        (["--passage-tokens=0"], "--passage-tokens must be at least 1, not 0"),
    ],
)
def test_wrong_flags_are_said_before_any_work(
    causal: Path, data: Path, tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert probe(data, causal, tmp_path / "out.run", *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.run").exists()


def test_a_dry_run_counts_the_prompts(
    causal: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags, count in ((["--loss=ccs"], 30), (["--prompt=pair"], 60), ([], 15)):
        assert probe(data, causal, tmp_path / "out.run", "--dry-run", *flags) == 0
        assert f"3 topics, 15 candidates, {count} prompts" in capsys.readouterr().out
