"""Components from elsewhere: where registries live, what installed packages add to them, and ``--import``.

`REGISTRIES` is the one table of what can be named in a spec string. It holds names only, so that nothing of
``train`` or ``eval`` is imported before it is wanted.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING

from .console import log
from .errors import SparringError, UsageError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


@dataclass(frozen=True, slots=True)
class Place:
    """Where a registry lives, and what its entries are.

    Args:
        module, attribute: what to import to have it.
        singular: what one entry is called in messages.
        plural: what all of them are called by ``sparring list``.
        protocol: the class that describes an entry.
        needs: what an entry must have: attributes, and methods with the arguments that they are called with.
        bare: whether every option needs a default, because entries are tried without any.
    """

    module: str
    attribute: str
    singular: str
    plural: str
    protocol: str
    needs: tuple[str, ...] = ()
    bare: bool = False


def _here(attribute: str, singular: str, plural: str, protocol: str, *needs: str, bare: bool = False) -> Place:
    return Place(
        "sparring.rerank.registry", attribute, singular, plural, f"sparring.rerank.{protocol}", needs, bare
    )


REGISTRIES: dict[str, Place] = {
    "families": _here(
        "families", "model family", "models", "models.loading.Family", "claims(checkpoint)", "load(checkpoint)",
        bare=True,
    ),
    "schedules": _here(
        "schedules", "schedule", "schedules", "vocabulary.Schedule", "width", "oriented", "rounds(prior, rng)"
    ),
    "aggregators": _here(
        "aggregators", "aggregator", "aggregators", "vocabulary.Aggregator", "__call__(preferences)"
    ),
    "passages": _here(
        "passages", "way of scoring long documents", "passages", "passages.Passages", "tokens", "starts(length)",
        "reduce(scores)",
    ),
    "executors": Place(
        "sparring.rerank.executors.open", "executors", "executor", "executors",
        "sparring.rerank.executors.open.Executor", ("open(model, options)",),
    ),
    "adaptive": Place(
        "sparring.rerank.search.adaptive", "adaptive", "adaptive search", "adaptive",
        "sparring.rerank.search.adaptive.AdaptiveSearch", ("calls", "search(task, depth, rng)"),
    ),
    "rankers": Place(
        "sparring.train.rankers.kinds", "kinds", "family of rankers", "rankers",
        "sparring.train.rankers.ranker.Kind",
        ("start(start)",),
    ),
    "adapters": Place(
        "sparring.train.rankers.adapters", "adapters", "adapter", "adapters",
        "sparring.train.rankers.adapters.Adapter",
        ("attach(module, base)",),
    ),
    "retrievers": Place(
        "sparring.train.retrievers.model", "retrievers", "family of retrievers", "retrievers",
        "sparring.train.retrievers.model.RetrieverKind", ("codes(folder, body)",),
    ),
    "losses": Place(
        "sparring.train.losses", "losses", "loss", "losses", "sparring.train.losses.Loss",
        ("__call__(scores, labels, mask)",),
    ),
    "retriever_losses": Place(
        "sparring.train.retrievers.losses", "retriever_losses", "loss of retrievers", "retriever-losses",
        "sparring.train.retrievers.losses.RetrieverLoss", ("__call__(encoded) or module(model)",),
    ),
    "samplers": Place(
        "sparring.train.data.samplers", "samplers", "sampling strategy", "samplers",
        "sparring.train.data.samplers.Sampler", ("sample(run, dataset, seed, device)", "accept(labels, seed)"),
    ),
    "sources": Place(
        "sparring.train.data.mixture", "sources", "data source", "sources", "sparring.train.data.mixture.Source",
        ("share", "scale", "sampling", "rows()"),
    ),
    "measures": Place(
        "sparring.eval.measures.catalogue", "measures", "measure", "measures",
        "sparring.eval.measures.own.RankMeasure", ("rel", "lower_is_better", "__call__(grades, relevant)"),
    ),
}  # fmt: skip
"""By the name of the group: the entry points of ``sparring.schedules`` add to the registry of schedules."""


def place_of(singular: str) -> tuple[str, Place] | None:
    """The group and the row of the table whose entries are called so; None for a registry of nobody's."""
    return next(((group, place) for group, place in REGISTRIES.items() if place.singular == singular), None)


# ------------------------------------------------------------------------------------------- installed packages

_broken: dict[str, str] = {}


@cache
def _installed() -> dict[str, list[EntryPoint]]:
    """Entry points of all installed packages, by our groups; read once per process."""
    from importlib.metadata import distributions

    found: dict[str, list[EntryPoint]] = {}
    seen = set()
    for distribution in distributions():
        name = distribution.metadata["Name"]
        if name is not None and name in seen:  # a second copy further down the path, which no import would find
            continue
        seen.add(name)
        for entry in distribution.entry_points:
            if entry.group.startswith("sparring."):
                found.setdefault(entry.group.removeprefix("sparring."), []).append(entry)
    return found


def load_installed(group: str) -> None:
    """Imports what installed packages add to a group; of each that cannot be used one warning says why."""
    for entry in _installed().get(group, []):
        if entry.value in _broken:
            continue
        source = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an installed package"
        try:
            if entry.attr:
                raise UsageError(f"name the module alone, {entry.module}: its import registers components")
            importlib.import_module(entry.module)
        except (Exception, SystemExit) as error:
            _broken[entry.value] = source
            log.warning("plugin %s is left out: %s: %s", source, entry.value, reason(error))
            log.debug("traceback of %s", entry.value, exc_info=error)


def broken() -> list[str]:
    """The installed plugins that were left out so far: a name that is unknown may be one of theirs."""
    return sorted({f"{source} ({module})" for module, source in _broken.items()})


# ------------------------------------------------------------------------------------------------------ --import

_imported: list[str] = []
_registered: list[str] = []


def note(name: str) -> None:
    """Counts a registration, by which an import that registers nothing is told."""
    _registered.append(name)


def imported() -> tuple[str, ...]:
    """The modules that `import_modules` has imported: a process that is started must import them too."""
    return tuple(_imported)


def import_modules(names: Iterable[str]) -> None:
    """Imports modules that register components; those in the current folder come before installed ones.

    Raises UsageError where there is no such module or its import fails, with the place where it did.
    """
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # behind everything installed: a file here shadows no library's module
    for name in names:
        if name in _imported:
            continue
        if not all(part.isidentifier() for part in name.split(".")):
            stem = Path(name).with_suffix("").as_posix().removeprefix("./").replace("/", ".")
            raise UsageError(f"--import {name}: write a module's name, not its file's: --import {stem}")
        before, known = len(_registered), name in sys.modules
        try:
            _import(name, here)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
                raise UsageError(_absent(name, error.name, Path(here))) from error
            raise UsageError(f"--import {name}: {reason(error)}") from error
        except (Exception, SystemExit) as error:
            raise UsageError(f"--import {name}: {reason(error)}") from error
        if not known and len(_registered) == before:
            log.warning(
                "--import %s registers nothing: a component is a class with @schedules.register(name)", name
            )
        _imported.append(name)


def _import(name: str, folder: str) -> None:
    top = name.partition(".")[0]
    if top not in sys.modules:
        spec = PathFinder.find_spec(top, [folder])
        if spec is not None and spec.loader is not None and spec.origin is not None:
            module = importlib.util.module_from_spec(spec)
            sys.modules[top] = module
            try:
                spec.loader.exec_module(module)
            except BaseException:
                sys.modules.pop(top, None)
                raise
    importlib.import_module(name)


def _absent(name: str, missing: str, folder: Path) -> str:
    if name.endswith(".py"):
        return f"--import {name}: write a module's name, not its file's: --import {name.removesuffix('.py')}"
    near = difflib.get_close_matches(name, [path.stem for path in folder.glob("*.py")], n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    what = "no module of this name" if name == missing else f"no module {missing}"
    return f"--import {name}: {what} is in {folder} or installed{hint}"


def reason(error: BaseException) -> str:
    """Why an import failed, on one line: where in the code, which error, what it says."""
    if isinstance(error, SparringError):
        return str(error)
    if isinstance(error, SystemExit):
        return "its import ends the program: a plugin is a module, no script"
    where = ""
    if isinstance(error, SyntaxError):
        where = f"{error.filename}:{error.lineno}: "
        return f"{where}SyntaxError: {error.msg}"
    ours = str(Path(__file__).parent)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(("<frozen", ours)) and "importlib" not in frame.filename:
            where = f"{frame.filename}:{frame.lineno}: "
            break
    said = " ".join(str(error).split())
    return f"{where}{type(error).__name__}{': ' if said else ''}{said}"
