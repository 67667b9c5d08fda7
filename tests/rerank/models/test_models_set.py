"""Set-Encoder: equal to lightning-ir, order plays no part, lists and batches do not disturb each other."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from sparring.rerank.engine.batches import Batch
from sparring.rerank.engine.engine import Engine
from sparring.rerank.engine.shards import build_shard
from sparring.rerank.engine.token_store import TokenStore
from sparring.rerank.errors import InputError, UsageError
from sparring.rerank.models.attention import cpu_blocks as blocks
from sparring.rerank.models.attention.set_packed import SetLayout
from sparring.rerank.models.loading import load
from sparring.rerank.vocabulary import Candidates

GOLDEN = Path(__file__).parent / "golden"
KINDS = ("bert", "electra", "roberta", "xlm-roberta", "modernbert")


def topics_of(count: int = 3, size: int = 9, seed: int = 5, words: int = 25) -> list[Candidates]:
    rng = random.Random(seed)
    return [
        Candidates(
            f"q{t}",
            tiny_models.sentence(rng, 4),
            tuple(f"d{i}" for i in range(size)),
            [tiny_models.sentence(rng, rng.randint(1, words)) for _ in range(size)],
            -np.arange(size, dtype=np.float64),
        )
        for t in range(count)
    ]


def whole(topics: list[Candidates]) -> list[np.ndarray]:
    return [np.arange(len(topic), dtype=np.int32)[None] for topic in topics]


def engine(folder: Path, family: str | None = "set_encoder", **options: Any) -> Engine:
    return Engine(load(str(folder), family=family), device="cpu", dtype="float32", progress=False, **options)


def batch_of(model: Any, topics: list[Candidates], groups: list[np.ndarray]) -> Batch:
    store = TokenStore(model.tokenizer, 512)
    shard = build_shard(store, model, topics, groups, range(len(topics)))
    return shard.batch(np.arange(len(shard)))


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
    scorer = engine(saved, family=None)
    for token_budget in (1, 10_000):  # one list at a time, and lists of different lengths in one batch
        scorer.token_budget = token_budget
        (found,) = scorer([topic], [groups])
        for row, n in zip(found, sizes, strict=True):
            np.testing.assert_allclose(row[:n], golden["lists"][str(n)], atol=1e-5, rtol=0)
            assert np.isnan(row[n:]).all()
    alone = engine(saved, family="set_encoder(missing=mean)")([topic], [np.zeros((1, 1), np.int32)])
    np.testing.assert_allclose(alone[0][0], golden["one, sampled"], atol=1e-5, rtol=0)


def test_permuting_a_list_permutes_its_scores(folder: Path) -> None:
    topics = topics_of(size=12)
    rng = np.random.default_rng(0)
    scorer = engine(folder)
    before = scorer(topics, whole(topics))
    for _ in range(3):
        orders = [rng.permutation(len(topic)).astype(np.int32) for topic in topics]
        after = scorer(topics, [order[None] for order in orders])
        for order, one, other in zip(orders, before, after, strict=True):
            np.testing.assert_allclose(other[0], one[0, order], atol=1e-5, rtol=0)


def test_a_list_of_one_equals_the_pointwise_model_exactly(folder: Path) -> None:
    topics = topics_of()
    singles = [np.arange(len(topic), dtype=np.int32)[:, None] for topic in topics]
    alone = engine(folder)(topics, singles)
    pointwise = engine(folder, family=None)(topics, singles)
    np.testing.assert_array_equal(np.concatenate(alone), np.concatenate(pointwise))
    together = engine(folder)(topics, whole(topics))
    assert np.abs(together[0][0] - alone[0][:, 0]).max() > 1e-3  # the passages do see each other


def test_neighbours_in_the_batch_and_padding_change_nothing(folder: Path) -> None:
    topics = topics_of(count=4)
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


def mask_form(folder: Path, model: Any, batch: Batch) -> np.ndarray:
    """The scores by one dense mask over all tokens of the batch and transformers' own eager attention."""
    from transformers import AutoModelForSequenceClassification

    reference = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    total, count = len(batch.input_ids), len(batch.lengths)
    sequence = np.repeat(np.arange(count), batch.lengths)
    group = np.repeat(np.arange(len(batch.groups) - 1), np.diff(batch.groups))[sequence]
    interaction = np.zeros(total, bool)
    interaction[np.cumsum(batch.lengths) - batch.lengths + model.interaction] = True
    same = sequence[:, None] == sequence
    foreign = ~same & (group[:, None] == group) & interaction
    masks = {"full_attention": same | foreign}
    config = reference.config
    if config.model_type == "modernbert":
        place = batch.positions.numpy()
        near = np.abs(place[:, None] - place) <= config.local_attention // 2
        masks["sliding_attention"] = (same & near) | foreign
    bias = {
        k: torch.zeros(total, total).masked_fill(~torch.from_numpy(m), -1e30)[None, None] for k, m in masks.items()
    }
    typed = {"token_type_ids": batch.segments[None]} if config.model_type in ("bert", "electra") else {}
    with torch.inference_mode():
        hidden = reference.base_model(
            input_ids=batch.input_ids[None],
            position_ids=batch.positions[None],
            attention_mask=bias if len(bias) > 1 else bias["full_attention"],
            **typed,
        ).last_hidden_state[0]
        return model.head(hidden[batch.boundaries[:-1].long()])[:, 0].numpy()


def test_packed_form_equals_the_mask_form(folder: Path) -> None:
    topics = topics_of(count=3, size=7)
    groups = [
        np.array([[0, 1, 2, 3, 4, 5, 6], [4, 2, -1, -1, -1, -1, -1], [5, -1, -1, -1, -1, -1, -1]], np.int32)
    ] * 3
    model = load(str(folder), family="set_encoder")
    model.place(torch.device("cpu"), torch.float32)
    batch = batch_of(model, topics, groups)
    with torch.inference_mode():
        packed = model.forward(batch).numpy()
    np.testing.assert_allclose(packed, mask_form(folder, model, batch), atol=1e-5, rtol=0)
    assert np.std(packed) > 0.01


def reference_kernel(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, query_ends: Any, key_ends: Any,
    scaling: float, window: int | None, fixed_splits: bool,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """What CUDA's kernel computes, segment by segment; an empty segment gives zeros and +inf, as the kernel does."""
    out, lse = torch.zeros_like(query), torch.full(query.shape[:2], torch.inf)
    assert query_ends[0].diff().max() <= query_ends[1] and key_ends[0].diff().max() <= key_ends[1]
    for q0, q1, k0, k1 in zip(
        query_ends[0][:-1], query_ends[0][1:], key_ends[0][:-1], key_ends[0][1:], strict=True
    ):
        if k1 > k0:
            scores = torch.einsum("qhd,khd->qhk", query[q0:q1], key[k0:k1]) * scaling
            if window is not None:
                far = (torch.arange(q1 - q0)[:, None] - torch.arange(k1 - k0)).abs() >= window
                scores = scores.masked_fill(far[:, None], -torch.inf)
            lse[q0:q1] = scores.logsumexp(-1)
            out[q0:q1] = torch.einsum("qhk,khd->qhd", scores.softmax(-1), value[k0:k1])
    return out, lse


def ragged(sizes: list[int]) -> Batch:
    """Groups of so many sequences, of 3 to 39 tokens."""
    count = sum(sizes)
    lengths = np.random.default_rng(3).integers(3, 40, count)
    boundaries = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    empty = torch.zeros(int(lengths.sum()), dtype=torch.int32)
    groups = np.concatenate([[0], np.cumsum(sizes)])
    return Batch(empty, empty, empty, boundaries, lengths, groups, np.zeros(count, np.int64))


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("place", [0, 1])
def test_two_merged_calls_equal_one_over_gathered_keys(window: int | None, place: int) -> None:
    batch = ragged([4, 1, 6])
    total, boundaries = len(batch.input_ids), batch.boundaries
    torch.manual_seed(0)
    query, kv = torch.randn(total, 2, 8), torch.randn(total, 2, 2, 8)
    layout = SetLayout(batch, place)
    expected = layout.attend(query, kv, 0.3, window, False)
    merged = layout.merged(reference_kernel, query, kv, 0.3, window, False)
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=0)
    if window is None:
        first = query[boundaries[:-1].long()]
        shorter = layout.merged(reference_kernel, first, kv, 0.3, None, False, first=True)
        torch.testing.assert_close(shorter, expected[boundaries[:-1].long()], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [0.5, 40.0])  # of the queries: the larger scores leave the range of the sums
@pytest.mark.parametrize("depth", [None, 5])
@pytest.mark.parametrize("place", [0, 1])
def test_blocks_with_shared_keys_equal_gathered_keys(
    place: int, depth: int | None, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "TOKENS", 60)
    batch = ragged([4, 1, 7])
    total, boundaries = len(batch.input_ids), batch.boundaries
    torch.manual_seed(0)
    qkv = torch.randn(total, 3, 2, 8)
    qkv[:, 0] *= size
    layout = SetLayout(batch, place, depth)
    shared = layout.shared(lambda places: qkv[places, 1:])
    assert set(shared) == ({0, 2} if depth is None else {0, 1, 2})
    parts = layout.blocks(2, torch.float32)
    found = torch.cat([block.mix(qkv[block.tokens], 0.9, shared) for block in parts])
    torch.testing.assert_close(found, layout.mix(qkv, 0.9, False), atol=2e-5, rtol=1e-4)
    query = qkv[boundaries[:-1].long(), 0]
    first = [block.mix_first(query[block.sequences], qkv[block.tokens, 1:], 0.9, shared) for block in parts]
    expected = layout.mix_first(query, qkv[:, 1:], 0.9, False)
    torch.testing.assert_close(torch.cat(first), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.gpu
def test_cuda_kernel_equals_the_cpu(tmp_path: Path) -> None:
    for kind in KINDS:
        saved = tiny_models.save_classifier(tmp_path / kind, kind)
        topics = topics_of(count=4, size=30)
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
    topics = topics_of()
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
    topics = topics_of(count=1)
    scores = engine(tmp_path, None)(topics, whole(topics))
    assert np.isfinite(scores[0]).all() and np.std(scores[0]) > 0.01
    singles = [np.arange(9, dtype=np.int32)[:, None]]
    pointwise = engine(tmp_path, "webis")(topics, singles)
    np.testing.assert_array_equal(engine(tmp_path, None)(topics, singles)[0], pointwise[0])


def test_missing_documents_are_their_mean_only_where_asked(tmp_path: Path) -> None:
    saved = GOLDEN / "set_encoder-bert"  # depth 10
    topics = topics_of(size=12)
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
    topics = topics_of(count=1, size=4)
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
