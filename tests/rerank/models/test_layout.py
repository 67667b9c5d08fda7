"""A folder is what all of its configs say together: over all combinations the right family, or an error."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sparring.rerank.errors import InputError, SparringError
from sparring.rerank.models.checkpoints import find
from sparring.rerank.models.layout import Kind, read_layout
from sparring.rerank.models.loading import load
from tiny_models import save_classifier
from tiny_modular import HIDDEN, save, set_json, tail

ST = "sentence_transformers"
BODY = (f"{ST}.base.modules.transformer.Transformer", "")
POOL = (f"{ST}.sentence_transformer.modules.pooling.Pooling", "1_Pooling")
DENSE = (f"{ST}.base.modules.dense.Dense", "2_Dense")
NORM = (f"{ST}.sentence_transformer.modules.layer_norm.LayerNorm", "3_LayerNorm")
LAST = (f"{ST}.base.modules.dense.Dense", "4_Dense")
MODULES: dict[str, list[tuple[str, str]] | None] = {
    "none": None,
    "alone": [BODY],
    "head": [BODY, POOL, DENSE, NORM, LAST],
    "logits": [BODY, (f"{ST}.cross_encoder.modules.logit_score.LogitScore", "1_LogitScore")],
    "vector": [("sentence_transformers.models.Transformer", ""), ("sentence_transformers.models.Pooling", "1_Pooling")],
    "splade": [BODY, (f"{ST}.sparse_encoder.modules.splade_pooling.SpladePooling", "1_SpladePooling")],
    "csr": [BODY, POOL, (f"{ST}.sparse_encoder.modules.sparse_auto_encoder.SparseAutoEncoder", "2_Sparse")],
    "pylate": [BODY, ("pylate.models.Dense.Dense", "1_Dense")],
    "late": [BODY, DENSE, (f"{ST}.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask", "3_Mask")],
    "router": [(f"{ST}.base.modules.router.Router", "")],
    "own": [("custom_st.Transformer", ""), POOL],
    "static": [(f"{ST}.sentence_transformer.modules.static_embedding.StaticEmbedding", "0_StaticEmbedding")],
}  # fmt: skip
SETTINGS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "old": {"__version__": {"sentence_transformers": "2.7.0"}, "prompts": {}},
    "cross": {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity"},
    "bi": {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"},
    "sparse": {"model_type": "SparseEncoder", "similarity_fn_name": "dot"},
    "multi": {"model_type": "MultiVectorEncoder", "similarity_fn_name": "MaxSim"},
    "colbert": {"model_type": "ColBERT"},
}
CONFIGS: dict[str, dict[str, Any] | None] = {
    "body": {"architectures": ["BertModel"]},
    "classifier": {"architectures": ["BertForSequenceClassification"]},
    "masked": {"architectures": ["BertForMaskedLM"]},
    "hf_colbert": {"architectures": ["HF_ColBERT"]},
    "images": {"architectures": ["BertModel"], "vision_config": {"hidden_size": 32}},
    "stated": {"architectures": ["BertForSequenceClassification"], "sparring_family": "set_encoder"},
    "poly": {"architectures": ["BertModel"], "sparring_family": "poly_encoder"},
    "absent": None,
}


def right(modules: str, settings: str, config: str) -> str | None:
    """The one family that may run a folder; None: it must be refused."""
    if modules == settings == "none":
        return {"classifier": "SequenceClassifier", "stated": "SetEncoder"}.get(config)
    plain = config in ("body", "classifier", "masked")
    if (modules, settings) == ("head", "cross") and plain:
        return "ModularEncoder"
    if modules == "alone" and settings == "cross" and config == "classifier":
        return "SequenceClassifier"
    if modules == "vector" and settings in ("none", "old", "bi") and plain:
        return "BiEncoder"
    return None


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights for every module; the body's are those of a classifier, which load without its head too."""
    from sentence_transformers.sentence_transformer.modules import Pooling

    folder = tmp_path_factory.mktemp("layout")
    body = save_classifier(folder / "classifier", "bert")
    model = save(folder, body, [Pooling(HIDDEN, "cls"), *tail()])
    shutil.copy(body / "model.safetensors", model / "model.safetensors")
    return model


def arrange(source: Path, folder: Path, modules: str, settings: str, config: str) -> Path:
    """A folder of these configs, its weights linked."""
    shutil.copytree(source, folder, copy_function=lambda a, b: Path(b).symlink_to(a), dirs_exist_ok=True)
    for name in ("modules.json", "config_sentence_transformers.json", "config.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    listed, said, body = MODULES[modules], SETTINGS[settings], CONFIGS[config]
    if listed is not None:
        entries = [{"idx": i, "name": str(i), "type": kind, "path": path} for i, (kind, path) in enumerate(listed)]
        (folder / "modules.json").write_text(json.dumps(entries))
        task = {"alone": "sequence-classification", "logits": "text-generation", "splade": "fill-mask"}
        set_json(folder / "sentence_bert_config.json", transformer_task=task.get(modules, "feature-extraction"))
    if said is not None:
        (folder / "config_sentence_transformers.json").write_text(json.dumps(said))
    if body is not None:
        known = json.loads((source / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(known | body))
    return folder


@pytest.mark.parametrize("modules", MODULES)
def test_over_all_combinations_a_folder_is_the_right_family_or_refused(
    source: Path, tmp_path: Path, modules: str
) -> None:
    for settings, config in itertools.product(SETTINGS, CONFIGS):
        folder = arrange(source, tmp_path / f"{settings}-{config}", modules, settings, config)
        expected = right(modules, settings, config)
        try:
            found: str | None = type(load(str(folder))).__name__
        except SparringError as error:
            found = None
            assert "\n" not in str(error) and len(str(error)) < 1000
        assert found == expected, (modules, settings, config)


@pytest.mark.parametrize(
    ("modules", "settings", "kind", "words"),
    [
        ("head", "cross", Kind.CROSS_ENCODER, r"a CrossEncoder .*Pooling, Dense, LayerNorm, Dense"),
        ("head", "none", Kind.OTHER, "give scores, but config_sentence_transformers.json does not call it"),
        ("logits", "bi", Kind.OTHER, "give scores"),
        ("vector", "old", Kind.BI_ENCODER, "a bi-encoder"),
        ("splade", "bi", Kind.SPARSE, "a SparseEncoder .*SpladePooling"),
        ("csr", "sparse", Kind.SPARSE, "a SparseEncoder .*SparseAutoEncoder"),
        ("vector", "sparse", Kind.SPARSE, "a SparseEncoder"),
        ("pylate", "colbert", Kind.MULTI_VECTOR, "multi-vector model .ColBERT"),
        ("late", "multi", Kind.MULTI_VECTOR, "multi-vector model"),
        ("vector", "multi", Kind.MULTI_VECTOR, "multi-vector model"),
        ("router", "cross", Kind.ROUTER, "a CrossEncoder .*Router"),
        ("router", "sparse", Kind.ROUTER, "a SparseEncoder .*Router"),
        ("own", "bi", Kind.OTHER, r"remote code .custom_st\.Transformer"),
        ("static", "bi", Kind.OTHER, "does not begin with one Transformer"),
        ("none", "cross", Kind.OTHER, "a CrossEncoder .*without its modules.json"),
    ],
)
def test_a_layout_says_what_it_is(
    source: Path, tmp_path: Path, modules: str, settings: str, kind: Kind, words: str
) -> None:
    import re

    layout = read_layout(arrange(source, tmp_path / "m", modules, settings, "body"))
    assert layout.kind is kind and re.search(words, layout.what)


def test_damaged_configs_are_errors_with_their_path(source: Path, tmp_path: Path) -> None:
    folder = arrange(source, tmp_path / "m", "head", "cross", "body")
    for content, words in (
        ("{", "modules.json: not valid JSON"),
        ("{}", "expected a list of modules, found dict"),
        ("[]", "expected a list of modules"),
        ('[{"path": ""}]', "a module has no type"),
        (json.dumps([{"type": BODY[0], "path": "../elsewhere"}]), "outside the model's"),
        (json.dumps([{"type": BODY[0], "path": "/etc"}]), "outside the model's"),
    ):
        (folder / "modules.json").write_text(content)
        with pytest.raises(InputError, match=words):
            find(str(folder))


def test_the_transformer_may_lie_in_a_folder_of_its_own(source: Path, tmp_path: Path) -> None:
    folder = arrange(source, tmp_path / "m", "head", "cross", "body")
    inner = folder / "0_Transformer"
    inner.mkdir()
    for path in [
        *folder.glob("*.safetensors"),
        *folder.glob("*token*"),
        folder / "vocab.txt",
        folder / "config.json",
    ]:
        if path.exists():
            path.rename(inner / path.name)
    (folder / "sentence_bert_config.json").rename(inner / "sentence_bert_config.json")
    entries = json.loads((folder / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    (folder / "modules.json").write_text(json.dumps(entries))
    found = find(str(folder))
    assert found.body == inner and found.weights == (inner / "model.safetensors",)
    assert type(load(str(folder))).__name__ == "ModularEncoder"
