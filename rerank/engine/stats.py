"""What an engine adds to its counts: shards, batches, memory."""

from __future__ import annotations

import resource
import sys

import numpy as np
import torch

from ..stats import Stats
from .batches import Batch
from .shards import Shard


def count_shard(stats: Stats, shard: Shard) -> None:
    """Adds the work of a shard: inputs, truncations, empty texts."""
    sequences = shard.sequences
    stats.groups += len(shard)
    stats.sequences += len(sequences.tokens)
    stats.tokens += int(sequences.tokens.sum())
    stats.truncated_queries += len(np.unique(sequences.query[sequences.query_cut]))
    stats.truncated_passages += int(sequences.passage_cut.sum())
    stats.empty_texts += shard.empty


def count_batch(stats: Stats, batch: Batch, packed: bool) -> None:
    """Adds a batch that went through the model."""
    tokens = len(batch.input_ids)
    stats.batches += 1
    if packed and batch.beginnings is not None:
        tokens -= batch.beginnings.repeated
    stats.computed += tokens
    if not packed:
        stats.padding += int(batch.lengths.max()) * len(batch.lengths) - tokens


def observe_memory(stats: Stats, device: torch.device) -> None:
    """Notes the peak memory in bytes: of the device, or of the process on a CPU."""
    if device.type == "cuda":
        stats.peak_memory = torch.cuda.max_memory_allocated(device)
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        stats.peak_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
