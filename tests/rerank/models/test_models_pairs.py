"""Pair models: equal to Hugging Face on the same ids, probabilities in the order asked, ranked end to end."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_commands import rerank, write_collection
import tiny_models
import torch
import yaml
from safetensors.torch import load_file, save_file
from sparring.rerank.data.runs import read_run
from sparring.rerank.engine.engine import Engine
from sparring.rerank.engine.token_store import TokenStore
from sparring.rerank.errors import InputError, MissingResourceError, SparringError, UsageError
from sparring.rerank.executors.open import open_scorer
from sparring.rerank.models.checkpoints import Checkpoint
from sparring.rerank.models.families.encoders import pair_rm
from sparring.rerank.models.families.language_models.causal_pair import PROMPT
from sparring.rerank.models.loading import load
from sparring.rerank.models.pair_head import PairHead
from sparring.rerank.vocabulary import Scorer
from tiny_models import tiny_topics
from tiny_generators import save_causal
from tiny_models import save_classifier

KINDS = tuple(tiny_models.TOKENIZERS)
PAIRS = np.array([(i, j) for i in range(5) for j in range(5) if i != j], np.int32)


def state_family(folder: Path, spec: str, **config: Any) -> Path:
    """Writes into the config what family a checkpoint is of."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config | {"sparring_family": spec}))
    return folder


def save_duo(folder: Path, kind: str, segments: int, labels: int = 2) -> Path:
    """A tiny random duoBERT of any architecture; three segments need a third token type."""
    from transformers import AutoModelForSequenceClassification

    save_classifier(folder, kind, labels=labels)
    if segments == 3:
        config = tiny_models.classifier_config(kind, len(tiny_models.wordpiece()), labels)
        config.type_vocab_size = 3
        torch.manual_seed(1)
        model = AutoModelForSequenceClassification.from_config(config)
        tiny_models.enlarge(model)
        model.save_pretrained(folder)
    return state_family(folder, "duo")


def logit(probability: np.ndarray) -> np.ndarray:
    return np.log(probability) - np.log1p(-probability)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("collection"))


@pytest.fixture(
    scope="module", params=[*((kind, 3) for kind in ("bert", "electra")), *((kind, 2) for kind in KINDS)], ids=str
)
def duo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind, segments = request.param
    return save_duo(tmp_path_factory.mktemp("duo") / kind, kind, segments, labels=1 + KINDS.index(kind) % 2)


def joined(tokenizer: Any, query: str, first: str, second: str, types: int) -> tuple[list[int], list[int]]:
    """Ids and types of ``[CLS] q [SEP] a [SEP] b [SEP]`` from the tokenizer's own pairs (q, a) and (a, b)."""
    left = tokenizer(query, first, return_token_type_ids=True)
    right = tokenizer(first, second, return_token_type_ids=True)
    whose = right.sequence_ids(0)
    start = len(whose) - whose[::-1].index(0)  # what follows the first text: separators, the second text, the end
    owners = left.sequence_ids(0)
    end = len(owners) - owners[::-1].index(1)
    ids = left["input_ids"][:end] + right["input_ids"][start:]
    boundary = next(i for i, owner in enumerate(owners) if owner == 1)
    between = next(i for i, owner in enumerate(whose) if owner == 1) - start
    counts = [boundary, end - boundary + between, len(right["input_ids"]) - start - between]
    return ids, [kind for index, n in enumerate(counts) for kind in [min(index, types - 1)] * n]


def test_duo_equals_hugging_face_on_the_same_ids(duo: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    topic = tiny_topics(1, 5)[0]
    engine = Engine(load(str(duo)), device="cpu", dtype="float32", token_budget=200, progress=False)
    assert engine.width == 2
    found = engine([topic], [PAIRS])[0]
    module = AutoModelForSequenceClassification.from_pretrained(duo, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(duo)
    types = max(1, getattr(module.config, "type_vocab_size", 0))
    expected = []
    for i, j in PAIRS:
        ids, kinds = joined(tokenizer, topic.query, topic.texts[i], topic.texts[j], types)
        extra = {"token_type_ids": torch.tensor([kinds])} if types > 1 else {}
        with torch.inference_mode():
            logits = module(input_ids=torch.tensor([ids]), **extra).logits[0]
        expected.append(float(logits[-1] - (logits[0] if len(logits) == 2 else 0)))
    np.testing.assert_allclose(logit(found), expected, atol=1e-5, rtol=1e-5)
    assert np.std(expected) > 0.05


def test_duo_segments_and_limits(tmp_path: Path) -> None:
    three, two = save_duo(tmp_path / "three", "bert", 3), save_duo(tmp_path / "two", "bert", 2)
    layout = [(getattr(s, "role", "-"), s.segment) for s in load(str(three)).template.slots]
    assert layout == [("-", 0), ("query", 0), ("-", 0), ("passage", 1), ("-", 1), ("passage", 2), ("-", 2)]
    assert [s.segment for s in load(str(two)).template.slots] == [0, 0, 0, 1, 1, 1, 1]
    assert [s.segment for s in load(str(three), family="duo(segments=2)").template.slots] == [0, 0, 0, 1, 1, 1, 1]
    with pytest.raises(UsageError, match="segments=3, but the checkpoint has 2 token types"):
        load(str(two), family="duo(segments=3)")
    with pytest.raises(UsageError, match="there are 1 to 3"):
        load(str(two), family="duo(segments=4)")
    limits = load(str(two), query_length=5, doc_length=9).truncation
    assert (limits.query_limit, limits.passage_limit) == (5, 9)


def test_three_token_types_mean_pairs_and_the_config_can_say_so(tmp_path: Path) -> None:
    folder = save_duo(tmp_path / "three", "electra", 3)
    config = json.loads((folder / "config.json").read_text())
    del config["sparring_family"]
    (folder / "config.json").write_text(json.dumps(config))
    assert load(str(folder)).width == 2
    state_family(folder, "sequence_classification")
    assert load(str(folder)).width == 1
    state_family(folder, "duoo")
    with pytest.raises(UsageError, match="unknown model family 'duoo' .did you mean 'duo'"):
        load(str(folder))


def save_pair_rm(folder: Path, layout: str = "hf", tasks: int = 1) -> Path:
    """A tiny random PairRM in the layout of PairRM-hf or of the original."""
    from transformers import DebertaV2Model

    tokenizer = copy.deepcopy(tiny_models.wordpiece())
    tokenizer.add_tokens(["<|source|>", "<|candidate1|>", "<|candidate2|>", "<|candidate|>"])
    ids = {f"{name}_prefix_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in MARKERS.items()}
    config = tiny_models.classifier_config("deberta-v2", len(tokenizer), positions=512)
    if layout == "original":
        config = pair_rm._config(Checkpoint("x", folder, {"model_name": TINY}, ()), len(tokenizer))
    torch.manual_seed(3)
    body = DebertaV2Model(config)
    tiny_models.enlarge(body)
    width = config.hidden_size
    state = {f"pretrained_model.{name}": value.contiguous() for name, value in body.state_dict().items()}
    state |= {"head_layer.1.weight": torch.randn(width, 2 * width) / 4, "head_layer.1.bias": torch.randn(width)}
    state |= {"head_layer.4.weight": torch.randn(tasks, width), "head_layer.4.bias": torch.randn(tasks)}
    folder.mkdir(parents=True)
    save_file(state, folder / "model.safetensors")
    content = config.to_dict() | ids | {"architectures": ["DebertaV2PairRM"], "n_tasks": tasks, "drop_out": 0.05}
    if layout == "original":
        content = {"ranker_type": "pairranker", "model_type": "deberta", "model_name": TINY, "n_tasks": tasks}
    (folder / "config.json").write_text(json.dumps(content))
    tokenizer.save_pretrained(folder)
    return folder


MARKERS = {"source": "source", "cand": "candidate", "cand1": "candidate1", "cand2": "candidate2"}
TINY = "microsoft/deberta-v3-tiny"


@pytest.mark.parametrize(("layout", "tasks"), [("hf", 1), ("hf", 3), ("original", 1)])
def test_pair_rm_equals_its_formula(
    tmp_path: Path, layout: str, tasks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import DebertaV2Model

    monkeypatch.setitem(pair_rm.SHAPES, TINY, (2, 32, 4))
    folder = save_pair_rm(tmp_path / "pairrm", layout, tasks)
    topic = tiny_topics(1, 5)[0]
    topic = replace(topic, texts=[*topic.texts[:4], "a text that spells <|candidate1|> and [SEP]"])
    model = load(str(folder))
    found = Engine(model, device="cpu", dtype="float32", token_budget=300, progress=False)([topic], [PAIRS])[0]
    state = load_file(folder / "model.safetensors")
    body = DebertaV2Model(model.body.config).eval()
    body.load_state_dict({k.removeprefix("pretrained_model."): v for k, v in state.items() if "pretrained" in k})
    tokenizer = model.tokenizer
    plain = TokenStore(tokenizer, 999)

    def piece(marker: str, text: str) -> list[int]:
        entry = plain.entries([text])[0]
        ids = plain.flat[plain.starts[entry] : plain.starts[entry] + plain.lengths[entry]].tolist()
        return [2, tokenizer.convert_tokens_to_ids(f"<|{marker}|>"), *ids, 3]

    expected = []
    for i, j in PAIRS:
        pieces = [
            piece(marker, text)
            for marker, text in (
                ("source", topic.query), ("candidate1", topic.texts[i]), ("candidate2", topic.texts[j])
            )
        ]  # fmt: skip
        starts = np.cumsum([0, *map(len, pieces)])[:3] + 1
        with torch.inference_mode():
            states = body(torch.tensor([[token for part in pieces for token in part]])).last_hidden_state[
                0, starts
            ]
        left, right = (
            torch.tanh(
                torch.cat([states[0], states[k]]) @ state["head_layer.1.weight"].T + state["head_layer.1.bias"]
            )
            @ state["head_layer.4.weight"].T
            for k in (1, 2)
        )
        expected.append(float((left - right).mean()))
    np.testing.assert_allclose(logit(found), expected, atol=1e-5, rtol=1e-5)
    assert np.std(expected) > 0.05


def test_pair_rm_budgets_and_special_tokens(tmp_path: Path) -> None:
    model = load(str(save_pair_rm(tmp_path / "m")), max_length=100, source_length=60, instruction="find rivers")
    assert model.template.slots[1].render("q") == "find rivers\nq"
    cut = model.truncation.fit(model.template.overhead, np.array([300, 10]), np.array([[300, 300], [300, 5]]))
    assert cut[0].tolist() == [55, 10]  # the passages keep two fifths, as 2 x 412 of 2048
    assert cut[1].tolist() == [[18, 18], [76, 5]]  # what query and shorter passage leave goes to the longer one
    whole = load(str(tmp_path / "m")).truncation.fit(9, np.array([5000, 1221]), np.full((2, 2), 5000))
    assert (
        whole[0].tolist() == [1221, 1221] and whole[1].tolist() == [[409, 409]] * 2
    )  # 1224 and 412 with specials


def test_pair_rm_with_other_weights_is_refused(tmp_path: Path) -> None:
    folder = save_pair_rm(tmp_path / "m")
    state = load_file(folder / "model.safetensors")
    inner = "pretrained_model.encoder.layer.0.output.dense.weight"
    for change, message in (
        ({"head_layer.1.weight": None}, "this is no PairRM"),
        ({inner: None}, r"missing \['pretrained_model.encoder.layer.0"),
        ({"surplus": torch.ones(1)}, r"unknown \['surplus'\]"),
        ({inner: torch.ones(3, 3)}, "weights do not fit the config"),
    ):
        kept = {k: v for k, v in (state | change).items() if v is not None}
        save_file(kept, folder / "model.safetensors")
        with pytest.raises(InputError, match=message):
            load(str(folder))


CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("chat", [True, False])
def test_a_chat_model_is_asked_a_or_b(tmp_path: Path, chat: bool) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = save_causal(tmp_path / "chat", "llama")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if chat:
        tokenizer.chat_template = CHAT
        tokenizer.save_pretrained(folder)
    topic = tiny_topics(1, 5)[0]
    model = load(str(folder), family="causal_pair", max_length=1000)
    engine = Engine(model, device="cpu", dtype="float32", token_budget=2000, progress=False)
    found = engine([topic], [PAIRS])[0]
    module = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    answers = ["A", "B"] if chat else [" A", " B"]
    ids = [tokenizer(answer, add_special_tokens=False)["input_ids"][0] for answer in answers]
    expected = []
    for i, j in PAIRS:
        prompt = PROMPT.format(query=topic.query, a=topic.texts[i], b=topic.texts[j])
        turn = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"
        whole = turn if chat else prompt + "\n\nAnswer:"
        with torch.inference_mode():
            logits = module(**tokenizer(whole, add_special_tokens=False, return_tensors="pt")).logits[0, -1, ids]
        expected.append(float(logits[0] - logits[1]))
    np.testing.assert_allclose(logit(found), expected, atol=1e-5, rtol=1e-5)
    assert engine.stats.computed < 0.8 * engine.stats.tokens  # question and query are read once


def test_prompts_and_answers_of_ones_own(tmp_path: Path) -> None:
    folder = save_causal(tmp_path / "chat")
    spec = "causal_pair(prompt='{a} or {b} for {query}?', first=yes, second=no, chat=False)"
    assert load(str(folder), family=spec).width == 2
    with pytest.raises(UsageError, match="must hold {query}, {a}, {b}, each once"):
        load(str(folder), family="causal_pair(prompt='{a} or {a} for {query}?')")
    with pytest.raises(UsageError, match="' undecided' is not a single token"):
        load(str(folder), family="causal_pair", first="undecided")
    with pytest.raises(InputError, match="has no answers to choose from"):
        load(str(save_causal(tmp_path / "cls", labels=1)), family="causal_pair")
    with pytest.raises(InputError, match="expected a decoder with one or two"):
        load(str(save_classifier(tmp_path / "bert", "bert") / "."), family="causal_pair")


def save_late_pair(folder: Path, kind: str = "electra", rank: int = 3) -> Path:
    """A tiny random encoder with a pair head."""
    from transformers import AutoModel

    tokenizer = tiny_models.TOKENIZERS[kind]()
    config = tiny_models.classifier_config(kind, len(tokenizer), pad=tokenizer.pad_token_id)
    torch.manual_seed(5)
    body = AutoModel.from_config(config)
    tiny_models.enlarge(body)
    body.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    head = PairHead(config.hidden_size, width=6, rank=rank)
    tiny_models.enlarge(head, 3.0)
    head.save(folder)
    return state_family(folder, "late_pair")


@pytest.mark.parametrize("kind", ["electra", "bert", "xlm-roberta", "modernbert"])
def test_late_pair_equals_its_formula_on_the_encoders_states(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModel, AutoTokenizer

    folder = save_late_pair(tmp_path / kind, kind)
    topic = tiny_topics(1, 5)[0]
    found = open_scorer(load(str(folder)), device="cpu", dtype="float32", token_budget=60)([topic], [PAIRS])[0]
    body = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    encoded = AutoTokenizer.from_pretrained(folder)(
        [topic.query] * 5, list(topic.texts), padding=True, return_tensors="pt"
    )
    weights = {
        name: tensor.double().numpy() for name, tensor in load_file(folder / "pair_head.safetensors").items()
    }
    with torch.inference_mode():
        states = body(**encoded).last_hidden_state[:, 0].double().numpy()
    z = np.tanh(states @ weights["dense.weight"].T + weights["dense.bias"])
    left, right = z @ weights["left.weight"].T, z @ weights["right.weight"].T
    utility = (z @ weights["utility.weight"].T)[:, 0]
    expected = [utility[i] - utility[j] + left[i] @ right[j] - right[i] @ left[j] for i, j in PAIRS]
    np.testing.assert_allclose(logit(found), expected, atol=1e-5)
    head = PairHead.load(folder, states.shape[1])
    with torch.inference_mode():
        table = head(torch.from_numpy(states).float()).numpy()
    np.testing.assert_allclose(table[PAIRS[:, 0], PAIRS[:, 1]], expected, atol=1e-5)
    assert (table == -table.T).all() and np.std(expected) > 0.05


def test_late_pair_is_antisymmetric_and_encodes_each_candidate_once(tmp_path: Path) -> None:
    model = load(str(save_late_pair(tmp_path / "m")))
    scorer = open_scorer(model, device="cpu", dtype="float32")
    assert isinstance(scorer, Scorer) and scorer.width == 2
    topics = tiny_topics(3, 5)
    heard: list[tuple[int, int, float]] = []
    outcomes = scorer(
        topics, [PAIRS, PAIRS[:0], PAIRS[:3]], lambda t, r, o: heard.extend(zip(t, r, o, strict=True))
    )
    table = np.full((5, 5), 0.5)
    table[PAIRS[:, 0], PAIRS[:, 1]] = outcomes[0]
    np.testing.assert_allclose(table + table.T, 1, atol=1e-15)
    assert [len(o) for o in outcomes] == [20, 0, 3] and len(heard) == 23
    assert all(outcomes[t][r] == o for t, r, o in heard)
    stats = scorer.stats
    assert (stats.groups, stats.sequences) == (23, 5 + len(np.unique(PAIRS[:3])))
    scorer(topics, [PAIRS[::-1]] * 3)
    assert (stats.groups, stats.sequences) == (83, 15)
    known = [np.full(20, np.nan), np.full(20, np.nan), np.full(20, 0.25)]
    assert (scorer(topics, [PAIRS] * 3, known=known)[2] == 0.25).all()


def test_late_pair_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    model = load(str(save_late_pair(tmp_path / "m", "bert")))
    topics, groups = tiny_topics(2, 5), [PAIRS, PAIRS]
    alone, together = (
        np.concatenate(open_scorer(model, device="cpu", dtype="float32", token_budget=budget)(topics, groups))
        for budget in (1, 5000)
    )
    np.testing.assert_allclose(alone, together, atol=1e-6)


def test_late_pair_vectors_that_say_nothing_stop_the_run(tmp_path: Path) -> None:
    folder = save_late_pair(tmp_path / "m")
    head = PairHead(32, 6, 3)
    torch.nn.init.zeros_(head.dense.weight)
    head.save(folder)
    with pytest.raises(SparringError, match="20 passages have the same vector"):
        open_scorer(load(str(folder)), device="cpu", dtype="float32")(tiny_topics(4, 5), [PAIRS] * 4)


def test_late_pair_says_what_is_wrong(tmp_path: Path) -> None:
    folder = save_late_pair(tmp_path / "m")
    topic = tiny_topics(1, 5)[0]
    scorer = open_scorer(load(str(folder)), device="cpu", dtype="float32")
    for rows, message in ((PAIRS[:, :1], "groups of 2"), (PAIRS + 1, "outside its 5 candidates")):
        with pytest.raises(UsageError, match=message):
            scorer([topic], [rows])
    before = load(str(folder)).fingerprint
    PairHead(32, 6, 3).save(folder)
    assert load(str(folder)).fingerprint != before
    PairHead(16, 6, 3).save(folder)
    with pytest.raises(InputError, match="not the head of a late pair model of width 32"):
        load(str(folder))
    (folder / "pair_head.safetensors").unlink()
    with pytest.raises(MissingResourceError, match=r"holds no pair_head\.safetensors"):
        load(str(folder))
    with pytest.raises(InputError, match="'deberta-v2' is no encoder of this family"):
        load(str(save_classifier(tmp_path / "deberta", "deberta-v2")), family="late_pair")


@pytest.mark.parametrize("save", [save_duo, save_late_pair], ids=["duo", "late_pair"])
@pytest.mark.parametrize("order", ["random", "both"])
def test_rerank_with_a_pair_model_from_the_command_line(
    collection: Path,
    tmp_path: Path,
    order: str,
    save: Any,
) -> None:
    model = save(tmp_path / "pairs", "electra", 3)
    flags = ("--schedule", "random(rate=0.2)", "--aggregator", "bradley_terry", "--order", order)
    for output in (tmp_path / "a.run", tmp_path / "b.run"):
        assert rerank(collection, model, output, *flags, "--tag", "duo") == 0
    assert (tmp_path / "a.run").read_bytes() == (tmp_path / "b.run").read_bytes()
    before, after = read_run(collection / "first.run"), read_run(tmp_path / "a.run")
    assert all(sorted(before[q][0]) == sorted(after[q][0]) for q in before.topics())
    assert any(list(before[q][0]) != list(after[q][0]) for q in before.topics())
    method = yaml.safe_load((tmp_path / "a.run.meta.yaml").read_text())["method"]
    per_topic = round(0.2 * 12 * 11)
    assert method["comparisons"] == 4 * per_topic if order == "random" else method["comparisons"] > 4 * per_topic


def test_compare_writes_what_a_pair_model_said(collection: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    model = save_duo(tmp_path / "duo", "bert", 3)
    output = tmp_path / "p.parquet"
    assert rerank(collection, model, output, "--schedule", "all", "--depth", "5", command="compare") == 0
    table = pq.read_table(output).to_pylist()
    assert len(table) == 4 * 20 and len({(r["qid"], r["first"], r["second"]) for r in table}) == 80
    assert all(0 < r["probability"] < 1 for r in table)


def test_a_pair_model_cannot_score_one_by_one(
    collection: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = save_duo(tmp_path / "duo", "bert", 3)
    assert rerank(collection, model, tmp_path / "o.run", "--schedule", "pointwise") == 2
    assert "the model compares pairs: choose a schedule of pairs" in capsys.readouterr().err
