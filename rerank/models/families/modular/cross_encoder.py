"""CrossEncoders of sentence-transformers as it saves them since 5.4: modules, prompts and a chat template.

``modules.json`` lists the modules: a transformer with its own head, a language model with LogitScore, or a
transformer with pooling, dense layers and norms behind it. Whatever the folder says of the input is followed. The
score is the raw fp32 logit (of two labels l1 - l0): ``activation_fn`` of the folder is for display.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from ....data.atomic import sha256
from ....engine.batches import Batch
from ....engine.model import AnyModel
from ....engine.templates import Template, Truncation, pair_template
from ....errors import InputError
from ....registry import families
from ...checkpoints import Checkpoint
from ...config_fields import token_types
from ...layout import Kind
from ...loading import clamp_length, fingerprint, load_tokenizer
from ..about import About, Example
from ..encoders.sequence_classification import SUPPORTED, SequenceClassifier, load_classifier
from ..language_models.causal import CausalReranker, is_decoder_classifier, load_decoder
from .bodies import TokenReader, Wanted, check_causal, first_position, load_body, longest
from .chat import chat_template, prompted
from .modules import Head, build_head
from .settings import Reading, prompt_of, reading


class ModularEncoder:
    """A transformer with modules behind it; see `sparring.rerank.engine.model.Model`."""

    width: int | None = 1

    def __init__(
        self,
        checkpoint: Checkpoint,
        reader: TokenReader,
        head: Head,
        tokenizer: Any,
        template: Template,
        truncation: Truncation,
        first: int,
    ) -> None:
        self.name = checkpoint.name
        self.reader, self.head, self.tokenizer = reader, head, tokenizer
        shared = template.by_query and reader.tree  # only there a common beginning is computed once
        self.template, self.truncation = replace(template, by_query=shared), truncation
        self.first_position, self.packed = first, reader.packed
        self.fingerprint = fingerprint(checkpoint, template, truncation, *_module_keys(checkpoint))
        self.deterministic = False

    def place(self, device: torch.device, dtype: torch.dtype, deterministic: bool = False) -> None:
        """Moves the transformer in ``dtype`` and the other modules in fp32 to a device."""
        self.deterministic = deterministic
        self.reader.place(device, dtype)
        self.head.to(device=device, dtype=torch.float32)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Raw fp32 scores, (S,)."""
        logits: torch.Tensor = self.head(*self.reader.states(batch, self.deterministic))
        return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


def _module_keys(checkpoint: Checkpoint) -> list[str]:
    """Configs and weights of the modules behind the transformer, as they enter the fingerprint."""
    found = []
    for module in checkpoint.layout.modules[1:]:
        weights = checkpoint.folder / module.path / "model.safetensors"
        digest = sha256(weights) if module.path and weights.is_file() else ""
        found.append(f"{module.name} {sorted(module.config.items())} {digest}")
    return found


@families.register("cross_encoder")
@dataclass(frozen=True)
class CrossEncoders:
    """CrossEncoders of sentence-transformers (5.4 and later), by their modules.json.

    ``prompt_name`` chooses one of the folder's prompts, ``no_prompt`` leaves out its default.
    """

    about: ClassVar[About] = About(
        "pointwise",
        "packed or padded",
        "what the last module gives: a Dense layer's one score, or the logit of one token less that of another",
        examples=(
            Example("cross-encoder/ettin-reranker-17m-v1", "apache-2.0"),
            Example("cross-encoder/ettin-reranker-150m-v1", "apache-2.0"),
            Example("cross-encoder/ettin-reranker-1b-v1", "apache-2.0"),
        ),
    )
    prompt_name: str | None = None
    no_prompt: bool = False
    max_length: int | None = None

    def claims(self, checkpoint: Checkpoint) -> bool:
        """Folders with ``modules.json`` whose settings say ``"model_type": "CrossEncoder"``."""
        return checkpoint.layout.kind is Kind.CROSS_ENCODER

    def load(self, checkpoint: Checkpoint) -> AnyModel:
        """Loads the folder; what its configs say and this family does not know is refused."""
        if not self.claims(checkpoint):
            raise InputError(f"{checkpoint.name} is {checkpoint.layout.what}, not a CrossEncoder of modules")
        how = reading(checkpoint)
        prompt = prompt_of(checkpoint, self.prompt_name, self.no_prompt)
        if how.task == "feature-extraction":
            return self._modular(checkpoint, how, prompt)
        names = [module.name for module in checkpoint.layout.modules if module.name != "Dropout"]
        expected = ["Transformer", "LogitScore"] if how.task == "text-generation" else ["Transformer"]
        if names != expected:
            raise InputError(
                f"{checkpoint.name} is {checkpoint.layout.what}: with the task {how.task} expected "
                f"{', '.join(expected)}"
            )
        check_causal(checkpoint)
        if how.task == "text-generation":
            return self._language_model(checkpoint, how, prompt)
        return self._classifier(checkpoint, how, prompt)

    def _modular(self, checkpoint: Checkpoint, how: Reading, prompt: str) -> ModularEncoder:
        module, tokenizer = load_body(checkpoint), load_tokenizer(checkpoint)
        config = module.config
        template = self._template(checkpoint, how, prompt, tokenizer, config)
        skip = 0 if how.chat or not prompt else _prompt_tokens(tokenizer, prompt)
        head = build_head(checkpoint, int(config.hidden_size), how.output, skip)
        one: dict[frozenset[str], Wanted] = {frozenset({"cls"}): "first", frozenset({"lasttoken"}): "last"}
        reader = TokenReader(module, one.get(head.pooled, "all"), int(tokenizer.pad_token_id or 0))
        truncation = self._truncation(how, tokenizer, longest(config))
        return ModularEncoder(checkpoint, reader, head, tokenizer, template, truncation, first_position(config))

    def _classifier(self, checkpoint: Checkpoint, how: Reading, prompt: str) -> AnyModel:
        if not is_decoder_classifier(checkpoint):
            raise InputError(
                f"{checkpoint.name}: its task is {how.task}, but its architecture {checkpoint.architecture!r} has "
                "no head: it would be random"
            )
        if checkpoint.model_type in SUPPORTED:
            module, tokenizer, _, first = load_classifier(checkpoint, None)
            template = self._template(checkpoint, how, prompt, tokenizer, module.config)
            truncation = self._truncation(how, tokenizer, longest(module.config))
            return SequenceClassifier(
                checkpoint, module, tokenizer, truncation, first, replace(template, by_query=False)
            )
        return self._decoder(checkpoint, how, prompt, [])

    def _language_model(self, checkpoint: Checkpoint, how: Reading, prompt: str) -> CausalReranker:
        if is_decoder_classifier(checkpoint):
            raise InputError(
                f"{checkpoint.name}: its task is {how.task}, but its architecture is {checkpoint.architecture!r}"
            )
        config = checkpoint.layout.modules[-1].config
        true, false = config.get("true_token_id"), config.get("false_token_id")
        size = int(checkpoint.config.get("vocab_size", 1 << 30))
        named = [true] if false is None else [true, false]
        answers = [token for token in named if isinstance(token, int) and 0 <= token < size]
        if len(answers) < len(named):
            raise InputError(f"{checkpoint.name}: LogitScore reads the tokens {named} of {size}")
        if config.get("module_input_name", "causal_logits") != how.output:
            raise InputError(
                f"{checkpoint.name}: LogitScore reads {config['module_input_name']!r}, its transformer gives "
                f"{how.output!r}"
            )
        return self._decoder(checkpoint, how, prompt, answers)

    def _decoder(self, checkpoint: Checkpoint, how: Reading, prompt: str, answers: list[int]) -> CausalReranker:
        module, tokenizer = load_decoder(checkpoint), load_tokenizer(checkpoint)
        template = self._template(checkpoint, how, prompt, tokenizer, module.config)
        length = self._truncation(how, tokenizer, longest(module.config)).max_length
        return CausalReranker(checkpoint, module, tokenizer, template, answers, length)

    def _template(
        self, checkpoint: Checkpoint, how: Reading, prompt: str, tokenizer: Any, config: Any
    ) -> Template:
        if how.lower:
            _lower(tokenizer)
        if how.chat:
            return chat_template(checkpoint.name, tokenizer, how, config.model_type, prompt)
        return prompted(pair_template(tokenizer, token_types(config) > 1), tokenizer, prompt)

    def _truncation(self, how: Reading, tokenizer: Any, limit: int) -> Truncation:
        own = () if how.own_length else (tokenizer.model_max_length,)
        return Truncation(clamp_length(self.max_length, limit, *how.lengths, *own))


def _prompt_tokens(tokenizer: Any, prompt: str) -> int:
    """Tokens of a prompt alone, with what stands before it and without a special token behind it."""
    ids = tokenizer([prompt])["input_ids"][0]
    return len(ids) - (ids[-1] in tokenizer.all_special_ids)


def _lower(tokenizer: Any) -> None:
    """Has the tokenizer lower-case its text first."""
    from tokenizers.normalizers import Lowercase, Normalizer, Sequence

    backend = tokenizer.backend_tokenizer
    steps: list[Normalizer] = [Lowercase()]
    if backend.normalizer is not None:
        steps.append(backend.normalizer)
    backend.normalizer = Sequence(steps)
