"""Poly-encoders: a few learned codes read the query, and each candidate attends to what they found.

With h_t the states of the query's tokens, c_k the codes (k = 1..m) and e the embedding of a candidate,

    y_k = sum_t softmax_t(c_k . h_t) h_t        y = sum_k softmax_k(e . y_k) y_k        score = e . y

Candidates do not see the query, so their embeddings are kept (and may lie in an index); comparing one with a
query costs O(m d). Query and candidates share one encoder here, and e is its pooled embedding. On disk a
poly-encoder is a sentence-transformers model, which alone is the candidate side, with ``"sparring_family":
"poly_encoder"`` in its ``config.json``, and ``poly_codes.safetensors`` with ``codes`` (m, d) in fp32.

S. Humeau, K. Shuster, M.-A. Lachaux, J. Weston: Poly-encoders. ICLR 2020, arXiv 1905.01969.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ....data.atomic import atomic_write
from ....errors import InputError, MissingResourceError
from ....registry import families
from ...checkpoints import Checkpoint
from ...layout import Kind
from ..about import About
from .bi_encoder import BiEncoder, encoder_fingerprint, load_encoder, to_fp32

CODES_FILE = "poly_codes.safetensors"
CONTEXTS = "contexts"
"""The feature under which `PolyCodes` leaves what the codes found."""


def poly_scores(contexts: Tensor, candidates: Tensor) -> Tensor:
    """Scores of every query with every candidate, (Q, N), from contexts (Q, m, d) and embeddings (N, d)."""
    affinity = torch.einsum("nd,qmd->qnm", candidates, contexts)
    return (affinity.softmax(dim=2) * affinity).sum(dim=2)  # e . y is the same mean over k of e . y_k


class PolyCodes(nn.Module):
    """The codes, (m, d), as a module at the end of a ``SentenceTransformer``: adds ``contexts`` (B, m, d).

    The codes begin small (standard deviation 0.02): each context is nearly the mean of the token states, and
    training starts from the ranking of the mean-pooled bi-encoder.
    """

    def __init__(self, count: int, hidden: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.empty(count, hidden).normal_(std=0.02))

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        states, mask = features["token_embeddings"], features["attention_mask"]
        with torch.autocast(states.device.type, enabled=False):
            states = states.float()
            logits = torch.einsum("md,btd->bmt", self.codes, states)
            weights = logits.masked_fill(mask[:, None, :] == 0, -torch.inf).softmax(dim=2)
            return features | {CONTEXTS: weights @ states}

    def save(self, folder: Path) -> None:
        """Writes the codes beside an encoder."""
        from safetensors.torch import save as to_bytes

        with atomic_write(folder / CODES_FILE, "wb") as stream:
            stream.write(to_bytes({"codes": self.codes.detach().float().cpu().contiguous()}))

    @classmethod
    def load(cls, folder: Path, hidden: int) -> PolyCodes:
        """Reads the codes beside an encoder whose embeddings have ``hidden`` dimensions.

        Raises MissingResourceError where there are none, InputError where they have another shape.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = folder / CODES_FILE
        if not path.is_file():
            raise MissingResourceError(f"{folder} holds no {CODES_FILE}: it is not a poly-encoder; train one")
        try:
            codes = load_file(path)["codes"]
        except (SafetensorError, KeyError) as error:
            raise InputError(f"{path}: not the codes of a poly-encoder: {error}") from None
        if codes.ndim != 2 or codes.shape[1] != hidden:
            raise InputError(f"{path}: codes {tuple(codes.shape)} do not fit embeddings of {hidden} dimensions")
        module = cls(len(codes), hidden)
        module.codes.data.copy_(codes)
        return module.eval()


def token_width(encoder: Any, name: str) -> int:
    """The width that token states and embeddings of an encoder share; InputError where they differ."""
    hidden = int(encoder[0].get_embedding_dimension())
    if hidden != (pooled := int(encoder.get_embedding_dimension())):
        raise InputError(
            f"{name}: token states have {hidden} dimensions, embeddings {pooled}: codes cannot compare them"
        )
    return hidden


@torch.inference_mode()
def compare(encoder: Any, query: str, passages: Tensor) -> Tensor:
    """Poly scores of one query with embeddings of passages (n, d), (n,) on the host."""
    features = encoder.encode_query([query], output_value=None, show_progress_bar=False)[0]
    contexts = features[CONTEXTS][None]
    return poly_scores(contexts, passages.to(contexts.device))[0].cpu()


@families.register("poly_encoder")
@dataclass(frozen=True)
class PolyEncoders:
    """A bi-encoder whose queries are read by learned codes, which each candidate weighs anew."""

    about: ClassVar[About] = About(
        "pointwise",
        "its own batches",
        "the product of the passage's vector and the query's codes, weighed by it",
        made_by="sparring train --family 'poly-encoder(codes=64)'",
    )
    max_length: int | None = None

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Bi-encoders with codes beside them; their config states the family, which tells them from others."""
        return checkpoint.layout.kind is Kind.BI_ENCODER and (checkpoint.folder / CODES_FILE).is_file()

    def load(self, checkpoint: Checkpoint) -> BiEncoder:
        """Loads encoder and codes; its scorer's ``encode`` gives the candidate side."""
        encoder = load_encoder(checkpoint, self.max_length)
        codes = PolyCodes.load(checkpoint.folder, token_width(encoder, checkpoint.name))
        encoder[0].register_forward_hook(to_fp32)
        encoder.append(codes)
        return BiEncoder(checkpoint, encoder, encoder_fingerprint(checkpoint, encoder.max_seq_length), compare)
