"""List heads, ListT5 and how lists are ranked: equal to plain re-computations, keyed by id, O(n) encoder work."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny_generators
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from sparring.rerank.errors import InputError, UsageError
from sparring.rerank.executors.open import open_scorer
from sparring.rerank.models.families.encoders.list_con_ranker import in_rounds
from sparring.rerank.models.families.language_models.listt5 import complete
from sparring.rerank.models.loading import load
from sparring.rerank.vocabulary import Candidates


def topics_of(count: int = 2, size: int = 9, seed: int = 5, words: int = 25) -> list[Candidates]:
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


def save_list_con_ranker(folder: Path, apart: bool = False) -> Path:
    """A tiny random ListConRanker: one file, or the encoder's file with the others beside it."""
    from transformers import BertConfig, BertModel

    tokenizer = tiny_models.wordpiece()
    config = BertConfig(**tiny_models.SIZES, vocab_size=len(tokenizer), max_position_embeddings=96)
    torch.manual_seed(0)
    body = BertModel(config, add_pooling_layer=False)
    tiny_models.enlarge(body)
    inner = 24
    layer = torch.nn.TransformerEncoderLayer(inner, 4, 40, batch_first=True)
    transformer = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    lists = {f"list_transformer_layer.{k}": v for k, v in layer.state_dict().items()}
    lists |= {f"list_transformer.{k}": v for k, v in transformer.state_dict().items()}
    lists |= {f"query_embedding.layerNorm.{k}": v for k, v in torch.nn.LayerNorm(inner).state_dict().items()}
    lists["query_embedding.query_embedding.weight"] = torch.randn(2, inner)
    for name, shape in (("1", (1, 2 * inner)), ("2", (inner, 2 * inner)), ("3", (inner, 2 * inner))):
        lists |= {
            f"linear_score{name}.weight": torch.randn(shape),
            f"linear_score{name}.bias": torch.randn(shape[0]),
        }
    embed = {"weight": torch.randn(inner, 32), "bias": torch.randn(inner)}
    folder.mkdir(exist_ok=True)
    state = {k: v.contiguous() for k, v in body.state_dict().items()}
    lists = {k: v.clone().contiguous() for k, v in lists.items()}
    if apart:
        save_file(state, folder / "model.safetensors")
        save_file(lists, folder / "list_transformer.safetensors")
        save_file(embed, folder / "linear_in_embedding.safetensors")
    else:
        joined = {f"hf_model.{k}": v for k, v in state.items()} | {
            f"list_transformer.{k}": v for k, v in lists.items()
        }
        save_file(joined | {f"linear_in_embedding.{k}": v for k, v in embed.items()}, folder / "model.safetensors")
    saved = json.loads(config.to_json_string(use_diff=False)) | {"architectures": ["ListConRankerModel"]}
    (folder / "config.json").write_text(json.dumps(saved))
    tokenizer.save_pretrained(folder)
    return folder


def list_con_ranker_by_hand(folder: Path, topic: Candidates) -> np.ndarray:
    """The published formulas, passage by passage, with transformers and torch's own transformer."""
    from transformers import AutoTokenizer, BertConfig, BertModel

    state = load_file(folder / "model.safetensors")
    body = BertModel(
        BertConfig(**json.loads((folder / "config.json").read_text())), add_pooling_layer=False
    ).eval()
    body.load_state_dict({k.removeprefix("hf_model."): v for k, v in state.items() if k.startswith("hf_model.")})
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        rows = [
            body(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
            for text in [topic.query, *topic.texts]
        ]
        x = torch.stack(rows) @ state["linear_in_embedding.weight"].T + state["linear_in_embedding.bias"]
        part = {k.removeprefix("list_transformer."): v for k, v in state.items()}
        tags = part["query_embedding.query_embedding.weight"][[1] + [0] * len(topic)]
        y = torch.nn.functional.layer_norm(x + tags, (24,))
        layer = torch.nn.TransformerEncoderLayer(24, 4, 40, activation="gelu", batch_first=True)
        transformer = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
        names = {
            k.removeprefix("list_transformer."): v for k, v in part.items() if k.startswith("list_transformer.")
        }
        transformer.load_state_dict(names)
        hidden = torch.zeros(len(y), len(y), dtype=torch.bool)
        hidden[0, 1:] = True
        y = transformer(y[None], mask=hidden)[0]
        scores = []
        for i in range(1, len(x)):
            one, two = (
                torch.relu(
                    part[f"linear_score{n}.weight"] @ torch.cat([z[0], z[i]]) + part[f"linear_score{n}.bias"]
                )
                for n, z in ((2, x), (3, y))
            )
            scores.append(part["linear_score1.weight"][0] @ torch.cat([one, two]) + part["linear_score1.bias"][0])
    return torch.stack(scores).numpy()


def test_list_con_ranker_equals_its_formulas(tmp_path: Path) -> None:
    folder = save_list_con_ranker(tmp_path / "one")
    model = load(str(folder), family="list_con_ranker(iterative=False)")
    scorer = open_scorer(model, device="cpu", dtype="float32", progress=False)
    topics = topics_of()
    found = scorer(topics, whole(topics))
    for topic, scores in zip(topics, found, strict=True):
        np.testing.assert_allclose(scores[0], list_con_ranker_by_hand(folder, topic), atol=1e-4, rtol=1e-5)
    apart = open_scorer(
        load(str(save_list_con_ranker(tmp_path / "apart", apart=True))), device="cpu", dtype="float32"
    )
    short = apart(topics, whole(topics))  # lists of up to 20 take one round
    np.testing.assert_allclose(short[0], 1 / (1 + np.exp(-found[0])), atol=1e-5)
    encoded = scorer.stats.sequences
    order = np.random.default_rng(0).permutation(9).astype(np.int32)
    padded = np.concatenate([[-1], order]).astype(np.int32)[None]
    again = scorer(topics, [padded, padded])
    np.testing.assert_allclose(again[0][0, 1:], found[0][0, order], atol=1e-4)
    assert np.isnan(again[0][0, 0])
    assert scorer.stats.sequences == encoded  # every text is encoded once, however many lists it is in


def test_equal_texts_keep_their_own_scores() -> None:
    """Iterative inference is keyed by position: 50 members, some with equal texts, all scored."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=50)
    logits[10:14] = logits[3]
    seen = []

    def score(left: np.ndarray) -> np.ndarray:
        seen.append(len(left))
        return logits[left]

    scores = in_rounds(score, np.arange(50))
    assert seen[0] == 50 and all(a - b >= 10 for a, b in pairwise(seen))
    assert len(set(scores[[3, 10, 11, 12, 13]])) == 1
    np.testing.assert_array_equal(np.argsort(-scores, kind="stable"), np.argsort(-logits, kind="stable"))
    assert np.isfinite(in_rounds(lambda left: np.zeros(len(left)), np.arange(30))).all()


def test_pickled_parts_are_refused(tmp_path: Path) -> None:
    folder = save_list_con_ranker(tmp_path, apart=True)
    (folder / "list_transformer.safetensors").rename(folder / "list_transformer.pt")
    with pytest.raises(InputError, match=r"no list_transformer; list_transformer.pt is pickled and refused"):
        load(str(folder))


def allrank_state(
    width: int, inner: int = 12, feed: int = 20, layers: int = 2, outputs: int = 1
) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    state = {
        "input_layer.layers.0.weight": torch.randn(inner, width) / 4,
        "input_layer.layers.0.bias": torch.randn(inner),
    }
    for i in range(layers):
        at = f"encoder.layers.{i}"
        for j in range(4):
            state[f"{at}.self_attn.linears.{j}.weight"] = torch.randn(inner, inner)
            state[f"{at}.self_attn.linears.{j}.bias"] = torch.randn(inner)
        for j, (rows, columns) in enumerate([(feed, inner), (inner, feed)], 1):
            state[f"{at}.feed_forward.w_{j}.weight"] = torch.randn(rows, columns)
            state[f"{at}.feed_forward.w_{j}.bias"] = torch.randn(rows)
        for j in range(2):
            state[f"{at}.sublayer.{j}.norm.a_2"] = torch.rand(inner)
            state[f"{at}.sublayer.{j}.norm.b_2"] = torch.randn(inner)
    state |= {"encoder.norm.a_2": torch.rand(inner), "encoder.norm.b_2": torch.randn(inner)}
    return state | {
        "output_layer.w_1.weight": torch.randn(outputs, inner),
        "output_layer.w_1.bias": torch.randn(outputs),
    }


@pytest.mark.parametrize("outputs", [1, 4])
def test_list_head_reads_every_pair_once_and_no_order(tmp_path: Path, outputs: int) -> None:
    folder = tiny_models.save_classifier(tmp_path, "electra")
    config = json.loads((folder / "config.json").read_text())
    stated = config | {"sparring_family": "list_head", "list_head": {"heads": 3}}
    (folder / "config.json").write_text(json.dumps(stated))
    with pytest.raises(InputError, match=r"no list_head\.safetensors"):
        load(str(folder))
    save_file(allrank_state(32, outputs=outputs), folder / "list_head.safetensors")
    topics = topics_of()
    scorer = open_scorer(load(str(folder)), device="cpu", dtype="float32", progress=False)
    found = scorer(topics, whole(topics))
    assert scorer.stats.sequences == 18 and np.std(found[0]) > 1e-3
    rng = np.random.default_rng(0)
    order = rng.permutation(9).astype(np.int32)
    again = scorer(topics, [order[None]] * 2)
    np.testing.assert_allclose(again[1][0], found[1][0, order], atol=1e-5)
    parts = scorer(topics, [np.array([[0, 1, 2], [2, 3, -1]], np.int32)] * 2)
    assert np.isnan(parts[0][1, 2]) and abs(parts[0][0, 2] - parts[0][1, 0]) > 1e-5  # the list matters
    assert scorer.stats.sequences == 18
    with pytest.raises(InputError, match="does not divide into 5 heads"):
        load(str(folder), family="list_head(heads=5)")


def allrank_by_hand(state: dict[str, torch.Tensor], vectors: np.ndarray, heads: int) -> np.ndarray:
    """allRank's forward pass in NumPy."""
    w = {name: value.double().numpy() for name, value in state.items()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        spread = x.std(1, ddof=1, keepdims=True) + 1e-6
        return w[f"{name}.a_2"] * (x - x.mean(1, keepdims=True)) / spread + w[f"{name}.b_2"]

    x = linear("input_layer.layers.0", vectors)
    for layer in ("encoder.layers.0", "encoder.layers.1"):
        q, k, v = (linear(f"{layer}.self_attn.linears.{i}", norm(f"{layer}.sublayer.0.norm", x)) for i in range(3))
        mixed = []
        for columns in np.split(np.arange(x.shape[1]), heads):
            scores = np.exp(q[:, columns] @ k[:, columns].T / np.sqrt(len(columns)))
            mixed.append(scores / scores.sum(1, keepdims=True) @ v[:, columns])
        x = x + linear(f"{layer}.self_attn.linears.3", np.concatenate(mixed, axis=1))
        inner = np.maximum(linear(f"{layer}.feed_forward.w_1", norm(f"{layer}.sublayer.1.norm", x)), 0)
        x = x + linear(f"{layer}.feed_forward.w_2", inner)
    return linear("output_layer.w_1", norm("encoder.norm", x))[:, 0]


def test_list_head_equals_allranks_formulas() -> None:
    from sparring.rerank.models.families.encoders.list_head import ContextHead

    state = allrank_state(16)
    head = ContextHead(16, 12, 20, 2, 3, 1)
    head.load_state_dict(state)
    vectors = np.random.default_rng(0).normal(size=(7, 16))
    found = head(torch.from_numpy(vectors).float()).detach().numpy()
    np.testing.assert_allclose(found, allrank_by_hand(state, vectors, 3), atol=1e-4)


def save_listt5(folder: Path, wrapped: bool = True) -> Path:
    """A tiny random ListT5 with the indices 1 to 5 in its vocabulary."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    saved = tiny_generators.save_t5(folder)
    whole = json.loads((saved / "tokenizer.json").read_text())
    words = [row for row in whole["model"]["vocab"] if row[0] not in [f"\u2581{i}" for i in range(10)]]
    whole["model"]["vocab"] = words[:-9] + [[f"\u2581{i}", -3.0] for i in range(1, 10)]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(whole)),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    tokenizer.save_pretrained(saved)
    state = load_file(saved / "model.safetensors")
    if wrapped:
        state = {
            f"encoder.{k.replace('.block.', '.block.', 1)}" if k.startswith("encoder.") else k: v
            for k, v in state.items()
        }
        state = {
            ".".join([*k.split(".")[:4], "module", *k.split(".")[4:]])
            if k.startswith("encoder.encoder.block")
            else k: v
            for k, v in state.items()
        }
        assert "encoder.encoder.block.0.module.layer.0.SelfAttention.q.weight" in state
    save_file(state, saved / "model.safetensors")
    return saved


def generated(folder: Path, topic: Candidates, members: list[int]) -> list[int]:
    """What transformers' own greedy search writes for a list, as indices from 0; -1 for other tokens."""
    from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration
    from transformers.modeling_outputs import BaseModelOutput

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = T5ForConditionalGeneration(T5Config(**json.loads((folder / "config.json").read_text()))).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    model.tie_weights()
    with torch.inference_mode():
        states = []
        for place, i in enumerate(members, 1):
            text = f"Query: {topic.query}, Index: {place}, Context: {topic.texts[i]}"
            states.append(model.encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0])
        joined = torch.cat(states)[None]
        out = model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=joined),
            attention_mask=torch.ones(joined.shape[:2], dtype=torch.long),
            max_new_tokens=len(members) + 2, do_sample=False, num_beams=1,
        )[0, 1:].tolist()  # fmt: skip
    out = out[: out.index(1)] if 1 in out else out
    named = {tokenizer.convert_tokens_to_ids(f"\u2581{i + 1}"): i for i in range(5)}
    return [named.get(token, -1) for token in out]


def test_listt5_decodes_as_transformers_does(tmp_path: Path) -> None:
    plain = save_listt5(tmp_path / "plain", wrapped=False)
    wrapped = save_listt5(tmp_path / "ListT5-base")
    topics = topics_of(count=3, size=7, words=12)
    free = open_scorer(load(str(plain), family="listt5(decoding=free)"), device="cpu", dtype="float32")
    groups = [np.array([[0, 1, 2, 3, 4], [6, 5, -1, 2, -1]], np.int32)] * 3
    found = free(topics, groups)
    invalid = 0
    for topic, rows, scores in zip(topics, groups, found, strict=True):
        for row, places in zip(rows, scores, strict=True):
            members = row[row >= 0].tolist()
            order, valid = complete(generated(plain, topic, members), len(members))
            invalid += not valid
            assert np.isnan(places[row < 0]).all()
            assert np.argsort(places[row >= 0]).tolist() == order
    assert free.invalid == invalid > 0  # a random model says much that is no index
    restricted = open_scorer(load(str(wrapped)), device="cpu", dtype="float32", token_budget=1)
    again = restricted(topics, groups)
    for rows, scores in zip(groups, again, strict=True):
        for row, places in zip(rows, scores, strict=True):
            assert sorted(places[row >= 0]) == list(range((row >= 0).sum()))
    assert 0 < restricted.invalid <= 6
    encoded = restricted.stats.sequences
    np.testing.assert_array_equal(np.concatenate(restricted(topics, groups)), np.concatenate(again))
    assert restricted.stats.sequences == encoded  # encoder states are kept by query, index and passage
    with pytest.raises(UsageError, match=r"at most 5, asked for 7: use --schedule 'tournament\(m=5, r=2\)'"):
        restricted(topics, whole(topics))


def test_incomplete_output_is_completed_by_the_input_order() -> None:
    assert complete([2, 0, 1], 3) == ([2, 0, 1], True)
    assert complete([2, 2, 7, -1], 4) == ([3, 1, 0, 2], False)  # the unnamed are worse, the earlier the better
    assert complete([], 3) == ([2, 1, 0], False)
    assert complete([1, 0, 0], 2) == ([1, 0], False)
