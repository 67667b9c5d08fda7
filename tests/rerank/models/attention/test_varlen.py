"""The options of torch's attention over packed sequences are those that the table of releases says."""

from __future__ import annotations

import inspect

import pytest
import torch
from relied_on import relied_on
from sparring.rerank.models.attention.varlen import OPTIONS, kernel_fits, options_of

ADAPTER = "rerank/models/attention/varlen.py"


@pytest.mark.parametrize(
    "version,release",
    [("2.10.0", (2, 10)), ("2.11.1+cu128", (2, 11)), ("2.12.0a0+git1", (2, 12)), ("2.13.0+cpu", (2, 12)),
     ("3.0", (2, 12)), ("2.9.1", (2, 10))],
)  # fmt: skip
def test_a_release_takes_the_options_of_the_newest_entry_before_it(version: str, release: tuple[int, int]) -> None:
    assert options_of(version) == OPTIONS[release]


def test_the_installed_release_takes_what_the_table_says() -> None:
    attention = pytest.importorskip("torch.nn.attention.varlen")
    with relied_on("torch", ADAPTER):
        found = set(inspect.signature(attention.varlen_attn).parameters)
        every = set().union(*OPTIONS.values())
        assert found & every == options_of(torch.__version__)
        assert {"query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k", "return_aux"} <= found
        assert attention.AuxRequest(lse=True).lse


def test_the_kernel_is_for_half_precision_on_cuda_only() -> None:
    assert not kernel_fits(torch.zeros(4, 2, 8))
    assert not kernel_fits(torch.zeros(4, 2, 8, dtype=torch.bfloat16))
