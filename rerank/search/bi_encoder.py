"""Bi-encoders: any sentence-transformers model, with the prompts, pooling and similarity of its own configuration.

N. Reimers, I. Gurevych: Sentence-BERT. EMNLP-IJCNLP 2019, arXiv 1908.10084.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..console import bars_wanted, log, progress, quiet_transformers
from ..engine.devices import choose_device, choose_dtype, default_budget, dtype_name
from ..errors import InputError, SparringError, UsageError
from ..models.adapters import opened
from ..models.checkpoints import Checkpoint
from ..models.loading import check_embeds
from ..models.tokenizers import check_tokenizer

Vectors = NDArray[np.float32]
SIMILARITIES = ("cosine", "dot", "euclidean")
SORTED_TOGETHER = 8192
"""Texts of so many documents are in memory at a time, and batched by length among themselves."""
BYTES_PER_TOKEN = 4
"""Where a model has no fast tokeniser, lengths are estimated."""
LONGEST_TOKEN = 64
"""Texts are cut to so many characters per token of the model's length before they are tokenised."""


@dataclass(frozen=True)
class Identity:
    """What two sets of vectors must share to be compared; kept in the manifest of an index."""

    model: str
    revision: str
    dimension: int
    similarity: str
    normalised: bool
    max_length: int | None
    prompts: dict[str, str]

    def __str__(self) -> str:
        prompts = {name: text for name, text in self.prompts.items() if text}
        return (
            f"{self.model} (revision {self.revision[:12]}, {self.dimension} dimensions, {self.similarity}, "
            f"at most {self.max_length} tokens, prompts {prompts or 'none'})"
        )

    def same(self, other: Identity) -> bool:
        """Whether vectors of both can be compared; the name by which a model was called does not matter."""
        return {**vars(self), "model": ""} == {**vars(other), "model": ""}


class BiEncoder:
    """A sentence-transformers model on a device; vectors are float32, and of length 1 where similarity is cosine.

    Args:
        name: a folder, ``minilm`` for the embedded model, or a model of the hub.
        device, dtype: as on the command line; ``auto`` computes in float32 on a CPU, so that results agree with
            sentence-transformers', and under bf16 autocast on CUDA.
        budget: tokens of one batch; by default what suits the device.
        allow_pickle: read the tensors of pickled weights where there are no safetensors.
        base: the model that an adapter belongs to, where its config names none or another is wanted.

    Raises:
        MissingResourceError: there is no such model. InputError: its files are damaged. UsageError: it is a
            cross-encoder, or compares vectors in a way that cannot be indexed.
    """

    def __init__(
        self,
        name: str,
        device: str = "auto",
        dtype: str = "auto",
        budget: int | None = None,
        allow_pickle: bool = False,
        base: str | None = None,
    ) -> None:
        if dtype == "int8":
            raise UsageError("bi-encoders do not run in int8: write auto, float32, bfloat16 or float16")
        self.device = choose_device(device)
        self._autocast = dtype == "auto" and self.device.type == "cuda"
        weights = torch.float32 if dtype == "auto" else choose_dtype(dtype, self.device)
        self.dtype = "bfloat16" if self._autocast else dtype_name(weights)
        self._budget = budget or default_budget(self.device)
        with opened(name, allow_pickle=allow_pickle, base=base) as checkpoint:
            if checkpoint.plain and checkpoint.architecture.endswith("ForSequenceClassification"):
                raise UsageError(
                    f"{name} is a cross-encoder: it reranks (sparring rerank), it cannot make an index"
                )
            self._model = _load(checkpoint, self.device, weights)
            revision = _revision(checkpoint)
        similarity = str(self._model.similarity_fn_name)
        if similarity not in SIMILARITIES:
            raise UsageError(
                f"{name}: similarity {similarity!r} cannot be indexed; known: {', '.join(SIMILARITIES)}"
            )
        self.identity = Identity(
            model=name,
            revision=revision,
            dimension=int(self._model.get_embedding_dimension()),
            similarity=similarity,
            normalised=similarity == "cosine",
            max_length=self._model.max_seq_length,
            prompts={role: text for role, text in sorted(self._model.prompts.items()) if text},
        )

    def queries(self, texts: Sequence[str]) -> Vectors:
        """Vectors of queries, with the model's query prompt, (n, dimension)."""
        return self._all(texts, self._model.encode_query)

    def documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors of documents, with the model's document prompt, (n, dimension)."""
        return self._all(texts, self._model.encode_document)

    def collection(self, items: Iterable[tuple[str, str]], total: int) -> Iterator[tuple[list[str], Vectors]]:
        """(ids, vectors) of consecutive parts of a collection, with a progress bar.

        Raises SparringError naming the first document whose vector is not finite.
        """
        stream = iter(items)
        with progress(total=total, unit="doc", label="encoding") as bar:
            while part := list(islice(stream, SORTED_TOGETHER)):
                vectors = self._all([text for _, text in part], self._model.encode_document, bar.update)
                bad = np.flatnonzero(~np.isfinite(vectors).all(1))
                if len(bad):
                    raise SparringError(
                        f"{self.identity.model} in {self.dtype} gives no finite vector for document "
                        f"{part[bad[0]][0]!r} and {len(bad) - 1} more: try --dtype float32"
                    )
                yield [docid for docid, _ in part], vectors

    def _all(
        self,
        texts: Sequence[str],
        encode: Callable[..., Any],
        done: Callable[[int], object] = lambda count: None,
    ) -> Vectors:
        """Encodes texts in batches of similar length, longest first, and puts them back in order."""
        texts = self._cut(texts)
        lengths = self._lengths(texts)
        out = np.empty((len(texts), self.identity.dimension), np.float32)
        for batch in batches(lengths, self._budget):
            out[batch] = self._batch([texts[i] for i in batch], encode)
            done(len(batch))
        return out

    def _cut(self, texts: Sequence[str]) -> Sequence[str]:
        """Bounds the memory of the tokeniser: what a model of this length cannot see is not shown to it."""
        longest = self.identity.max_length
        return texts if longest is None else [text[: longest * LONGEST_TOKEN] for text in texts]

    def _lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Tokens of every text after truncation, (n,). Sorting by bytes instead would pad a fifth more."""
        longest = self.identity.max_length or 1 << 30
        tokenizer = self._model.tokenizer
        if not getattr(tokenizer, "is_fast", False):
            return np.array([min(len(text.encode()) // BYTES_PER_TOKEN, longest) + 2 for text in texts], np.int64)
        tokens = tokenizer(list(texts), truncation=True, max_length=longest, return_attention_mask=False)[
            "input_ids"
        ]
        return np.array([max(1, len(ids)) for ids in tokens], np.int64)

    def _batch(self, texts: list[str], encode: Callable[..., Any]) -> Vectors:
        half = len(texts) // 2
        try:
            return self._forward(texts, encode)
        except torch.cuda.OutOfMemoryError:
            if not half:
                raise
            torch.cuda.empty_cache()
            log.info("out of memory with %d texts: half as many", len(texts))
        return np.concatenate([self._batch(texts[:half], encode), self._batch(texts[half:], encode)])

    def _forward(self, texts: list[str], encode: Callable[..., Any]) -> Vectors:
        lower = torch.autocast(self.device.type, torch.bfloat16) if self._autocast else contextlib.nullcontext()
        with lower:
            raw = encode(texts, batch_size=len(texts), show_progress_bar=False, convert_to_tensor=True)
        vectors = raw.float()
        if self.identity.normalised:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return np.asarray(vectors.cpu().numpy(), np.float32)


def batches(lengths: NDArray[np.int64], budget: int) -> Iterator[NDArray[np.int64]]:
    """Positions in batches of at most ``budget`` padded tokens (or one text), longest first; ties by position."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, budget // int(lengths[order[start]]))
        yield order[start : start + count]
        start += count


def _load(checkpoint: Checkpoint, device: torch.device, dtype: torch.dtype) -> Any:
    from sentence_transformers import SentenceTransformer

    check_embeds(checkpoint)
    check_tokenizer(checkpoint)
    if checkpoint.plain:
        log.warning("%s has no modules.json: mean pooling of the last layer is assumed", checkpoint.name)
    try:
        with contextlib.nullcontext() if bars_wanted() else quiet_transformers(None):
            return SentenceTransformer(
                str(checkpoint.folder),
                device=str(device),
                model_kwargs={"dtype": dtype},
                local_files_only=True,
                trust_remote_code=False,
            ).eval()
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{checkpoint.name} cannot be loaded as a bi-encoder: {reason}") from None


def _revision(checkpoint: Checkpoint) -> str:
    """SHA-256 over weights, config and the settings of all modules."""
    digest = hashlib.sha256(checkpoint.digest().encode())
    for pattern in ("modules.json", "sentence_bert_config.json", "tokenizer.json", "*/config.json"):
        for path in sorted(checkpoint.folder.glob(pattern)):
            digest.update(path.read_bytes())
    for path in sorted(checkpoint.folder.glob("*/*.safetensors")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
