"""How each kind of causal reranker is asked: the pieces of its input, its answers, and its names on the hub.

A name decides only where it was given as one of the hub. Of a folder the contents decide, as far as they can: a
conversion of Qwen3-Reranker without its chat template has the same files as any chat model.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...checkpoints import Checkpoint

OWN_CHAT = "{chat}"
"""In place of a piece: the checkpoint's own chat template, the query as system's turn, the document as user's."""
BOS = "{bos}"
"""In place of a piece: the tokenizer's beginning-of-sequence token."""


@dataclass(frozen=True, slots=True)
class Format:
    """How a family of checkpoints is asked.

    Args:
        pieces: tokenised apart; {query}, {a} and, where there is one, {instruction} stand for the texts.
        answers: the tokens that score, as words or ids: the first alone, or less the second.
        instruction: the default; None where the format has none.
        told: how an instruction stands in the pieces, where it needs words of its own; nothing without one.
        bos: begin with the beginning-of-sequence token.
        joined: the publisher tokenises the whole string at once, special tokens added as the tokenizer does.
        strip: the texts lose the white space around them.
        mark: what only a chat template (or a file of code) of such a checkpoint says.
    """

    pieces: tuple[str, ...]
    answers: tuple[str | int, ...]
    max_length: int
    instruction: str | None = None
    told: str = "{}"
    bos: bool = False
    joined: bool = False
    strip: bool = False
    mark: str | None = None


BGE_TASK = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by "
    "providing a prediction of either 'Yes' or 'No'."
)
BGE_PIECES = ("A: {query}", "\n", "B: {a}", "\n", "{instruction}")

FORMATS = {
    "qwen3": Format(
        (
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
            'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
            "<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {a}",
            "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        ),
        ("yes", "no"),
        8192,
        "Given a web search query, retrieve relevant passages that answer the query",
        mark="Judge whether the Document meets the requirements based on the Query and the Instruct provided.",
    ),
    "bge": Format(BGE_PIECES, ("Yes",), 1024, BGE_TASK, bos=True),
    "mxbai": Format(
        (
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\n",
            "{instruction}query: {query}",
            "\n",
            "document: {a}",
            "\n",
            "You are a search relevance expert who evaluates how well documents match search queries. For each "
            "query-document pair, carefully analyze the semantic relationship between them, then provide your "
            "binary relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:",
            "<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("1", "0"),
        8192,
        "",
        told="instruction: {}\n",
        mark="You are a search relevance expert who evaluates how well documents match search queries.",
    ),
    "zerank": Format((OWN_CHAT,), ("Yes",), 8192, joined=True, strip=True, mark="modeling_zeranker"),
    "ctxl": Format(
        (
            "Check whether a given document contains information helpful to answer the query.\n<Document> {a}\n"
            "<Query> {query}{instruction} ??",
        ),
        (0,),
        8192,
        "",
        told=" {}",
        joined=True,
    ),
    "rankllama": Format(("query: {query}", BOS, "document: {a}"), (), 2048, bos=True),
}
"""zerank: the logit of "Yes" (for display its owner shows the sigmoid of a fifth of it). ctxl: the logit of token
0. rankllama: the one label of a sequence classifier, read at the last token; no end-of-sequence token is added."""


def _named(kind: str, owner: str, names: str) -> dict[str, str]:
    return {f"{owner}/{name}": kind for name in names.split()}


CHECKPOINTS = {
    **_named("qwen3", "Qwen", "Qwen3-Reranker-0.6B Qwen3-Reranker-4B Qwen3-Reranker-8B"),
    **_named(
        "qwen3",
        "tomaarsen",
        "Qwen3-Reranker-0.6B-seq-cls Qwen3-Reranker-4B-seq-cls Qwen3-Reranker-8B-seq-cls",
    ),
    **_named("bge", "BAAI", "bge-reranker-v2-gemma"),
    **_named("mxbai", "mixedbread-ai", "mxbai-rerank-base-v2 mxbai-rerank-large-v2"),
    **_named("mxbai", "michaelfeil", "mxbai-rerank-base-v2-seq mxbai-rerank-large-v2-seq"),
    **_named(
        "zerank",
        "zeroentropy",
        "zerank-1 zerank-1-reranker zerank-1-small zerank-1-small-reranker zerank-2 zerank-2-reranker",
    ),
    **_named("zerank", "baseten-admin", "zerank-2-reranker-seq"),
    **_named(
        "ctxl",
        "ContextualAI",
        "ctxl-rerank-v2-instruct-multilingual-1b ctxl-rerank-v2-instruct-multilingual-2b "
        "ctxl-rerank-v2-instruct-multilingual-6b",
    ),
    **_named("ctxl", "sigridjineth", "ctxl-rerank-v2-1b-seq-cls"),
    **_named("rankllama", "castorini", "rankllama-v1-7b-lora-passage rankllama-v1-7b-lora-doc"),
}
"""Name on the hub → format."""


def known_format(checkpoint: Checkpoint) -> str | None:
    """The format of a checkpoint: by its name on the hub, else by what its files say; None where neither does.

    A folder of modules of sentence-transformers says by itself how it is asked, and is left to that family.
    """
    if not checkpoint.plain:
        return None
    if listed := checkpoint.listed(CHECKPOINTS):
        return listed
    if not checkpoint.architecture.endswith(("ForCausalLM", "ForSequenceClassification")):
        return None
    said = _said(checkpoint)
    return next((name for name, asked in FORMATS.items() if asked.mark and asked.mark in said), None)


def _said(checkpoint: Checkpoint) -> str:
    """What may tell a checkpoint: its chat templates and the names of its code."""
    template = checkpoint.folder / "chat_template.jinja"
    parts = [template.read_text(encoding="utf-8", errors="replace")] if template.is_file() else []
    parts.append(str(checkpoint.json("tokenizer_config.json").get("chat_template") or ""))
    parts.append(str(checkpoint.json("chat_template.json").get("chat_template") or ""))
    parts.append(str(checkpoint.config.get("auto_map") or ""))
    return "\n".join(parts)
