"""Pairwise ranking prompting: any causal language model is asked which of two passages is better, A or B.

The outcome is read from the logits of the two answers at the last token, so nothing is generated. Qin et al.,
Large Language Models are Effective Text Rankers with Pairwise Ranking Prompting, NAACL Findings 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ....errors import InputError
from ....registry import families
from ...checkpoints import Checkpoint
from ...loading import load_tokenizer
from ...prompts import answer_ids, chat_prompt, check_placeholders, prompt_template
from ..about import About, Example
from .causal import CausalReranker, is_decoder_classifier, load_decoder, sequence_length

PROMPT = (
    "Which of two passages is more relevant to a query?\n\nQuery: {query}\n\nPassage A: {a}\n\nPassage B: {b}\n\n"
    "Answer with one letter, A or B."
)
CUE = "\n\nAnswer:"


@families.register("causal_pair")
@dataclass(frozen=True)
class CausalPair:
    """A local chat model asked "A or B"; ``prompt`` holds {query}, {a} and {b}, each once.

    The prompt is the user's turn of the model's chat template; with ``chat=False``, or where there is none, it is
    put as it is, ``Answer:`` after the default prompt. ``first`` and ``second`` are the answers, one token each.
    """

    about: ClassVar[About] = About(
        "pairwise",
        "packed or padded",
        "the logit of A less that of B at the last token",
        examples=(Example("Qwen/Qwen3-0.6B", "apache-2.0"),),
    )
    prompt: str | None = None
    first: str = "A"
    second: str = "B"
    chat: bool = True
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.prompt is not None:
            check_placeholders(self.prompt, ("query", "a", "b"))

    def claims(self, checkpoint: Checkpoint) -> bool:
        """None: nothing in a chat model's config says that it shall compare; name the family."""
        return False

    def load(self, checkpoint: Checkpoint) -> CausalReranker:
        """Loads the checkpoint, which must be a causal language model."""
        module = load_decoder(checkpoint)
        if is_decoder_classifier(checkpoint):
            raise InputError(f"{checkpoint.name}: {checkpoint.architecture} has no answers to choose from")
        tokenizer = load_tokenizer(checkpoint)
        text = chat_prompt(tokenizer, self.prompt or PROMPT) if self.chat else None
        words = (self.first, self.second)
        bos = False
        if text is None:
            text = self.prompt or PROMPT + CUE
            if not text[-1].isspace():
                words = (f" {self.first}", f" {self.second}")
            begun = tokenizer("a")["input_ids"]
            bos = tokenizer.bos_token_id is not None and begun[:1] == [tokenizer.bos_token_id]
        template = prompt_template(tokenizer, (text,), bos)
        length = sequence_length(module, self.max_length, 4096)
        return CausalReranker(checkpoint, module, tokenizer, template, answer_ids(tokenizer, words), length)
