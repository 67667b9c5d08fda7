"""What is taken from inside ir_datasets is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from relied_on import relied_on
from sparring.rerank.data.irds import IrdsDocuments
from sparring.rerank.errors import InputError

ADAPTER = "rerank/data/irds.py"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    import ir_datasets
    from ir_datasets.formats import TsvDocs
    from ir_datasets.util import LocalDownload

    monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path / "irds"))
    (tmp_path / "docs.tsv").write_text("d1\tone\nd2\ttwo\nd3\tthree\n")
    return ir_datasets.Dataset(TsvDocs(LocalDownload(tmp_path / "docs.tsv"), namespace="tiny"))


def test_a_collection_without_a_hint_is_counted_once_it_is_stored(tiny: object) -> None:
    from ir_datasets.indices import PickleLz4FullStore

    with relied_on("ir_datasets", ADAPTER):
        store = tiny.docs_store()  # type: ignore[attr-defined]
        assert isinstance(store, PickleLz4FullStore)
        assert tiny.docs_count() is None  # type: ignore[attr-defined]
        assert len(IrdsDocuments("tiny", tiny)) == 3
        assert tiny.docs_count() == 3  # type: ignore[attr-defined]


def test_records_name_their_fields(tiny: object) -> None:
    with relied_on("ir_datasets", ADAPTER):
        assert next(iter(tiny.docs_iter()))._fields == ("doc_id", "text")  # type: ignore[attr-defined]
        assert IrdsDocuments("tiny", tiny, "text").text("d2") == "two"
    with pytest.raises(InputError, match="documents have no field 'body'; found: doc_id, text"):
        IrdsDocuments("tiny", tiny, "body")


def test_ids_can_be_listed() -> None:
    with relied_on("ir_datasets", ADAPTER):
        import ir_datasets

        assert "vaswani" in list(ir_datasets.registry)
