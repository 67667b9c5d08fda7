"""Schedules played by hand: oracles that answer, and made-up utilities with their first stage."""

import numpy as np
from sparring.rerank.contracts.schedules import Oracle, answers, made_up, played

play, collection = played, made_up


def utility_oracle(utility: np.ndarray, noise: float = 0.0) -> Oracle:
    """Prefers the higher utility, surely or with a logistic softness."""
    return answers(utility, noise)
