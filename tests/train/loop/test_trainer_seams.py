"""What the trainers lean on in other libraries: a release that changes it is named, with the file to mend."""

from __future__ import annotations

import ast
import inspect
from importlib import metadata

import pytest
from places import ROOT
from sparring.train.loop.trainer_seams import SEAMS

ADAPTER = "train/loop/trainer_seams.py"


def trainer(name: str) -> type:
    module, _, attribute = name.rpartition(".")
    found: type = getattr(__import__(module), attribute)
    return found


@pytest.mark.parametrize("name", SEAMS)
def test_private_methods_have_the_signature_that_is_replaced(name: str) -> None:
    library = name.partition(".")[0].replace("_", "-")
    for method, parameters in SEAMS[name].items():
        where = f"{library} {metadata.version(library)} broke {name}.{method}: mend {ADAPTER}"
        own = inspect.getattr_static(trainer(name), method, None)
        assert own is not None, f"{where} (it is gone)"
        found = tuple(inspect.signature(own).parameters)
        assert found == parameters, f"{where} (its parameters are {found})"


@pytest.mark.parametrize("name", SEAMS)
def test_training_still_reads_checkpoints_by_them(name: str) -> None:
    import transformers

    source = inspect.getsource(transformers.Trainer.train)
    version = metadata.version("transformers")
    for method in SEAMS[name]:
        assert f"self.{method}(" in source, f"transformers {version} no longer calls {method}: mend {ADAPTER}"


def test_no_other_file_of_train_uses_private_names_of_a_trainer() -> None:
    private = {
        "_save",
        "_load_from_checkpoint",
        "_get_train_sampler",
        "_get_dataloader",
        "_prepare_inputs",
        "_tr_loss",
    }
    for path in (ROOT / "train").rglob("*.py"):
        text = path.read_text("utf-8")
        assert path == ROOT / ADAPTER or "sentence_transformers.base" not in text, path
        for node in ast.walk(ast.parse(text)):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "name", None)
            assert path == ROOT / ADAPTER or name not in private, f"{path}: {name}"
