"""`sparring train` of bi-encoders and poly-encoders: what the losses cost, and what is saved and resumed."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sparring.rerank.cli import main
from sparring.rerank.errors import UsageError
from sparring.train.data.mixture import Example, Mixture, sources
from sparring.train.losses import losses
from sparring.train.retrievers.data import ColumnCollator, EncodedCollator, as_dataset
from sparring.train.retrievers.losses import Encoded, parse
from tiny_models import save_bi_encoder, save_classifier, sentence
from tiny_training import log_of
from torch import Tensor

LABELS = [[3.0, 0.0, 1.0], [0.0, 2.0, 0.0], [0.5, 1.0, 0.0]]
MASK = [[True, True, True], [True, True, True], [True, True, False]]


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six queries of two words; documents that repeat more of them have higher grades."""
    folder = tmp_path_factory.mktemp("collection")
    rng = random.Random(0)
    queries, documents, qrels, run = [], [], [], []
    for number in range(6):
        words = sentence(rng, 2)
        queries.append(f"q{number}\t{words}")
        for place in range(8):
            docid, grade = f"d{number}-{place}", place % 4
            text = " ".join([words] * grade + [sentence(rng, rng.randint(3, 12))])
            documents.append(json.dumps({"id": docid, "text": text}))
            qrels.append(f"q{number} 0 {docid} {grade}")
            run.append(f"q{number} Q0 {docid} {place + 1} {50 - place} first")
    for name, rows in (("queries.tsv", queries), ("corpus.jsonl", documents), ("qrels.txt", qrels)):
        (folder / name).write_text("\n".join(rows) + "\n")
    (folder / "first.run").write_text("\n".join(run) + "\n")
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bi_encoder(tmp_path_factory.mktemp("start"), prompts=True)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARRING_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def arguments(collection: Path, start: Path, output: Path, *more: str) -> list[str]:
    """A training of four steps, measured and saved every second one; ``more`` replaces flags."""
    flags = [
        "--kind=bi-encoder", f"--model-name-or-path={start}", f"--output-dir={output}", "--list-size=5",
        "--per-device-train-batch-size=3", "--max-steps=4", "--eval-steps=2", "--save-steps=2", "--logging-steps=1",
        "--max-length=32", f"--dev-run={collection}/first.run", f"--dev-dataset={collection}", "--dev-holdout=3",
        "--device=cpu", "--dtype=float32", "--learning-rate=1e-3", "--warmup-ratio=0",
    ]  # fmt: skip
    replaced = {flag.partition("=")[0] for flag in more}
    kept = [flag for flag in flags if flag.partition("=")[0] not in replaced]
    return ["train", *kept, *more, "--data", f"judged(dataset='{collection}', holdout=3)"]


# ---------------------------------------------------------------------------------------------------------- losses


def encoded(seed: int = 0, scale: float = 1.0) -> Encoded:
    """Three lists of three random unit vectors, the last one padded; query 1 may not use list 2."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(3, 4, 6, generator=generator, dtype=torch.float64)
    vectors = vectors / vectors.norm(dim=2, keepdim=True)
    mask = torch.tensor(MASK)
    others = mask[None].repeat(3, 1, 1)
    others[range(3), range(3)] = False
    others[1, 2] = False
    documents = vectors[:, 1:] * mask[:, :, None]
    labels = torch.tensor(LABELS, dtype=torch.float64)
    return Encoded(vectors[:, 0], documents, labels, mask, others, lambda a, b: a @ b.T, scale)


def by_hand(e: Encoded, positive: Callable[[int, int], bool], negative: Callable[[int, int], bool]) -> Any:
    """(s(q,p), [s(q,p-)], [s(p,p-)]) of every positive of every list, by loops."""
    rows = []
    for q in range(3):
        found = []
        for i in range(3):
            if MASK[q][i] and positive(q, i):
                against = [e.documents[q, j] for j in range(3) if MASK[q][j] and negative(q, j)]
                against += [e.documents[o, j] for o in range(3) for j in range(3) if e.others[q, o, j]]
                own = float(e.queries[q] @ e.documents[q, i])
                found.append((own, [float(e.queries[q] @ d) for d in against],
                              [float(e.documents[q, i] @ d) for d in against]))  # fmt: skip
        rows.append(found)
    return rows


def cost(own: float, against: list[float]) -> float:
    return -np.log(np.exp(own) / (np.exp(own) + np.exp(against).sum()))


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
def test_pair_is_its_formula(alpha: float) -> None:
    e = encoded()
    rows = by_hand(e, lambda q, i: LABELS[q][i] >= 1, lambda q, j: LABELS[q][j] < 1)
    terms = [np.mean([(1 - alpha) * cost(s, q) + alpha * cost(s, p) for s, q, p in row]) for row in rows]
    assert float(parse(f"pair(alpha={alpha})")(e)) == pytest.approx(np.mean(terms), abs=1e-6)  # type: ignore[operator]


def test_pair_leaves_out_what_lies_between() -> None:
    e = encoded()
    rows = by_hand(e, lambda q, i: LABELS[q][i] >= 1, lambda q, j: LABELS[q][j] <= 0)
    expected = np.mean([np.mean([0.9 * cost(s, q) + 0.1 * cost(s, p) for s, q, p in row]) for row in rows])
    assert float(parse("pair(negative=0)")(e)) == pytest.approx(expected, abs=1e-6)  # type: ignore[operator]


@pytest.mark.parametrize(("weight", "delta"), [(1.0, 5), (3.0, 1), (0.0, 5), (1.0, 0)])
def test_pair_distill_is_its_formula(weight: float, delta: int) -> None:
    """CE over the batch + KL of lists + λ KL([p, 1-p] || softmax(s_i, s_j)); the list of two is a pair alone."""
    e = encoded()
    best = [0, 1]
    rows = by_hand(e, lambda q, i: q < 2 and i == best[q], lambda q, j: q < 2 and j != best[q])
    contrast = np.mean([cost(s, against) for row in rows for s, against, _ in row])
    own = np.einsum("qd,qnd->qn", e.queries.numpy(), e.documents.numpy())
    point, pairs = [], []
    for q in range(3):
        size = sum(MASK[q])
        s, y = own[q][:size], np.array(LABELS[q][:size])
        if size > 2:
            teacher, student = (np.exp(v) / np.exp(v).sum() for v in (y, s))
            point.append((teacher * np.log(teacher / student)).sum())
        place = np.argsort(np.argsort(-y, kind="stable"), kind="stable")
        terms = []
        for i in range(size):
            for j in range(i + 1, size):
                if size == 2 or abs(place[i] - place[j]) <= delta:
                    p, r = (1 / (1 + np.exp(-(v[i] - v[j]))) for v in (y, s))
                    terms.append(p * np.log(p / r) + (1 - p) * np.log((1 - p) / (1 - r)))
        pairs += [np.mean(terms)] if terms else []
    expected = contrast + np.mean(point) + weight * np.mean(pairs)
    found = parse(f"pair_distill(weight={weight}, delta={delta})")(e)  # type: ignore[operator]
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_losses_over_lists_see_own_candidates_or_the_batch() -> None:
    e = encoded(scale=20.0)
    own = 20 * torch.einsum("qd,qnd->qn", e.queries, e.documents)
    assert float(parse("kl")(e)) == pytest.approx(float(losses.parse("kl")(own, e.labels, e.mask)))  # type: ignore[operator]
    rows = by_hand(e, lambda q, i: LABELS[q][i] >= 1, lambda q, j: True)
    expected = np.mean(
        [np.mean([-np.log(np.exp(20 * s) / np.exp(20 * np.array(a)).sum()) for s, a, _ in r]) for r in rows]
    )
    assert float(parse("in_batch(infonce)")(e)) == pytest.approx(expected)  # type: ignore[operator]
    for name in ("nce", "multi_similarity(margin=0.1)", "circle(sigmoid=False)"):
        assert torch.isfinite(parse(f"in_batch({name}, scale=1)")(e))  # type: ignore[operator]


@pytest.mark.parametrize(
    "spec", ["kl", "in_batch(infonce)", "pair", "pair_distill", "in_batch(multi_similarity, scale=1)"]
)
def test_padding_costs_nothing(spec: str) -> None:
    e, loss = encoded(scale=5.0), parse(spec)
    wider = replace(
        e,
        documents=torch.nn.functional.pad(e.documents, (0, 0, 0, 2)),
        labels=torch.nn.functional.pad(e.labels, (0, 2), value=9.0),
        mask=torch.nn.functional.pad(e.mask, (0, 2)),
        others=torch.nn.functional.pad(e.others, (0, 2)),
    )
    assert float(loss(wider)) == pytest.approx(float(loss(e)), abs=1e-9)  # type: ignore[operator]


def test_unknown_losses_name_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'pair_distill'"):
        parse("pair_distil")
    with pytest.raises(UsageError, match="loss must be one over lists"):
        parse("in_batch(pair)")


# ------------------------------------------------------------------------------------------------------------ data


def test_data_are_a_function_of_position(collection: Path) -> None:
    def mixture() -> Mixture:
        return Mixture([sources.parse(f"judged(dataset='{collection}')")], 4, seed=3, total=30)

    dataset, again = as_dataset(mixture()), mixture()
    for position in (29, 0, 11):
        assert dataset[position]["example"].docids == again[position].docids
    assert [row.qid for row in dataset[[5, 6]]["example"]] == [again[5].qid, again[6].qid]


class Columns:
    """Stands for the library's collator: hands the rows through."""

    valid_label_columns = ("label",)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {name: [row[name] for row in rows] for name in rows[0]}


def example(query: str, texts: str, labels: list[float]) -> dict[str, Example]:
    return {"example": Example(query, query, tuple(texts), tuple(texts), np.array(labels, np.float32))}


def test_columns_have_the_best_first_and_are_equally_wide() -> None:
    rows = [example("x", "abc", [0, 2, 1]), example("y", "de", [1, 0]), example("z", "fg", [1, 1])]
    labelled = ColumnCollator(Columns(), 4, True)(rows)
    assert [labelled[f"document_{i}"] for i in range(1, 5)] == [list("bdf"), list("ceg"), list("aeg"), list("ceg")]
    assert labelled["label"][0] == [2, 1, 0, 1]
    bare = ColumnCollator(Columns(), 3, False)(rows)
    assert [bare[f"document_{i}"] for i in range(1, 4)] == [list("bdf"), list("cef"), list("aef")]
    assert "label" not in bare


def test_known_candidates_are_no_negatives_of_another_list() -> None:
    rows = [example("x", "abc", [2, 1, 0]), example("y", "ad", [1, 0]), example("x", "ef", [1, 0])]
    batch = EncodedCollator(Columns())(rows)
    others = batch["document_others"]
    assert batch["document"] == list("abcadef") and batch["document_mask"].sum() == 7
    assert others[0].tolist() == [
        [False] * 3,
        [False, True, False],
        [False] * 3,
    ]  # a is known, the third asks the same
    assert others[1].tolist() == [[False, True, True], [False] * 3, [True, True, False]]


# -------------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def trained(collection: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "model"
    assert main(arguments(collection, start, output, "--loss=kl")) == 0
    return output


def test_retrievers_are_measured_before_and_during_training(trained: Path) -> None:
    assert [int(row["step"]) for row in log_of(trained) if row["value"]] == [0, 2, 4]
    assert all(float(row["constant_loss"]) > 0 for row in log_of(trained) if row["loss"])
    assert int(log_of(trained)[-1]["pairs"]) == 4 * 3 * 5
    card = (trained / "README.md").read_text()
    assert "judged(" in card and "nDCG@10" in card and "SentenceTransformer(" in card


def test_saved_retriever_gives_the_same_vectors_everywhere(trained: Path, start: Path) -> None:
    from safetensors.torch import load_file
    from sentence_transformers import SentenceTransformer
    from sparring.rerank.models.loading import load
    from sparring.rerank.search.bi_encoder import BiEncoder

    texts = [sentence(random.Random(i), 3 + 4 * i) for i in range(5)]
    plain = SentenceTransformer(str(trained / "checkpoints/checkpoint-4"), device="cpu")
    assert plain.prompts == SentenceTransformer(str(start), device="cpu").prompts
    assert any(
        not torch.equal(value, load_file(start / "model.safetensors")[name])
        for name, value in load_file(trained / "checkpoints/checkpoint-4/model.safetensors").items()
    )
    expected = plain.encode_document(texts, normalize_embeddings=True)
    folder = str(trained / "checkpoints/checkpoint-4")
    np.testing.assert_allclose(BiEncoder(folder, device="cpu").documents(texts), expected, atol=1e-5)
    scorer = load(folder).scorer(device="cpu", dtype="float32")  # type: ignore[attr-defined]
    np.testing.assert_allclose(scorer.encode(texts), plain.encode_document(texts), atol=1e-5)
    SentenceTransformer(str(trained), device="cpu")


LOSSES = [
    "in_batch(infonce)", "in_batch(multi_similarity, scale=1)", "in_batch(nce)", "pair", "pair_distill",
    "MultipleNegativesRankingLoss", "CachedMultipleNegativesRankingLoss(mini_batch_size=4)", "MarginMSELoss",
    "DistillKLDivLoss",
]  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES)
def test_training_lowers_every_loss(collection: Path, start: Path, loss: str) -> None:
    """Twelve steps on one batch, through the library's collator and features."""
    from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
    from sparring.train.retrievers.model import BiEncoderKind, Retriever
    from sparring.train.retrievers.training import Objective, RetrieverTrainer

    retriever, component = Retriever(str(start), BiEncoderKind(), 32, 0.0), parse(loss)
    columns = SentenceTransformerDataCollator(retriever.model.preprocess)
    if hasattr(component, "module"):
        collator: Any = ColumnCollator(columns, 4, component.labelled)
        module = component.module(retriever.model)
    else:
        collator, module = EncodedCollator(columns), Objective(retriever, component, 100, False)
    mixture = Mixture([sources.parse(f"judged(dataset='{collection}')")], 4, seed=0, total=4)
    features, labels = RetrieverTrainer.collect_features(
        None, collator([{"example": mixture[p]} for p in range(4)])
    )
    optimizer = torch.optim.AdamW(module.train().parameters(), lr=1e-3)
    values = []
    for _ in range(12):
        value = module([dict(part) for part in features], labels)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert values[-1] < 0.9 * values[0]


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_trained_by_the_command(collection: Path, start: Path, tmp_path: Path, loss: str) -> None:
    assert main(arguments(collection, start, tmp_path / "model", f"--loss={loss}")) == 0
    assert len([row for row in log_of(tmp_path / "model") if row["loss"]]) == 4


@pytest.mark.slow
def test_two_processes_train_one_retriever(collection: Path, start: Path, tmp_path: Path) -> None:
    """The lists of a step may be spread over processes: the same losses and measurements, up to rounding."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29672"]
    flags = ["--dropout=0", "--loss=kl", "--per-device-train-batch-size=1"]
    command = [*launcher, "-m", "sparring.rerank.cli", *arguments(collection, start, tmp_path / "two", *flags)]
    subprocess.run(command, check=True, timeout=100)
    flags[2] = "--per-device-train-batch-size=2"
    assert main(arguments(collection, start, tmp_path / "one", *flags)) == 0
    one, two = log_of(tmp_path / "one"), log_of(tmp_path / "two")
    for name in ("loss", "constant_loss", "value"):
        np.testing.assert_allclose(*([float(row[name] or 0) for row in rows] for rows in (one, two)), atol=1e-4)


def test_poly_encoder_is_trained_and_reranks(collection: Path, start: Path, tmp_path: Path) -> None:
    output = tmp_path / "poly"
    flags = [
        "--kind=poly-encoder(codes=5)",
        "--loss=in_batch(infonce)",
        "--max-steps=8",
        "--head-learning-rate=0.01",
    ]
    assert main(arguments(collection, start, output, *flags)) == 0
    values = [float(row["loss"]) for row in log_of(output) if row["loss"]]
    assert values[-1] < values[0]
    best = json.loads((output / "best.json").read_text())
    rerank = ["rerank", f"--run={collection}/first.run", f"--dataset={collection}", f"--model={output}"]
    assert main([*rerank, f"--output={tmp_path}/out.run", "--device=cpu", "--dtype=float32"]) == 0
    from sparring.eval.measures.qrels import read_qrels
    from sparring.rerank.data.runs import read_run
    from sparring.train.loop.development import Development

    development = Development.read(collection / "first.run", str(collection), None, 100, "nDCG@10", 3)
    assert len(read_qrels(collection / "qrels.txt").grades) == 6
    ranked = read_run(tmp_path / "out.run")
    scores = [dict(zip(*ranked[topic.qid], strict=True)) for topic in development.topics]
    flat = np.array([s[d] for s, topic in zip(scores, development.topics, strict=True) for d in topic.docids])
    assert development.value(flat) == pytest.approx(best["value"])


def test_poly_encoders_refuse_losses_that_compare_vectors(
    collection: Path, start: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for loss in ("pair", "MultipleNegativesRankingLoss"):
        assert main(arguments(collection, start, tmp_path / "no", "--kind=poly-encoder", f"--loss={loss}")) == 2
        assert "a poly-encoder has none of its query" in capsys.readouterr().err
        assert not (tmp_path / "no").exists()


def test_resumed_training_sees_the_same_data(trained: Path, collection: Path, start: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file

    output = tmp_path / "model"
    assert main(arguments(collection, start, output, "--loss=kl")) == 0
    shutil.rmtree(output / "checkpoints/checkpoint-4")  # as if it had been killed after step 2
    assert main(arguments(collection, start, output, "--loss=kl", "--resume")) == 0
    for name, weights in load_file(trained / "checkpoints/checkpoint-4/model.safetensors").items():
        found = load_file(output / "checkpoints/checkpoint-4/model.safetensors")[name]
        torch.testing.assert_close(found, weights, rtol=0, atol=1e-6)
    rows = [[(row["step"], row["loss"][:6], row["value"][:6]) for row in log_of(f)] for f in (output, trained)]
    assert rows[0] == rows[1]


def test_plain_encoders_become_retrievers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from sentence_transformers import SentenceTransformer
    from sparring.train.retrievers.model import BiEncoderKind, Retriever

    retriever = Retriever(str(save_classifier(tmp_path / "plain", "bert")), BiEncoderKind(), 32, 0.3)
    assert "mean pooling" in caplog.text and retriever.body[0].auto_model.config.hidden_dropout_prob == 0.3
    retriever.save(tmp_path / "model")
    model = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert type(model[1]).__name__ == "Pooling" and model.max_seq_length == 32
    np.testing.assert_allclose(model.encode(["river"]), retriever.body.encode(["river"]), atol=1e-6)


def test_gradient_caching_changes_no_gradient(start: Path) -> None:
    from sparring.train.retrievers.model import VECTOR, BiEncoderKind, Retriever, embed

    texts = [sentence(random.Random(i), 3 + 4 * i) for i in range(6)]
    found: list[Tensor] = []
    for caching in (False, True):
        model = Retriever(str(start), BiEncoderKind(), 32, 0.2).model.train()
        torch.manual_seed(3)
        vectors = embed(model, model.preprocess(texts), VECTOR, 50, caching)
        (vectors**3).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-6)
