"""One device: batches of a token budget in, scores out. It knows no file, no schedule and no judgment."""
