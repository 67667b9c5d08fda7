"""Makes tests/golden/set_encoder-{bert,electra}: tiny random Set-Encoders that lightning-ir wrote, with its scores.

Runs in an environment of its own, with lightning-ir 0.0.6 and transformers 4.57 (under transformers 5 the mask of
its Set-Encoder is no longer asked for, so that padding is attended to):

    python -m venv peer && peer/bin/pip install torch lightning-ir==0.0.6 'transformers==4.57.1'
    peer/bin/python tests/golden/make_set_encoder.py

Missing documents are not sampled, so the scores are deterministic; only a list of one has no variance to sample
from, so that scores with sampling exist for it too.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from lightning_ir.models.cross_encoders.set_encoder import SetEncoderConfig, SetEncoderModel, SetEncoderTokenizer
from transformers import BertConfig, BertModel, BertTokenizerFast, ElectraConfig, ElectraModel

TEXT = "the river mountain coffee bread market science history music planet ocean winter garden ##s ##ing , ?"
WORDS = TEXT.split()
SIZES = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 40, "vocab_size": len(WORDS) + 6, "initializer_range": 0.3,
}  # fmt: skip
QUERY = "winter coffee markets?"
DOCUMENTS = (
    "the river", "coffee, bread", "mountains history music planet ocean winter garden", "science", "",
    "the winter coffee markets, the winter market", "ocean ocean ocean", "gardening music bread river the the the the",
    "planets, rivers, mountains, oceans", "history science",
)  # fmt: skip
LISTS = (1, 2, 3, 7, 10)


def backbone(kind: str, folder: Path) -> None:
    """A random encoder and its tokenizer, as Hugging Face saves them."""
    torch.manual_seed(7)
    if kind == "bert":
        body = BertModel(BertConfig(**SIZES))
    else:
        body = ElectraModel(ElectraConfig(**SIZES, embedding_size=12))
    body.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)


def main() -> None:
    here = Path(__file__).parent
    for kind, extra in (("bert", False), ("electra", True)):
        with tempfile.TemporaryDirectory() as scratch:
            backbone(kind, Path(scratch))
            config = SetEncoderConfig(
                query_length=4, doc_length=8, add_extra_token=extra, sample_missing_docs=False, depth=10,
                linear_bias=extra,
            )  # fmt: skip
            torch.manual_seed(8)
            model = SetEncoderModel.from_pretrained(scratch, config=config).eval()
            tokenizer = SetEncoderTokenizer.from_pretrained(
                scratch, query_length=4, doc_length=8, add_extra_token=extra
            )
        with torch.no_grad():
            model.linear.weight.copy_(torch.randn(1, 16))
        golden = {"query": QUERY, "documents": DOCUMENTS, "lists": {}}
        for n in LISTS:
            golden["lists"][n] = scores(model, tokenizer, n)
        model.config.sample_missing_docs = True
        golden["one, sampled"] = scores(model, tokenizer, 1)
        model.config.sample_missing_docs = False
        folder = here / f"set_encoder-{kind}"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


def scores(model: SetEncoderModel, tokenizer: SetEncoderTokenizer, n: int) -> list[float]:
    """The peer's scores of the first ``n`` documents, as one list."""
    encoding = tokenizer.tokenize(
        [QUERY], list(DOCUMENTS[:n]), [n], padding=True, return_tensors="pt"
    )["encoding"]  # fmt: skip
    with torch.inference_mode():
        return model(encoding).scores.tolist()


if __name__ == "__main__":
    main()
