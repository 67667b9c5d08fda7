"""A causal language model of this machine that answers questions, greedily and in small batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...errors import UsageError
from .endpoint import Messages, Reply, Usage
from .list_prompts import LETTERS

ANSWER_TOKENS = 512


class LocalChat:
    """Answers in the tokenizer's chat template, or to plain text where it has none.

    Args:
        length: tokens of question and answer together that the model holds.
        max_tokens: of an answer.
    """

    def __init__(
        self, name: str, module: Any, tokenizer: Any, length: int, max_tokens: int | None, batch_size: int
    ) -> None:
        self.name, self.module, self.tokenizer, self.length = name, module.eval(), tokenizer, length
        self.max_tokens = max_tokens or min(ANSWER_TOKENS, length // 2)
        self.batch_size = batch_size
        self.usage = Usage()
        self.pad_id = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)
        module.generation_config.pad_token_id = self.pad_id

    def place(self, device: torch.device, dtype: torch.dtype) -> None:
        """Moves the model."""
        self.module.to(device=device, dtype=dtype)

    @torch.inference_mode()
    def ask_all(self, questions: Sequence[Messages]) -> Iterator[tuple[int, Reply | None]]:
        """(index, reply) of every question, longest first."""
        for chosen, ids, mask in self._batches(questions, self.max_tokens):
            out = self.module.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=self.max_tokens, do_sample=False, num_beams=1
            )[:, ids.shape[1] :]
            written = (out != self.pad_id).sum(1).tolist()
            texts = self.tokenizer.batch_decode(out, skip_special_tokens=True)
            for index, text, count, read in zip(chosen, texts, written, mask.sum(1).tolist(), strict=True):
                self.usage.add(calls=1, prompt_tokens=read, completion_tokens=count)
                yield index, Reply(text, read, count, count < self.max_tokens)

    @torch.inference_mode()
    def letters(
        self, questions: Sequence[Messages], sizes: Sequence[int]
    ) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """(index, logits of the first letters as the next token, fp32) of every question."""
        tokens = [self.tokenizer(letter, add_special_tokens=False)["input_ids"][-1] for letter in LETTERS]
        for chosen, ids, mask in self._batches(questions, 1):
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            logits = self.module(
                input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=1
            ).logits
            scores = logits[:, -1, tokens].float().cpu().numpy().astype(np.float64)
            for index, row, read in zip(chosen, scores, mask.sum(1).tolist(), strict=True):
                self.usage.add(calls=1, prompt_tokens=read, completion_tokens=0)
                yield index, row[: sizes[index]]

    def _batches(
        self, questions: Sequence[Messages], room: int
    ) -> Iterator[tuple[list[int], torch.Tensor, torch.Tensor]]:
        """Indices, token ids and mask, padded on the left, of a few questions at a time."""
        tokens = [self._tokenise(question) for question in questions]
        longest = max(map(len, tokens), default=0)
        if longest + room > self.length:
            raise UsageError(
                f"{self.name}: a list takes {longest} tokens and its answer up to {room}, but the model holds "
                f"{self.length}: rank shorter lists, or cut passages with --family 'list_llm(words=...)'"
            )
        order = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
        device = next(self.module.parameters()).device
        for low in range(0, len(order), self.batch_size):
            chosen = order[low : low + self.batch_size]
            width = len(tokens[chosen[0]])
            ids = torch.full((len(chosen), width), self.pad_id)
            mask = torch.zeros_like(ids)
            for row, index in enumerate(chosen):
                ids[row, width - len(tokens[index]) :] = torch.tensor(tokens[index])
                mask[row, width - len(tokens[index]) :] = 1
            yield chosen, ids.to(device), mask.to(device)

    def _tokenise(self, question: Messages) -> list[int]:
        question = [turn | {"content": self._plain(turn["content"])} for turn in question]
        if self.tokenizer.chat_template:
            text = self.tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        text = "\n\n".join(turn["content"] for turn in question) + "\n\nAnswer:"
        return list(self.tokenizer(text)["input_ids"])

    def _plain(self, text: str) -> str:
        """Text in which no special token is spelled, so that a passage cannot end its turn."""
        for token in self.tokenizer.all_special_tokens:
            if len(token) > 1:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text
