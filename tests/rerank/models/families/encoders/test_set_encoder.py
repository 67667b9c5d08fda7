"""Set-Encoder: equal to lightning-ir, order plays no part, lists and batches do not mix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from sparring.rerank.engine.engine import Engine
from sparring.rerank.errors import InputError, UsageError
from sparring.rerank.models.loading import load
from sparring.rerank.vocabulary import Candidates
from tiny_models import batch_of, tiny_topics, whole

GOLDEN = Path(__file__).parent / "golden"


KINDS = ("bert", "electra", "roberta", "xlm-roberta", "modernbert")


def engine(folder: Path, family: str | None = "set_encoder", **options: Any) -> Engine:
    return Engine(load(str(folder), family=family), device="cpu", dtype="float32", progress=False, **options)


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.save_classifier(tmp_path_factory.mktemp(request.param), request.param)


@pytest.mark.parametrize("kind", ["bert", "electra"])
def test_scores_equal_lightning_ir_on_weights_that_it_saved(kind: str) -> None:
    saved = GOLDEN / f"set_encoder-{kind}"
    golden = json.loads((saved / "golden.json").read_text())
    texts = golden["documents"]
    topic = Candidates("q", golden["query"], tuple(map(str, range(len(texts)))), texts, np.zeros(len(texts)))
    sizes = [int(n) for n in golden["lists"]]
    groups = np.full((len(sizes), max(sizes)), -1, np.int32)
    for row, n in zip(groups, sizes, strict=True):
        row[:n] = np.arange(n)
    for token_budget in (1, 10_000):  # one list at a time, and lists of different lengths in one batch
        (found,) = engine(saved, family=None, token_budget=token_budget)([topic], [groups])
        for row, n in zip(found, sizes, strict=True):
            np.testing.assert_allclose(row[:n], golden["lists"][str(n)], atol=1e-5, rtol=0)
            assert np.isnan(row[n:]).all()
    alone = engine(saved, family="set_encoder(missing=mean)")([topic], [np.zeros((1, 1), np.int32)])
    np.testing.assert_allclose(alone[0][0], golden["one, sampled"], atol=1e-5, rtol=0)


def test_permuting_a_list_permutes_its_scores(folder: Path) -> None:
    topics = tiny_topics()
    rng = np.random.default_rng(0)
    scorer = engine(folder)
    before = scorer(topics, whole(topics))
    for _ in range(3):
        orders = [rng.permutation(len(topic)).astype(np.int32) for topic in topics]
        after = scorer(topics, [order[None] for order in orders])
        for order, one, other in zip(orders, before, after, strict=True):
            np.testing.assert_allclose(other[0], one[0, order], atol=1e-5, rtol=0)


def test_a_list_of_one_equals_the_pointwise_model_exactly(folder: Path) -> None:
    topics = tiny_topics(size=9)
    singles = [np.arange(len(topic), dtype=np.int32)[:, None] for topic in topics]
    alone = engine(folder)(topics, singles)
    pointwise = engine(folder, family=None)(topics, singles)
    np.testing.assert_array_equal(np.concatenate(alone), np.concatenate(pointwise))
    together = engine(folder)(topics, whole(topics))
    assert np.abs(together[0][0] - alone[0][:, 0]).max() > 1e-3  # the passages do see each other


def test_neighbours_in_the_batch_and_padding_change_nothing(folder: Path) -> None:
    topics = tiny_topics(4, 9)
    rng = np.random.default_rng(1)
    groups = []
    for topic in topics:
        rows = np.full((3, len(topic)), -1, np.int32)
        for row in rows:
            n = rng.integers(1, len(topic) + 1)
            row[rng.permutation(len(topic))[:n]] = rng.permutation(len(topic))[:n]  # padded anywhere
        groups.append(rows)
    together = engine(folder, token_budget=100_000)(topics, groups)
    scorer = engine(folder, token_budget=1)
    for topic, rows, found in zip(topics, groups, together, strict=True):
        for row, scores in zip(rows, found, strict=True):
            members = row[row >= 0]
            (alone,) = scorer([topic], [members[None]])
            np.testing.assert_allclose(scores[row >= 0], alone[0], atol=1e-5, rtol=0)
            assert np.isnan(scores[row < 0]).all()


@pytest.mark.gpu
def test_cuda_kernel_equals_the_cpu(tmp_path: Path) -> None:
    for kind in KINDS:
        saved = tiny_models.save_classifier(tmp_path / kind, kind)
        topics = tiny_topics(4, 30)
        groups = [
            np.concatenate([rows, np.where(np.arange(30) < 1, 3, -1)[None].astype(np.int32)])
            for rows in whole(topics)
        ]
        exact = engine(saved)(topics, groups)
        model = load(str(saved), family="set_encoder")
        found = Engine(model, device="cuda", dtype="bfloat16", progress=False)(topics, groups)
        for one, other in zip(exact, found, strict=True):
            spread = np.nanstd(one)
            assert np.nanmax(np.abs(one - other)) < 0.3 * spread + 0.05


def test_monoelectra_runs_as_a_set_encoder_and_back(tmp_path: Path) -> None:
    topics = tiny_topics(size=9)
    saved = GOLDEN / "set_encoder-electra"
    singles = [np.arange(len(topic), dtype=np.int32)[:, None] for topic in topics]
    back = engine(saved, family="webis")(topics, singles)
    np.testing.assert_array_equal(np.concatenate(back), np.concatenate(engine(saved, None)(topics, singles)))
    mono = tmp_path / "mono"
    mono.mkdir()
    for path in saved.iterdir():
        (mono / path.name).write_bytes(path.read_bytes())
    config = json.loads((saved / "config.json").read_text())
    config |= {"model_type": "cross-encoder", "add_extra_token": False}
    (mono / "config.json").write_text(json.dumps(config))
    as_set, as_mono = load(str(mono), family="set_encoder"), load(str(mono))
    assert (as_set.width, as_mono.width, as_set.interaction) == (None, 1, 0)
    assert as_set.fingerprint != as_mono.fingerprint


@pytest.mark.parametrize("backbone", ["roberta", "xlm-roberta", "modernbert"])
def test_lightning_layout_on_other_backbones(tmp_path: Path, backbone: str) -> None:
    from transformers import AutoModel

    tokenizer = tiny_models.TOKENIZERS[backbone]()
    config = tiny_models.classifier_config(backbone, len(tokenizer), pad=tokenizer.pad_token_id)
    torch.manual_seed(0)
    body = AutoModel.from_config(config)
    tiny_models.enlarge(body)
    state = {n: v.contiguous() for n, v in body.state_dict().items() if not n.startswith("pooler")}
    save_file(state | {"linear.weight": torch.randn(2, 32)}, tmp_path / "model.safetensors")
    layout = {"model_type": "set-encoder", "backbone_model_type": backbone, "architectures": ["X"]}
    (tmp_path / "config.json").write_text(json.dumps(json.loads(config.to_json_string(use_diff=False)) | layout))
    tokenizer.save_pretrained(tmp_path)
    topics = tiny_topics(1, 9)
    scores = engine(tmp_path, None)(topics, whole(topics))
    assert np.isfinite(scores[0]).all() and np.std(scores[0]) > 0.01
    singles = [np.arange(9, dtype=np.int32)[:, None]]
    pointwise = engine(tmp_path, "webis")(topics, singles)
    np.testing.assert_array_equal(engine(tmp_path, None)(topics, singles)[0], pointwise[0])


def test_missing_documents_are_their_mean_only_where_asked(tmp_path: Path) -> None:
    saved = GOLDEN / "set_encoder-bert"  # depth 10
    topics = tiny_topics()
    plain = engine(saved, None)(topics, whole(topics))
    filled = engine(saved, "set_encoder(missing=mean)")(topics, whole(topics))
    np.testing.assert_array_equal(np.concatenate(plain), np.concatenate(filled))  # nothing is missing of 10
    short = [rows[:, :4] for rows in whole(topics)]
    mean = engine(saved, "set_encoder(missing=mean)")
    assert (
        np.abs(np.concatenate(engine(saved, None)(topics, short)) - np.concatenate(mean(topics, short))).max()
        > 1e-3
    )
    np.testing.assert_array_equal(np.concatenate(mean(topics, short)), np.concatenate(mean(topics, short)))
    four = engine(saved, "set_encoder(missing=mean, depth=4)")(topics, short)
    np.testing.assert_array_equal(np.concatenate(four), np.concatenate(engine(saved, None)(topics, short)))
    with pytest.raises(UsageError, match="depth counts with missing=mean only"):
        load(str(saved), family="set_encoder(depth=4)")


def test_head_for_duplicates_is_kept(tmp_path: Path) -> None:
    for path in (GOLDEN / "set_encoder-bert").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    state = load_file(tmp_path / "model.safetensors")
    repeat = {"repeat_linear.weight": torch.randn(1, 16), "repeat_linear.bias": torch.randn(1)}
    save_file(state | repeat, tmp_path / "model.safetensors")
    topics = tiny_topics(1, 4)
    model, plain = load(str(tmp_path)), load(str(GOLDEN / "set_encoder-bert"))
    for one in (model, plain):
        one.place(torch.device("cpu"), torch.float32)
    batch = batch_of(model, topics, whole(topics))
    with torch.inference_mode():
        torch.testing.assert_close(model.forward(batch), plain.forward(batch))
        expected = model.states(batch) @ repeat["repeat_linear.weight"][0] + repeat["repeat_linear.bias"]
        torch.testing.assert_close(model.duplicate_logits(batch), expected)
        with pytest.raises(UsageError, match="no head for duplicates"):
            plain.duplicate_logits(batch)


def test_what_cannot_be_a_set_encoder_is_refused(tmp_path: Path) -> None:
    deberta = tiny_models.save_classifier(tmp_path / "deberta", "deberta-v2")
    with pytest.raises(InputError, match="cannot be run as a Set-Encoder"):
        load(str(deberta), family="set_encoder")
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in (GOLDEN / "set_encoder-bert").iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    config = json.loads((broken / "config.json").read_text())
    for change, message in (
        ({"add_extra_token": True}, r"the tokenizer has no \[INT\]"),
        ({"pooling_strategy": "mean"}, "pooling_strategy 'mean'"),
        ({"backbone_model_type": "gpt2"}, "backbone_model_type is 'gpt2'"),
    ):
        (broken / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=message):
            load(str(broken))
