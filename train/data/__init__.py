"""Training data: mixtures of sources, samplers, batches, hard negatives."""
