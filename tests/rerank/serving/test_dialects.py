"""Request formats: what is asked and answered in each, and what is said of requests that are wrong."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring.rerank.serving.dialects import Refused, parse
from sparring.rerank.serving.server import Server
from tiny_server import DOCUMENTS, QUERY, ask


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_cohere_dialect(server: Server, path: str) -> None:
    body = {"model": "any", "query": QUERY, "documents": DOCUMENTS, "top_n": 3, "return_documents": True}
    status, answer = ask(server, body, path)
    assert status == 200
    assert [r["index"] for r in answer["results"]] == [2, 0, 1]
    assert [r["relevance_score"] for r in answer["results"]] == pytest.approx(
        [sigmoid(x) for x in (2.5, 1.5, -0.5)]
    )
    assert answer["results"][0]["document"] == {"text": DOCUMENTS[2]}
    assert answer["model"] == "overlap" and answer["id"]
    assert answer["meta"]["api_version"] == {"version": "2" if "v2" in path else "1"}
    assert answer["meta"]["billed_units"] == {"search_units": 1}


def test_voyage_names_objects_and_raw_scores(server: Server) -> None:
    documents = [{"text": "bread"}, {"title": "winter", "text": "rivers bread", "year": 1900}]
    status, answer = ask(server, {"query": QUERY, "documents": documents, "top_k": 1, "raw_scores": True})
    assert status == 200
    assert answer["results"] == [{"index": 1, "relevance_score": 1.5}]
    body = {"query": QUERY, "documents": documents[1:], "rank_fields": ["title", "text"], "return_documents": True}
    (result,) = ask(server, body | {"raw_scores": True})[1]["results"]
    assert result == {"index": 0, "relevance_score": 2.5, "document": documents[1]}


def test_tei_dialect(server: Server) -> None:
    body = {"query": QUERY, "texts": DOCUMENTS[:2], "raw_scores": True, "return_text": True}
    status, answer = ask(server, body)
    assert status == 200
    assert answer == [
        {"index": 0, "score": 1.5, "text": "winter bread"},
        {"index": 1, "score": -0.5, "text": "prime numbers"},
    ]
    status, answer = ask(server, {"query": QUERY, "texts": ["poison"]})
    assert status == 500 and set(answer) == {"error", "error_type"}


def test_ties_keep_the_order_of_the_request_and_the_unscored_stand_last(server: Server) -> None:
    body = {"query": QUERY, "documents": ["nan", "b", "winter", "a"]}
    answer = ask(server, body)[1]
    assert [r["index"] for r in answer["results"]] == [2, 1, 3, 0]
    assert answer["results"][-1]["relevance_score"] == 0.0
    assert answer["meta"]["warnings"] == ["documents[0] could not be scored"]


@pytest.mark.parametrize(
    "body,status,message",
    [
        (b"{", 400, "not valid JSON"),
        (b"\xff\xfe{}", 400, "JSON"),
        (b"[" * 100_000, 400, "nested"),
        (b'{"top_n": ' + b"9" * 5000 + b"}", 400, "JSON"),
        ([], 422, "object"),
        ({}, 422, "query: missing"),
        ({"query": None, "documents": ["a"]}, 422, "query: expected a string, found null"),
        ({"query": 3, "documents": ["a"]}, 422, "query: expected a string, found a number"),
        ({"query": " ", "documents": ["a"]}, 422, "must not be empty"),
        ({"query": "q"}, 422, "documents: missing"),
        ({"query": "q", "documents": "a"}, 422, "documents: expected an array, found a string"),
        ({"query": "q", "documents": []}, 422, "at least one"),
        ({"query": "q", "documents": ["a", None]}, 422, "documents[1]"),
        ({"query": "q", "documents": [{"body": "a"}]}, 422, "fields found: body"),
        ({"query": "q", "documents": [{"text": None}]}, 422, "documents[0]"),
        ({"query": "q", "documents": [["a"]]}, 422, "found an array"),
        ({"query": "q", "texts": [{"text": "a"}]}, 422, "texts[0]: expected a string"),
        ({"query": "q", "texts": ["a"], "documents": ["a"]}, 422, "not both"),
        ({"query": "q", "documents": ["a"], "top_n": 0}, 422, "top_n"),
        ({"query": "q", "documents": ["a"], "top_n": True}, 422, "top_n"),
        ({"query": "q", "documents": ["a"], "top_n": "3"}, 422, "top_n"),
        ({"query": "q", "documents": ["a"], "top_n": 1, "top_k": 2}, 422, "contradict"),
        ({"query": "q", "documents": ["a"], "return_documents": "yes"}, 422, "true or false"),
        ({"query": "q", "documents": ["a"], "rank_fields": [1]}, 422, "rank_fields"),
        ({"query": "q", "documents": ["a"] * 10_000}, 413, "10000 documents; at most 1000"),
    ],
    ids=lambda value: str(value)[:30] if isinstance(value, dict | bytes | list) else None,
)
def test_what_is_wrong_with_a_request_is_said(server: Server, body: Any, status: int, message: str) -> None:
    found, answer = ask(server, body)
    assert found == status
    text = answer.get("message") or answer.get("error")
    assert message in text
    assert ask(server, None, "/health", method="GET")[0] == 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


FIELDS = ["query", "documents", "texts", "top_n", "top_k", "return_documents", "rank_fields", "raw_scores",
          "max_tokens_per_doc", "truncate_prompt_tokens", "truncate"]  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(FIELDS), json_values) | json_values, st.binary(max_size=8))
def test_no_body_breaks_the_parser(content: Any, noise: bytes) -> None:
    for body in (json.dumps(content).encode(), noise):
        try:
            request = parse(body, 10)
        except Refused as refused:
            assert refused.status in (400, 413, 422)
        else:
            assert len(request.texts) == len(request.documents) and all(isinstance(t, str) for t in request.texts)
