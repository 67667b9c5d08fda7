"""Collections: every layout users have, random access from disk, one index each, and bad ones named by line."""

from __future__ import annotations

import gzip
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sparring.rerank.data import offset_index as offsets
from sparring.rerank.data.documents import Documents, FileDocuments, Texts
from sparring.rerank.errors import InputError, MissingResourceError, SparringError
from worlds import jsonl

pytestmark = pytest.mark.usefixtures("cache")


def corpus(tmp_path: Path, content: str | bytes, name: str = "corpus.jsonl") -> FileDocuments:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return FileDocuments(path)


SMALL = jsonl({"id": "a", "text": "one"}, {"id": "b", "title": "T", "text": "two"}, {"id": "c", "text": "three"})


# --- layouts


@pytest.mark.parametrize("key", ["id", "_id", "docid", "doc_id", "docno", "pid"])
@pytest.mark.parametrize("text", ["text", "contents", "passage"])
def test_the_keys_of_other_tools_are_known(tmp_path: Path, key: str, text: str) -> None:
    assert dict(corpus(tmp_path, jsonl({key: "x", text: "y"})).items()) == {"x": "y"}


def test_title_and_text_are_joined_by_a_space(tmp_path: Path) -> None:
    documents = corpus(tmp_path, SMALL)
    assert list(documents.items()) == [("a", "one"), ("b", "T two"), ("c", "three")]
    assert documents.text("b") == "T two"


def test_random_access_is_in_the_order_asked(tmp_path: Path) -> None:
    documents = corpus(tmp_path, SMALL)
    assert isinstance(documents, Documents)
    assert documents.get_many(["c", "a", "c"]) == ["three", "one", "three"]
    assert documents.get_many([]) == []
    assert list(documents) == ["a", "b", "c"] and len(documents) == 3
    assert "b" in documents and "B" not in documents and 7 not in documents
    assert documents.missing(["a", "z", "b", "y"]) == {"z", "y"}
    with pytest.raises(KeyError, match="z"):
        documents.get_many(["a", "z"])
    with pytest.raises(KeyError, match="z"):
        documents.text("z")


def test_gzip_plain_tsv_and_crlf_read_the_same(tmp_path: Path) -> None:
    tsv = "a\tone\nb\tT two\nc\tthree\n"
    for number, (name, content) in enumerate(
        [
            ("corpus.jsonl", SMALL.encode()),
            ("corpus.jsonl.gz", gzip.compress(SMALL.encode())),
            ("two.jsonl.gz", gzip.compress(SMALL[:20].encode()) + gzip.compress(SMALL[20:].encode())),
            ("crlf.jsonl", SMALL.replace("\n", "\r\n").encode()),
            ("bom.jsonl", b"\xef\xbb\xbf" + SMALL.encode()),
            ("open.jsonl", SMALL.rstrip("\n").encode()),
            ("blank.jsonl", ("\n" + SMALL.replace("\n", "\n\n")).encode()),
            ("collection.tsv", tsv.encode()),
            ("collection.tsv.gz", gzip.compress(tsv.encode())),
            ("header.tsv", b"id\ttext\ttitle\na\tone\t\nb\ttwo\tT\nc\tthree\t\n"),
            ("bom.tsv", b"\xef\xbb\xbf" + tsv.encode()),
        ]
    ):
        place = tmp_path / str(number)
        place.mkdir()
        documents = corpus(place, content, name)
        assert dict(documents.items()) == {"a": "one", "b": "T two", "c": "three"}, name
        assert documents.get_many(["c", "b"]) == ["three", "T two"], name


def test_the_hash_is_that_of_the_uncompressed_bytes(tmp_path: Path) -> None:
    plain = corpus(tmp_path, SMALL)
    packed = corpus(tmp_path, gzip.compress(SMALL.encode()), "other.jsonl.gz")
    assert plain.hash == packed.hash
    assert corpus(tmp_path, SMALL.replace("one", "uno"), "third.jsonl").hash != plain.hash


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1, max_size=8),
        st.text(max_size=30),
        min_size=1,
        max_size=20,
    ),
    st.booleans(),
)
def test_what_is_written_is_read(tmp_path: Path, documents: dict[str, str], packed: bool) -> None:
    content = "".join(json.dumps({"id": i, "text": t}, ensure_ascii=packed) + "\n" for i, t in documents.items())
    data = content.encode()
    read = corpus(tmp_path, gzip.compress(data) if packed else data, "p.jsonl.gz" if packed else "p.jsonl")
    assert dict(read.items()) == documents
    order = sorted(documents, reverse=True)
    assert read.get_many(order) == [documents[docid] for docid in order]


def test_ids_are_opaque(tmp_path: Path, cache: Path) -> None:
    ids = ["NA", "null", "007", '"x', "../../etc/passwd", "/abs", "<dbpedia:A_(b)>", "nan", "1e5", "é", "文"]
    documents = corpus(tmp_path, jsonl(*({"id": docid, "text": f"text of {docid}"} for docid in ids)))
    assert documents.get_many(ids) == [f"text of {docid}" for docid in ids]
    assert list(documents) == ids
    assert not (tmp_path / "etc").exists() and not (cache / "abs").exists()


def test_equal_hashes_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offsets, "id_hash", lambda docid: len(docid))
    monkeypatch.setattr("sparring.rerank.data.documents.id_hash", lambda docid: len(docid))
    documents = corpus(tmp_path, SMALL)
    assert documents.get_many(["c", "a", "b"]) == ["three", "one", "T two"]
    assert "z" not in documents


def test_documents_travel_to_other_processes(tmp_path: Path) -> None:
    documents = pickle.loads(pickle.dumps(corpus(tmp_path, SMALL)))
    assert documents.text("a") == "one"


def test_texts_are_lazy_sequences(tmp_path: Path) -> None:
    texts = Texts(corpus(tmp_path, SMALL), ("c", "b", "a"))
    assert len(texts) == 3 and texts[0] == "three" and texts[-1] == "one"
    assert texts[1:] == ["T two", "one"] and list(texts) == ["three", "T two", "one"]
    with pytest.raises(IndexError):
        texts[3]


# --- the cache


def test_a_collection_is_indexed_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus(tmp_path, SMALL)
    monkeypatch.setattr(offsets, "blocks", None)  # a second reading would fail
    assert len(FileDocuments(tmp_path / "corpus.jsonl")) == 3


def test_a_changed_file_is_indexed_anew_and_the_old_index_goes(tmp_path: Path, cache: Path) -> None:
    corpus(tmp_path, SMALL)
    assert corpus(tmp_path, SMALL + jsonl({"id": "d", "text": "four"})).text("d") == "four"
    (parent,) = (cache / "sparring" / "collections").iterdir()
    assert len([path for path in parent.iterdir() if path.is_dir()]) == 1


def test_a_failed_build_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(InputError):
        corpus(tmp_path, SMALL + "{broken\n")
    (parent,) = (cache / "sparring" / "collections").iterdir()
    assert list(parent.iterdir()) == []


def test_two_processes_do_not_collide(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text(jsonl(*({"id": f"d{i}", "text": f"text {i}"} for i in range(20000))), encoding="utf-8")
    code = (
        "import sys; from pathlib import Path; from sparring.rerank.data.documents import FileDocuments;"
        "d = FileDocuments(Path(sys.argv[1])); assert d.text('d777') == 'text 777' and len(d) == 20000"
    )
    children = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(3)]
    assert [child.wait(timeout=60) for child in children] == [0, 0, 0]


def test_a_full_disk_is_said_before_unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(offsets.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(SparringError, match=r"needs about .* GB .* are free: make room, or set XDG_CACHE_HOME"):
        corpus(tmp_path, gzip.compress(SMALL.encode()), "corpus.jsonl.gz")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(MissingResourceError, match="set XDG_CACHE_HOME"):
        corpus(tmp_path, SMALL)


# --- bad collections (faults 11-14, 20-25)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "0 documents read from"),
        ("\n \n", "0 documents read from"),
        (SMALL + "{broken\n", r"corpus.jsonl:4: not JSON: .* at column 2"),
        (SMALL + "[1]\n", r"corpus.jsonl:4: expected a JSON object .* found '\[1\]'"),
        (SMALL + '{"key": "x", "text": "y"}\n', r"corpus.jsonl:4: no id: expected one of id, .*keys found: 'key', 'text'"),
        (jsonl({"id": "x", "body_text": "y", "url": "u"}), "no record has a text: expected text, .*keys found: 'id', 'body_text', 'url'"),
        (SMALL + '{"id": 1.5, "text": "y"}\n', r"corpus.jsonl:4: id: expected a string, found 1.5"),
        (SMALL + '{"id": "", "text": "y"}\n', r"corpus.jsonl:4: id: '' cannot be written in a TREC run"),
        (SMALL + '{"id": "x y", "text": "y"}\n', r"corpus.jsonl:4: id: 'x y' cannot be written"),
        (SMALL + '{"id": "x\u00a0y", "text": "y"}\n', r"corpus.jsonl:4: id: .* cannot be written"),
        (SMALL + '{"id": "x\\u0000", "text": "y"}\n', r"corpus.jsonl:4: id: .* cannot be written"),
        (SMALL + '{"id": "a", "text": "other"}\n', r"corpus.jsonl:4: id 'a' has another text than on line 1"),
        (SMALL + "[" * 100000 + "\n", r"corpus.jsonl:4: .*(nested|not JSON)"),
    ],
)  # fmt: skip
def test_a_bad_collection_is_named_by_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        corpus(tmp_path, content)


def test_tsv_with_other_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"c.tsv:2: expected 2 fields \(id TAB text\), found 3"):
        corpus(tmp_path, "a\tone\nb\ttwo\tmore\n", "c.tsv")
    with pytest.raises(InputError, match="0 documents read from"):
        corpus(tmp_path, "id\ttext\n", "c.tsv")


def test_a_file_that_is_not_utf8_names_the_byte(tmp_path: Path) -> None:
    content = SMALL.encode() + b'{"id": "d", "text": "caf\xe9"}\n'
    with pytest.raises(
        InputError, match=rf"corpus.jsonl:4: byte 0xe9 at offset {content.index(0xE9)} is not UTF-8"
    ):
        corpus(tmp_path, content)
    path = tmp_path / "corpus.jsonl"
    assert FileDocuments(path, "latin-1").text("d") == "café"
    assert FileDocuments(path, encoding_errors="replace").text("d") == "caf\ufffd"


def test_a_truncated_gzip_says_after_which_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    data = jsonl(*({"id": str(i), "text": str(rng.integers(1 << 60))} for i in range(5000)))
    with pytest.raises(InputError, match=r"corpus.jsonl.gz: truncated after line \d+"):
        corpus(tmp_path, gzip.compress(data.encode())[:-2000], "corpus.jsonl.gz")
    with pytest.raises(InputError, match="not a gzip file"):
        corpus(tmp_path, SMALL, "corpus.jsonl.gz")
    with pytest.raises(MissingResourceError, match="absent.jsonl"):
        FileDocuments(tmp_path / "absent.jsonl")


def test_documents_without_text_are_empty_and_counted(tmp_path: Path) -> None:
    documents = corpus(tmp_path, SMALL + jsonl({"id": "d", "text": None}, {"id": "e"}, {"id": "f", "text": "  "}))
    assert documents.empty == 3
    assert documents.get_many(["d", "e"]) == ["", ""]


def test_repeated_documents_come_once(tmp_path: Path) -> None:
    documents = corpus(tmp_path, SMALL + jsonl({"id": "a", "text": "one"}) + jsonl({"id": "e", "text": "five"}))
    assert list(documents) == ["a", "b", "c", "e"] and documents.duplicates == 1
    assert documents.get_many(["e", "a"]) == ["five", "one"]


def test_lone_surrogates_and_control_characters_are_data(tmp_path: Path) -> None:
    documents = corpus(tmp_path, '{"id": "s", "text": "a\\ud800b\\u0000\\u202e"}\n')
    assert documents.text("s") == "a\ufffdb\x00\u202e"


def test_a_long_document_is_read_whole(tmp_path: Path) -> None:
    text = "word " * 2_000_000
    assert corpus(tmp_path, jsonl({"id": "a", "text": text}, {"id": "b", "text": "end"})).text("a") == text
