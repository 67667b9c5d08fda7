"""Frozen hidden states of prompts: what a probe reads of a language model or an encoder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...rerank.console import progress
from ...rerank.engine.devices import choose_device, choose_dtype, default_budget, dtype_name
from ...rerank.errors import InputError, UsageError
from ...rerank.models.checkpoints import find
from ...rerank.models.families.encoders.sequence_classification import ROBERTA
from ...rerank.models.loading import load_tokenizer
from ...rerank.search.bi_encoder import batches
from ..rankers.bodies import load_quietly


class States:
    """A frozen model; called with prompts it returns one hidden state each, (n, H) in fp32.

    The state is that of the last token of a causal model, which has read the whole prompt, and of the first token
    of an encoder.

    Args:
        name: a folder, ``minilm`` or a name on the hub, with or without a head.
        layer: which hidden state: -1 is the last one, 0 the embeddings.

    Raises:
        InputError: an encoder-decoder. UsageError: the model has no such layer.
    """

    def __init__(self, name: str, device: str = "auto", dtype: str = "auto", layer: int = -1) -> None:
        from transformers import AutoModel

        found = find(name)
        if found.config.get("is_encoder_decoder"):
            raise InputError(f"{name} is an encoder-decoder: probe a causal language model or an encoder")
        if dtype == "int8":
            raise UsageError("a probe does not read int8 states: write auto, float32, bfloat16 or float16")
        self.device = choose_device(device)
        kind = choose_dtype(dtype, self.device)
        self.dtype = dtype_name(kind)
        self.causal = "CausalLM" in found.architecture or "LMHead" in found.architecture
        self._tokenizer = load_tokenizer(found)
        self._model = load_quietly(AutoModel, found.body).to(self.device, kind).eval()
        config = self._model.config
        if not -config.num_hidden_layers - 1 <= layer <= config.num_hidden_layers:
            raise UsageError(f"--layer {layer}: {name} has hidden states 0 to {config.num_hidden_layers}")
        self._layer = layer
        self._longest = config.max_position_embeddings
        if config.model_type in ROBERTA:
            self._longest -= config.pad_token_id + 1

    def cut(self, texts: Sequence[str], tokens: int) -> list[str]:
        """The beginnings of texts, at most so many tokens each, cut where a token ends."""
        read = self._tokenizer(
            list(texts), add_special_tokens=False, truncation=True, max_length=tokens, return_offsets_mapping=True
        )
        ends = [spans[-1][1] if spans else 0 for spans in read["offset_mapping"]]
        return [text[:end] for text, end in zip(texts, ends, strict=True)]

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Tensor:
        """Hidden states (n, H); UsageError where a prompt is longer than the model can read."""
        ids = self._tokenizer(list(prompts), verbose=False)["input_ids"]
        lengths = np.array([len(row) for row in ids], np.int64)
        if lengths.max(initial=0) > self._longest:
            raise UsageError(
                f"a prompt has {lengths.max()} tokens, the model reads {self._longest}: lower --passage-tokens"
            )
        found = torch.empty(len(ids), self._model.config.hidden_size)
        pad = self._tokenizer.pad_token_id or 0
        with progress(total=len(ids), unit="prompt", label="reading") as bar:
            for part in batches(lengths, default_budget(self.device)):
                width = int(lengths[part].max())
                rows = torch.tensor([ids[i] + [pad] * (width - len(ids[i])) for i in part])
                last = torch.from_numpy(lengths[part] - 1)
                mask = (torch.arange(width) <= last[:, None]).long()
                out = self._model(
                    input_ids=rows.to(self.device),
                    attention_mask=mask.to(self.device),
                    output_hidden_states=self._layer != -1,
                )
                hidden = out.last_hidden_state if self._layer == -1 else out.hidden_states[self._layer]
                place = last if self.causal else torch.zeros_like(last)
                found[part] = hidden[torch.arange(len(part)), place].float().cpu()
                bar.update(len(part))
        return found
