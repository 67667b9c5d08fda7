"""What a training is told: what to train, on what, how long. The flags of ``sparring train`` are made of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of a training of a reranker or a retriever; the first four are those of every command."""

    device: str = "auto"
    """auto, cpu, cuda:0, or several, where a reranker scores: cuda:0,1 or cpu,cpu (a process for each)."""
    dtype: str = "auto"
    """auto, float32, bfloat16 or float16; auto is bf16 with an fp32 head where the hardware has it."""
    seed: int = 0
    """Seed of everything random; each topic draws from (seed, topic id)."""
    overwrite: bool = False
    """Replace an output that exists."""
    output_dir: Path
    """Folder for the model, its card, the training log and the checkpoints."""
    data: tuple[str, ...]
    """Sources such as run(path='first.run', dataset='folder', scale=20); several are mixed by their share."""
    model_name_or_path: str = "minilm"
    """Where to start: a folder, minilm (embedded) or a name on the hub; a missing head is made anew."""
    family: str = "pointwise"
    """What is trained: pointwise, t5, duo, pair_rm, late_pair, set_encoder, list_head, list_con_ranker;
    bi-encoder, poly-encoder(codes=64)."""
    adapter: str | None = None
    """Train an adapter alone, such as lora(rank=16), and save it without the weights of the model below it."""
    loss: str = "kl"
    """A loss by its spec; sparring list losses shows all. Rankers of pairs see a pair as a list of two. Retrievers
    take those of sparring list retriever-losses too."""
    list_size: int = 16
    """Candidates drawn per query."""
    sampler: str | None = None
    """Which pairs of a list are looked at, as a schedule; by default random(rate=0.1), late_pair takes all."""
    per_device_train_batch_size: int = 4
    """Lists per step and device."""
    gradient_accumulation_steps: int = 1
    """Steps whose gradients are added up before the weights change."""
    dataloader_num_workers: int | None = None
    """Processes that draw and tokenise lists ahead of the steps; by default 2 on a GPU, none on CPUs."""
    max_steps: int = 0
    """Steps in all; 0 makes num_train_epochs passes over the queries."""
    num_train_epochs: float = 1.0
    """Passes over the queries of all sources, where max_steps is 0."""
    learning_rate: float = 1e-4
    """Peak learning rate of the body."""
    head_learning_rate: float = 3e-4
    """Peak learning rate of the head."""
    warmup_ratio: float = 0.05
    """Share of the steps in which the learning rate rises; then it falls."""
    lr_scheduler_type: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """How the learning rate falls."""
    weight_decay: float = 0.01
    """AdamW's decay, of all but biases and norms."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm; 0 leaves them."""
    dropout: float | None = None
    """Replaces the dropout of the checkpoint."""
    max_length: int | None = None
    """Tokens of one input; the passage is cut, not the query. By default 256, or what the model reads if less."""
    token_budget: int | None = None
    """Tokens that go through the model at once; by default what suits the device."""
    gradient_caching: bool = False
    """Compute activations twice: a list of any length needs the memory of one token budget."""
    gradient_checkpointing: bool = False
    """Compute the activations inside layers twice: less memory for one token budget."""
    dev_run: Path | None = None
    """TREC run to rerank for the measure that decides; without one the last model is kept."""
    dev_dataset: str | None = None
    """Dataset of the development run."""
    dev_qrels: Path | None = None
    """Judgments of the development run; the dataset's own where absent."""
    dev_depth: int = 100
    """How many candidates of each topic are reranked."""
    dev_holdout: int = 0
    """Measure on every n-th judged topic only: those that holdout=n in a source keeps from training."""
    dev_measure: str = "nDCG@10"
    """What decides which model is the best."""
    dev_schedule: str | None = None
    """What the ranker is asked there: by default all candidates, the whole list, or the pairs of the sampler."""
    dev_aggregator: str | None = None
    """Turns comparisons into a ranking there; by default Bradley-Terry."""
    eval_steps: int = 200
    """Steps between measurements."""
    save_steps: int = 200
    """Steps between checkpoints."""
    logging_steps: int = 20
    """Steps between rows of the training log."""
    tensorboard: bool = False
    """Write the curves to output_dir/tensorboard too."""
    early_stopping_patience: int = 0
    """Stop after so many measurements without a better one; 0 never stops."""
    resume: bool = False
    """Go on from the last checkpoint in output_dir, with the same order of data."""
    push_to_hub: str | None = None
    """Upload the result to this repository of the hub."""
