"""Assembly from ids: equal to the tokenizer's own joint encoding, fair when cut, and fast."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring.rerank.engine.batches import build_sequences, gather, plan
from sparring.rerank.engine.templates import Constant, Template, Text, Truncation, pair_template
from sparring.rerank.engine.token_store import TokenStore

STRANGE = [
    "",
    "   ",
    "\t\n",
    "nul \x00 byte",
    "שלום עולם",
    "emoji 🙂🙂",
    "caf\u00e9 nai\u0308ve",
    "x" * 300,
    "a.b,c;d",
]
TOKENIZERS = {
    "wordpiece": tiny_models.wordpiece,
    "unigram": tiny_models.unigram,
    "byte_bpe": tiny_models.byte_bpe,
    "modernbert": lambda: tiny_models.byte_bpe("modernbert"),
}


def assemble(store: TokenStore, template: Template, truncation: Truncation, query: str, passages: list[str]):
    entries = store.entries([query]), store.entries(passages)
    sequences = build_sequences(
        store, template, truncation, entries[0], entries[1][None, :], np.zeros(1, np.int64)
    )
    return gather(store, template, sequences, np.arange(1)), sequences


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_assembly_equals_the_joint_encoding(kind: str) -> None:
    tokenizer = TOKENIZERS[kind]()
    template = pair_template(tokenizer, segments=True)
    store = TokenStore(tokenizer, 64)
    rng = random.Random(3)
    passages = [tiny_models.sentence(rng, rng.randint(1, 60)) for _ in range(60)] + STRANGE
    for passage in passages:
        query = tiny_models.sentence(rng, rng.randint(1, 8))
        batch, _ = assemble(store, template, Truncation(64), query, [passage])
        joint = tokenizer([query], [passage], truncation="only_second", max_length=64, return_token_type_ids=True)
        assert batch.input_ids.tolist() == joint["input_ids"][0]
        assert batch.segments.tolist() == joint["token_type_ids"][0]
        assert batch.positions.tolist() == list(range(len(joint["input_ids"][0])))


def test_text_that_spells_special_tokens_stays_text() -> None:
    tokenizer = tiny_models.wordpiece()
    store = TokenStore(tokenizer, 64)
    store.entries(["ranking [SEP] ranking [CLS]"])
    assert not {tokenizer.sep_token_id, tokenizer.cls_token_id} & set(store.flat.tolist())


def test_a_text_is_tokenised_once_and_long_texts_are_cut_first(monkeypatch: pytest.MonkeyPatch) -> None:
    given = tiny_models.tokenised(monkeypatch)
    store = TokenStore(tiny_models.wordpiece(), 32)
    first = store.entries(["a river", "a mountain", "a river"])
    assert first[0] == first[2] and len(store) == 2
    assert store.entries(["a river"])[0] == first[0]
    assert given == {"a river": 1, "a mountain": 1}
    size = len(store.flat)
    long = store.entries(["river " * 2_000_000])  # 12 MB
    assert store.lengths[long[0]] == 32 and store.cut[long[0]] and len(store.flat) == size + 32


def test_long_words_still_fill_the_limit() -> None:
    tokenizer = tiny_models.byte_bpe()
    text = " ".join(f"{'river' * 12}" for _ in range(30)) + " " * 5000 + "mountain " * 50
    store = TokenStore(tokenizer, 120)
    entry = store.entries([text])[0]
    expected = tokenizer(text, add_special_tokens=False)["input_ids"][:120]
    assert store.flat[store.starts[entry] :][:120].tolist() == expected


def test_lone_surrogates_are_replaced() -> None:
    store = TokenStore(tiny_models.byte_bpe(), 32)
    broken, fine = store.entries(["river \ud800 bank", "river \ufffd bank"])
    ids = [store.flat[store.starts[entry] :][: store.lengths[entry]].tolist() for entry in (broken, fine)]
    assert ids[0] == ids[1] != []


@settings(deadline=None, max_examples=200)
@given(
    maximum=st.integers(16, 64),
    query=st.integers(0, 100),
    passages=st.lists(st.integers(0, 100), min_size=1, max_size=2),
)
def test_cuts_fit_keep_the_query_and_are_fair(maximum: int, query: int, passages: list[int]) -> None:
    overhead, truncation = 4, Truncation(maximum)
    room = maximum - overhead
    kept, shares = truncation.fit(overhead, np.array([query]), np.array([passages]))
    total, wanted = int(kept[0] + shares[0].sum()), query + sum(passages)
    assert total <= room and (shares[0] <= passages).all()
    if wanted <= room:
        assert total == wanted
    else:
        assert total >= room - 1  # an odd token is given to neither passage
    if sum(passages) >= room * truncation.passage_share:
        assert shares.sum() >= int(room * truncation.passage_share) - 1
    if kept[0] < query:
        assert shares.sum() <= int(room * truncation.passage_share)
    if len(passages) == 2:
        _, swapped = truncation.fit(overhead, np.array([query]), np.array([passages[::-1]]))
        assert swapped[0].tolist() == shares[0].tolist()[::-1]


def test_a_pair_template_with_constants_of_its_own() -> None:
    tokenizer = tiny_models.byte_bpe("none")
    text = "<|im_start|>judge<|im_end|>"
    frame = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    template = Template(
        (
            Constant(frame),
            Text("query", prefix=" "),
            Text("passage", 0, 1),
            Text("passage", 1, 2),
            Constant((2,), 2),
        )
    )
    store = TokenStore(tokenizer, 40)
    query = store.entries([" rivers"])
    passages = store.entries(["mountain", "ocean market"])
    sequences = build_sequences(
        store,
        template,
        Truncation(40),
        np.repeat(query, 2),
        np.stack([passages, passages[::-1]]),
        np.arange(2, dtype=np.int64),
    )
    batch = gather(store, template, sequences, np.arange(2), first_position=2)
    ids = [tokenizer(t, add_special_tokens=False)["input_ids"] for t in (" rivers", "mountain", "ocean market")]
    expected = [*frame, *ids[0], *ids[1], *ids[2], 2, *frame, *ids[0], *ids[2], *ids[1], 2]
    assert batch.input_ids.tolist() == expected
    length = len(expected) // 2
    assert batch.positions.tolist() == [*range(2, length + 2)] * 2
    assert batch.boundaries.tolist() == [0, length, 2 * length] and batch.groups.tolist() == [0, 1, 2]


@settings(deadline=None, max_examples=100)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=60),
    budget=st.integers(1, 120),
    padded=st.booleans(),
)
def test_plans_cover_every_group_once_within_budget(lengths: list[int], budget: int, padded: bool) -> None:
    tokens = np.array(lengths, np.int64)
    batches = list(plan(tokens, tokens, np.ones_like(tokens), budget, padded))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        cost = tokens[batch].max() * len(batch) if padded else tokens[batch].sum()
        assert len(batch) == 1 or cost <= budget


def test_padded_rows_hold_the_same_tokens() -> None:
    tokenizer = tiny_models.wordpiece()
    store, template = TokenStore(tokenizer, 64), pair_template(tokenizer, True)
    query, passages = store.entries(["river"] * 3), store.entries(["ocean", "mountain coffee bread", ""])
    sequences = build_sequences(
        store, template, Truncation(64), query, passages[:, None], np.arange(3, dtype=np.int64)
    )
    batch = gather(store, template, sequences, np.arange(3))
    for side in ("left", "right"):
        rows = batch.padded(0, side)
        assert rows.input_ids[rows.mask].tolist() == batch.input_ids.tolist()
        assert rows.mask.sum(1).tolist() == batch.lengths.tolist()
        assert bool(rows.mask[:, -1 if side == "left" else 0].all())


def test_assembly_is_fast() -> None:
    """At least 100,000 sequences a second on one idle core; a quarter of that is asked of a busy machine."""
    tokenizer = tiny_models.wordpiece()
    store, template = TokenStore(tokenizer, 128), pair_template(tokenizer, True)
    rng = random.Random(0)
    passages = store.entries([tiny_models.sentence(rng, 20) for _ in range(500)])
    count = 20_000
    chosen = np.random.default_rng(0).choice(passages, (count, 1))
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        sequences = build_sequences(
            store, template, Truncation(128), np.repeat(store.entries(["river"]), count), chosen,
            np.arange(count, dtype=np.int64),
        )  # fmt: skip
        for begin in range(0, count, 500):
            gather(store, template, sequences, np.arange(begin, begin + 500))
        best = min(best, time.perf_counter() - start)
    assert count / best > 25_000
