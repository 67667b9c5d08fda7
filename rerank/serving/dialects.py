"""Rerank requests: the union of Cohere, Jina, Voyage, vLLM and TEI, answered in the caller's dialect.

A body with ``texts`` is TEI's; one with ``documents`` is everybody else's. Fields that nobody here understands are
ignored, as other servers do; a field of the wrong type is refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..data.records import clean

DOCUMENTS_PER_UNIT = 100
"""Cohere's search unit: one query with up to so many documents."""


class Refused(Exception):
    """A request that is not answered: an HTTP status and a message for the caller."""

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.retry_after = status, message, retry_after


@dataclass(frozen=True, slots=True)
class Request:
    """A checked request.

    Args:
        texts: what is scored, one per document, in the order of the request.
        documents: what was sent, to be returned as it came.
        top: results wanted; all where None.
        raw: scores as the model gives them, instead of their sigmoid.
        tokens_per_document, tokens_per_prompt: limits the caller set.
        truncate: False refuses inputs that the model would cut.
        instruction: what to judge by.
    """

    dialect: Literal["cohere", "tei"]
    query: str
    texts: tuple[str, ...]
    documents: tuple[Any, ...]
    top: int | None = None
    return_documents: bool = False
    raw: bool = False
    tokens_per_document: int | None = None
    tokens_per_prompt: int | None = None
    truncate: bool = True
    instruction: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """Scores of all documents of a request, (n,), NaN where one could not be scored, and the tokens they took."""

    scores: NDArray[np.float64]
    tokens: int


def parse(body: bytes, max_documents: int) -> Request:
    """Reads a request; raises Refused with 400 (no JSON), 413 (too many documents) or 422 (wrong content)."""
    try:
        content = json.loads(body)
    except RecursionError:
        raise Refused(400, "the body is nested too deeply") from None
    except ValueError as error:
        raise Refused(400, f"the body is not valid JSON: {error}") from None
    if not isinstance(content, dict):
        raise Refused(422, f"the body must be a JSON object, not {_kind(content)}")
    if "texts" in content and "documents" in content:
        raise Refused(422, "give documents or texts, not both")
    tei = "texts" in content
    key = "texts" if tei else "documents"
    query = _field(content, "query", str, required=True)
    if not query.strip():
        raise Refused(422, "query: must not be empty")
    documents = _field(content, key, list, required=True)
    if not documents:
        raise Refused(422, f"{key}: must hold at least one document")
    if len(documents) > max_documents:
        raise Refused(413, f"{key}: {len(documents)} documents; at most {max_documents} fit into one request")
    fields = _words(content, "rank_fields")
    texts = tuple(_text(document, f"{key}[{i}]", fields, tei) for i, document in enumerate(documents))
    tops = {count for name in ("top_n", "top_k") if (count := _count(content, name)) is not None}
    if len(tops) > 1:
        raise Refused(422, "top_n and top_k contradict each other: give one")
    prompt = None if content.get("truncate_prompt_tokens") == -1 else _count(content, "truncate_prompt_tokens")
    return Request(
        dialect="tei" if tei else "cohere",
        query=clean(query),
        texts=texts,
        documents=tuple(documents),
        top=next(iter(tops), None),
        return_documents=bool(_field(content, "return_text" if tei else "return_documents", bool)),
        raw=bool(_field(content, "raw_scores", bool)),
        tokens_per_document=_count(content, "max_tokens_per_doc"),
        tokens_per_prompt=prompt,
        truncate=_field(content, "truncate", bool) is not False,
        instruction=clean(said) if (said := _field(content, "instruction", str)) else None,
    )


def response(request: Request, answer: Answer, model: str, number: str, version: str) -> Any:
    """The JSON answer in the dialect of the request: best first, documents without a score last, with 0."""
    lost = np.isnan(answer.scores)
    from scipy.special import expit  # here, so that the service is light to import

    shown = answer.scores if request.raw else expit(answer.scores)
    order = np.lexsort((np.arange(len(lost)), -np.where(lost, 0.0, answer.scores), lost))[: request.top]
    values = [(int(i), 0.0 if lost[i] else float(shown[i])) for i in order]
    if request.dialect == "tei":
        texts = request.documents if request.return_documents else None
        return [{"index": i, "score": s} | ({"text": texts[i]} if texts else {}) for i, s in values]
    results: list[dict[str, Any]] = [{"index": i, "relevance_score": score} for i, score in values]
    if request.return_documents:
        for result in results:
            sent = request.documents[result["index"]]
            result["document"] = {"text": sent} if isinstance(sent, str) else sent
    units = -(-len(request.texts) // DOCUMENTS_PER_UNIT)
    meta: dict[str, Any] = {"api_version": {"version": version}, "billed_units": {"search_units": units}}
    if lost.any():
        meta["warnings"] = [f"documents[{i}] could not be scored" for i in np.flatnonzero(lost).tolist()]
    usage = {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens}
    return {"id": number, "model": model, "results": results, "usage": usage, "meta": meta}


def refusal(refused: Refused, number: str, dialect: str = "cohere") -> dict[str, Any]:
    """The JSON body of an error, as Cohere writes it; TEI's callers get TEI's fields."""
    if dialect == "tei":
        kinds = {413: "Validation", 422: "Validation", 400: "Validation", 429: "Overloaded", 503: "Unhealthy"}
        return {"error": refused.message, "error_type": kinds.get(refused.status, "Backend")}
    return {"id": number, "message": refused.message}


def _field(content: Mapping[str, Any], name: str, kind: type, required: bool = False) -> Any:
    value = content.get(name)
    if value is None and not required:
        return None
    if name not in content:
        raise Refused(422, f"{name}: missing")
    if not isinstance(value, kind):
        raise Refused(422, f"{name}: expected {_NAMES[kind]}, found {_kind(value)}")
    return value


def _count(content: Mapping[str, Any], name: str) -> int | None:
    value = content.get(name)
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise Refused(422, f"{name}: expected a whole number of at least 1, found {json.dumps(value)[:40]}")
    return value


def _words(content: Mapping[str, Any], name: str) -> Sequence[str] | None:
    value = _field(content, name, list)
    if value is not None and (not value or not all(isinstance(word, str) for word in value)):
        raise Refused(422, f"{name}: expected an array of strings")
    return value


def _text(document: Any, where: str, fields: Sequence[str] | None, tei: bool) -> str:
    if isinstance(document, str):
        return clean(document)
    if tei or not isinstance(document, dict):
        wanted = "a string" if tei else 'a string or an object with "text"'
        raise Refused(422, f"{where}: expected {wanted}, found {_kind(document)}")
    names = fields or ("text",)
    absent = [name for name in names if name not in document]
    if len(absent) == len(names):
        raise Refused(422, f"{where}: lacks {', '.join(absent)}; fields found: {', '.join(document) or 'none'}")
    values = [document[name] for name in names if name in document]
    wrong = next((value for value in values if value is None or isinstance(value, dict | list)), "")
    if wrong != "":
        raise Refused(422, f"{where}: expected text, found {_kind(wrong)}")
    return clean("\n".join(clean(value) for value in values))


_NAMES = {str: "a string", list: "an array", bool: "true or false"}


def _kind(value: object) -> str:
    if value is None:
        return "null"
    kinds = {bool: "a boolean", dict: "an object", int: "a number", float: "a number"} | _NAMES
    return kinds[type(value)] if type(value) in kinds else type(value).__name__
