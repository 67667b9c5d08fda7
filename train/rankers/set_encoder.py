"""Set-Encoder: a cross-encoder whose passages see each other, trained on lists."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...rerank.engine.batches import Batch
from ...rerank.models.families.encoders.sequence_classification import PACKABLE
from ...rerank.models.families.encoders.set_encoder import Parts, SetEncoder, load_duplicates
from ...rerank.models.families.encoders.webis import INTERACTION, webis_template
from ...rerank.models.heads import detach_head
from ..data.collator import Layout
from ..losses import Loss
from .bodies import IDENTITY, Body, find_start, lean, load_body, restore, write_model
from .kinds import Start, kinds
from .ranker import Ranker


@kinds.register("set_encoder")
@dataclass(frozen=True)
class SetEncoders:
    """Lists whose passages see each other through one token each; from a pointwise model with its weights.

    Args:
        interaction: the first token interacts, or a new ``[INT]`` behind it; by default what the checkpoint has.
        duplicates: weight of the task to detect the passage that stands twice in its list, which makes the model
            use the other passages where relevance alone would not (Schlatt et al., ECIR 2025); 0 leaves it out.
    """

    interaction: Literal["auto", "first", "int"] = "auto"
    duplicates: float = 0.0

    def __post_init__(self) -> None:
        if self.duplicates < 0:
            raise ValueError("duplicates must not be negative")

    def start(self, start: Start) -> SetRanker:
        from transformers import AutoModelForSequenceClassification

        found = find_start(start, PACKABLE, "a Set-Encoder")
        body = load_body(start, found, AutoModelForSequenceClassification, num_labels=1)
        has_token = bool(found.config.get("add_extra_token", False))
        if self.interaction == "int" and not has_token:
            add_interaction_token(body.module, body.tokenizer)
        own = has_token if self.interaction == "auto" else self.interaction == "int"
        body.module.config.add_extra_token = own
        detector = load_duplicates(found)
        if detector is None and self.duplicates:
            detector = nn.Linear(body.module.config.hidden_size, 1)
        return SetRanker(start, body, int(own), detector, self.duplicates)


def add_interaction_token(module: Any, tokenizer: Any) -> None:
    """Adds ``[INT]`` to the vocabulary; its embedding starts as that of the separator.

    Encoders look at separators where they look for nothing, so that the others' tokens hardly disturb at first: on
    DL21 a pointwise model of nDCG@10 .468 has .459 with separators, .333 with its first tokens as interaction
    tokens, .276 with a copy of the first token.
    """
    from tokenizers import AddedToken

    tokenizer.add_tokens([AddedToken(INTERACTION, special=True, normalized=False)], special_tokens=True)
    new = tokenizer.convert_tokens_to_ids(INTERACTION)
    words = module.get_input_embeddings().weight
    if new >= len(words):
        module.resize_token_embeddings(new + 1, mean_resizing=False)
        words = module.get_input_embeddings().weight
    with torch.no_grad():
        words[new] = words[tokenizer.sep_token_id]
    words.requires_grad_(True)  # it is learned, and saved, where an adapter freezes the rest


class SetRanker(Ranker):
    """A Set-Encoder under training: a sequence classifier over lists, with a detector of duplicates if asked for.

    What it saves is a sequence classifier whose config says how its passages interact; with the first token as
    the one that interacts it scores single passages in transformers and sentence-transformers too.
    """

    def __init__(self, start: Start, body: Body, place: int, detector: nn.Linear | None, weight: float) -> None:
        module = body.module
        classify, parts = detach_head(module)
        checkpoint = replace(body.checkpoint, config=body.checkpoint.config | {"add_extra_token": bool(place)})
        model = SetEncoder(
            checkpoint,
            Parts(
                body=module.base_model,
                head=classify,
                head_modules=parts,
                tokenizer=body.tokenizer,
                template=webis_template(checkpoint, body.tokenizer, module.config),
                truncation=body.truncation,
                duplicates=detector,
            ),
            place,
            None,
            lean=lean(module),
            live=True,
        )
        layout = Layout(
            template=model.template,
            truncation=model.truncation,
            first_position=model.first_position,
            packed=model.packed,
            width=None,
            alone=False,
            twins=weight > 0,
        )
        super().__init__(start, body.tokenizer, layout)
        if module.config.model_type == "bert":  # taken away for inference; here it is saved with the rest
            module.base_model.pooler = parts[0]
        if detector is not None:
            module.repeat_linear = detector
        self.module, self.adapter = module, body.adapter
        self.model = model
        self.weight = weight
        self.mark_head([*parts, *([detector] if detector is not None else [])])

    def read(self, batch: Batch) -> Tensor:
        """Scores of the sequences, (S,); with the second task in training its logits beside them, (S, 2)."""
        states = self.model.states(batch)
        with self.full_precision():
            scores = self.model.score(states)
            if self.model.duplicates is None or not (self.weight and self.training):
                return scores
            return torch.stack([scores, self.model.duplicates(states)[:, 0]], dim=1)

    def objective(self, loss: Loss) -> Loss:
        """The loss, and the detection of duplicates where it was asked for."""
        return DetectDuplicates(loss, self.weight) if self.weight else loss

    def save(self, folder: Path) -> None:
        write_model(
            folder,
            self.module,
            self.tokenizer,
            family="set_encoder",
            adapter=self.adapter,
            sentence_transformers={"activation_fn": IDENTITY},
        )

    def load(self, folder: Path) -> None:
        restore(folder, self.module, self.adapter)


@dataclass(frozen=True)
class DetectDuplicates:
    """A ranking loss plus the binary cross-entropy of "this passage stands twice in its list".

    Scores are (Q, n, 2), ranking scores and detection logits; labels (Q, n, 2) hold beside each label whether the
    passage stands twice, 2 for the second copy, which is left out of the ranking. The two copies weigh as much as
    the others together, pos_weight = (n - 2)/2. Reference: Schlatt et al. (Set-Encoder), ECIR 2025.
    """

    loss: Loss
    weight: float

    def __call__(self, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
        twin = labels[..., 1]
        ranking = self.loss(scores[..., 0], labels[..., 0], mask & (twin < 2))
        counts = mask.sum(dim=1, keepdim=True).to(scores.dtype)
        terms = functional.binary_cross_entropy_with_logits(
            scores[..., 1], (twin > 0).to(scores.dtype), pos_weight=(counts - 2) / 2, reduction="none"
        )
        detection = torch.where(mask, terms, terms.new_zeros(())).sum() / mask.sum()
        return ranking + self.weight * detection
