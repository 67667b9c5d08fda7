"""transformers hands an attention function of ours what it relies on."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
from relied_on import relied_on
from sparring.rerank.models.attention.interface import use

ADAPTER = "rerank/models/attention/interface.py"


@pytest.mark.parametrize("kind", ["bert", "electra", "roberta", "xlm-roberta", "camembert", "modernbert", "qwen3"])
def test_keyword_arguments_reach_every_layer(kind: str) -> None:
    from transformers import AutoConfig, AutoModel

    sizes = tiny_models.SIZES | ({"num_key_value_heads": 2, "head_dim": 8} if kind == "qwen3" else {})
    model = AutoModel.from_config(AutoConfig.for_model(kind, **sizes, vocab_size=50, pad_token_id=1)).eval()
    calls: list[tuple[torch.Size, dict[str, Any]]] = []

    def attention(
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        scaling: float | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        calls.append((query.shape, kwargs | {"mask": attention_mask, "scaling": scaling}))
        return torch.zeros_like(query).transpose(1, 2), None

    with relied_on("transformers", ADAPTER), torch.inference_mode():
        use(model, "sparring_probe", attention)
        token = object()
        out = model(
            input_ids=torch.arange(5, 11)[None],
            position_ids=torch.arange(2, 8)[None],
            attention_mask=None,
            layout=token,
            **({"use_cache": False} if kind == "qwen3" else {}),
        )
        heads = model.config.num_attention_heads
        assert out.last_hidden_state.shape == (1, 6, model.config.hidden_size)
        assert len(calls) == model.config.num_hidden_layers
        for shape, said in calls:
            assert shape[:3] == (1, heads, 6)
            assert said["layout"] is token
            assert said["scaling"] == pytest.approx(shape[3] ** -0.5)


def test_windows_are_given_by_layers_that_have_one() -> None:
    from transformers import AutoModel

    model = AutoModel.from_config(tiny_models.classifier_config("modernbert", 50, pad=1)).eval()
    windows: list[int | None] = []

    def attention(
        module: Any, query: torch.Tensor, *others: Any, sliding_window: int | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        windows.append(sliding_window)
        return torch.zeros_like(query).transpose(1, 2), None

    with relied_on("transformers", ADAPTER), torch.inference_mode():
        use(model, "sparring_probe", attention)
        model(input_ids=torch.arange(5, 11)[None], attention_mask=None)
        assert None in windows and any(window is not None and window > 1 for window in windows)
