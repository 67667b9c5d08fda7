"""Spec strings: what is written is what is built, and what is built prints back as it was written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sparring.rerank.contracts import check_component
from sparring.rerank.errors import UsageError
from sparring.rerank.registry import Registry, aggregators, families, schedules

toys = Registry("toy", "sparring.rerank.registry")


@toys.register("window")
@dataclass(frozen=True)
class Window:
    m: int = 5
    rate: float = 0.5
    design: Literal["equi", "latin"] = "equi"
    name: str | None = None
    wide: bool = False

    def __post_init__(self) -> None:
        if self.m < 1:
            raise ValueError("m must be at least 1")


@toys.register("pair_of")
@dataclass(frozen=True)
class PairOf:
    first: Window
    second: Window = Window(m=1)


@pytest.mark.parametrize(
    "spec",
    ["window", "window(m=7)", "window(m=7, rate=0.1, design=latin)", "window(name='a b', wide=True)",
     "pair_of(first=window(m=3))", "pair_of(first=window, second=window(m=2))"],
)  # fmt: skip
def test_a_spec_prints_back_as_it_was_written(spec: str) -> None:
    assert str(toys.parse(spec)) == spec


@given(
    st.integers(1, 99), st.floats(0, 1), st.sampled_from(["equi", "latin"]), st.none() | st.text(), st.booleans()
)
def test_every_component_reads_back(
    m: int, rate: float, design: Literal["equi", "latin"], name: str, wide: bool
) -> None:
    component = Window(m, rate, design, name, wide)
    assert toys.parse(str(component)) == component


def test_positions_and_defaults() -> None:
    assert toys.parse("window(3, 1)") == Window(3, 1.0)
    assert str(toys.parse("window(m=5)")) == "window"


@pytest.mark.parametrize(
    "spec,message",
    [
        ("windw", "did you mean 'window'"),
        ("window(mm=3)", "option of window 'mm'.*did you mean 'm'"),
        ("window(m='x')", "m: expected int, found 'x'"),
        ("window(m=2.5)", "expected int"),
        ("window(m=True)", "expected int"),
        ("window(design=latn)", "did you mean 'latin'"),
        ("window(m=0)", "m must be at least 1"),
        ("window(1, m=2)", "given twice"),
        ("window(", "not a call"),
        ("window(m=a+b)", "cannot read"),
        ("pair_of()", "needs first"),
        ("window(1,2,equi,a,True,6)", "at most 5"),
        ("__import__('os').system('x')", "not a call"),
    ],
)
def test_wrong_specs_say_what_is_wrong(spec: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        toys.parse(spec)


@pytest.mark.parametrize("registry", [schedules, aggregators, families], ids=lambda r: r.kind)
def test_everything_registered_is_documented(registry: Registry) -> None:
    entries = list(registry)
    assert entries
    for name, entry in entries:
        assert entry.__doc__ and not entry.__doc__.startswith(entry.__name__ + "("), name


def test_a_class_may_be_registered_again_where_it_stands() -> None:
    """A cell of a notebook that runs twice, or a module that is read again."""

    def define() -> type:
        @toys.register("again")
        @dataclass(frozen=True)
        class Again:
            width: int = 2

        return Again

    define()
    second = define()
    assert type(toys.parse("again")) is second

    @dataclass(frozen=True)
    class Other:
        width: int = 2

    with pytest.raises(
        UsageError, match=r"'again' is registered twice: by .*Again .*test_registry.py:\d+\) and by .*Other"
    ):
        toys.register("again")(Other)


def test_options_whose_types_are_unknown_are_named() -> None:
    @toys.register("typed")
    @dataclass(frozen=True)
    class Typed:
        m: Absent = 3  # noqa: F821

    with pytest.raises(UsageError, match=r"toy 'typed' of .*Typed.*types of its options.*'Absent'"):
        toys.parse("typed(m=4)")


def test_a_family_needs_defaults_for_all_its_options() -> None:
    @dataclass(frozen=True)
    class Demanding:
        size: int

        def claims(self, checkpoint: object) -> bool:
            return False

        def load(self, checkpoint: object) -> None: ...

    with pytest.raises(UsageError, match="every option needs a default, and size has none"):
        families.register("demanding")(Demanding)
    assert "demanding" not in families.names()


@pytest.mark.parametrize("registry", [schedules, aggregators, families], ids=lambda r: r.kind)
def test_every_component_keeps_what_all_promise(registry: Registry) -> None:
    for name in registry.names():
        check_component(registry.parse(name), registry)
