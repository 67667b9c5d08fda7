"""The head of late pair models: antisymmetric preferences from one vector per passage.

With v_i the vector of a passage (read together with the query) and z_i = tanh(W v_i + b) or gelu(W v_i + b), the
logit of "i is better than j" is

    u . (z_i - z_j)  +  (L z_i) . (R z_j) - (R z_i) . (L z_j)

a difference of utilities and a skew-symmetric bilinear form of rank 2r, which can hold cycles that no utilities
explain. It is antisymmetric by construction: p_ij + p_ji = 1.

On disk, beside an encoder: ``pair_head.safetensors`` with ``dense.weight`` (k, H), ``dense.bias`` (k),
``utility.weight`` (1, k), ``left.weight`` and ``right.weight`` (r, k), in fp32; the file's metadata names the
``activation`` where it is not tanh.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import gelu

from ..data.atomic import atomic_write
from ..errors import InputError, MissingResourceError

HEAD_FILE = "pair_head.safetensors"
Activation = Literal["tanh", "gelu"]
Features = TypeVar("Features", NDArray[np.float64], torch.Tensor)


class PairHead(nn.Module):
    """The head of the module's formula; training writes it with `save`.

    Args:
        hidden: H, the width of the encoder's states.
        width: k, the width of z.
        rank: r; 0 leaves the utilities alone (Bradley-Terry).
        activation: of z.
    """

    def __init__(self, hidden: int, width: int = 128, rank: int = 16, activation: Activation = "tanh") -> None:
        super().__init__()
        self.activation = activation
        self.dense = nn.Linear(hidden, width)
        self.utility = nn.Linear(width, 1, bias=False)
        self.left = nn.Linear(width, rank, bias=False)
        self.right = nn.Linear(width, rank, bias=False)

    def features(self, states: torch.Tensor) -> torch.Tensor:
        """What a passage brings into every comparison, (S, 1 + 2r): utility, left and right factors."""
        dense = self.dense(states)
        z = torch.tanh(dense) if self.activation == "tanh" else gelu(dense)
        return torch.cat([self.utility(z), self.left(z), self.right(z)], dim=1)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Logits of "row is better than column", (n, n), from states (n, H) of one query's passages."""
        features = self.features(states)
        utility, factors = features[:, :1], features[:, 1:]
        left, right = factors.chunk(2, dim=1)
        form = left @ right.T
        return (utility - utility.T) + (form - form.T)

    def save(self, folder: Path) -> None:
        """Writes the head beside an encoder."""
        from safetensors.torch import save as to_bytes

        state = {name: value.detach().float().cpu().contiguous() for name, value in self.state_dict().items()}
        with atomic_write(folder / HEAD_FILE, "wb") as stream:
            stream.write(to_bytes(state, {"activation": self.activation} if self.activation != "tanh" else None))

    @classmethod
    def load(cls, folder: Path, hidden: int) -> PairHead:
        """Reads the head beside an encoder of width ``hidden``.

        Raises MissingResourceError where there is none, InputError where it has other weights or shapes.
        """
        from safetensors import SafetensorError, safe_open

        path = folder / HEAD_FILE
        if not path.is_file():
            raise MissingResourceError(f"{folder} holds no {HEAD_FILE}: it is not a late pair model; train one")
        try:
            with safe_open(path, "pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                activation = (file.metadata() or {}).get("activation", "tanh")
            if activation not in get_args(Activation):
                raise InputError(f"{path}: the activation is {activation!r}, not one of {get_args(Activation)}")
            head = cls(hidden, len(state["dense.weight"]), len(state["left.weight"]), activation)
            head.load_state_dict(state)
        except (SafetensorError, KeyError, RuntimeError) as error:
            raise InputError(f"{path}: not the head of a late pair model of width {hidden}: {error}") from None
        return head.eval()


def pair_logits(first: Features, second: Features) -> Features:
    """Logits of "first is better" from features (g, 1 + 2r) of both; swapping them flips the sign exactly."""
    rank = (first.shape[1] - 1) // 2
    (u, left, right), (v, other_left, other_right) = (
        (x[:, 0], x[:, 1 : 1 + rank], x[:, 1 + rank :]) for x in (first, second)
    )
    logits: Features = (u - v) + ((left * other_right).sum(1) - (other_left * right).sum(1))
    return logits
