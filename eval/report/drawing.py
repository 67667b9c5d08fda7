"""How pictures are drawn: colours for light, dark and print, and figures as SVG in a page or as files."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...rerank.data.atomic import atomic_write
from ...rerank.errors import MissingPrerequisiteError

INK, MUTED, GRID, PAPER = "#1b1b1f", "#6a6a72", "#dedee4", "#fefefe"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c564b")
"""Okabe and Ito's colours, told apart by most colour-blind readers; markers and dashes differ too."""
DARK = {
    INK: "#ececf1",
    MUTED: "#a2a2ad",
    GRID: "#3a3a43",
    PAPER: "#17171b",
    "#0072b2": "#4aa8e0",
    "#d55e00": "#ff8a3d",
    "#009e73": "#2fc79b",
    "#7a5195": "#b08bd0",
    "#8c564b": "#c48f83",
}
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "h")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)))


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure by name, with the caption that also speaks to those who cannot see it, and as SVG text."""

    name: str
    caption: str
    figure: Any
    svg: str


def pyplot() -> Any:
    """matplotlib's pyplot without a display; MissingPrerequisiteError with the command where it is absent."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise MissingPrerequisiteError("pictures need matplotlib: pip install 'sparring[report]'") from None
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


@contextlib.contextmanager
def style() -> Iterator[Any]:
    """pyplot with the toolkit's look; the user's settings are left alone."""
    plt = pyplot()
    look = {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "grid.linewidth": 0.7,
        "text.color": INK,
        "text.parse_math": False,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
        "lines.linewidth": 1.6,
        "lines.markersize": 4.5,
        "svg.fonttype": "none",
        "figure.facecolor": PAPER,
        "axes.facecolor": "none",
        "savefig.facecolor": PAPER,
    }
    with plt.rc_context(look), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*missing from font.*")  # texts come in any script
        yield plt


def drawn(name: str, caption: str, draw: Callable[[Any], Any]) -> Picture:
    """Calls ``draw(pyplot)``, which returns a figure, in the toolkit's look."""
    stream = io.StringIO()
    with style() as plt, plt.rc_context({"svg.hashsalt": name}):
        figure = draw(plt)
        figure.savefig(stream, format="svg", metadata={"Date": None}, dpi=200)
    exact = re.compile(r"(\.\d\d)\d+")  # a hundredth of a point is as fine as anyone sees
    svg = re.sub(r' (?:d|x|y)="[^"]*"', lambda found: exact.sub(r"\1", found[0]), stream.getvalue())
    return Picture(name, caption, figure, svg)


def inline_svg(picture: Picture) -> str:
    """The picture as an <svg> element whose colours follow the page: light, dark or print."""
    text = picture.svg[picture.svg.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    for colour in (INK, MUTED, GRID, PAPER, *SERIES):
        text = text.replace(colour, f"var(--{name_of(colour)})")
    text = re.sub(r'<svg ([^>]*?)width="[^"]*pt" height="[^"]*pt"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*pt"([^>]*?)width="[^"]*pt"', r"<svg \1\2", text, count=1)
    width = round(picture.figure.get_figwidth() * 120)  # so that letters are of one size in all pictures
    return text.replace("<svg ", f'<svg role="img" style="max-width: {width}px" ', 1)


def save(picture: Picture, folder: Path) -> list[Path]:
    """Writes the picture as PNG (160 dpi) and SVG into ``folder``; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{picture.name}.png", folder / f"{picture.name}.svg"]
    with style(), atomic_write(files[0], "wb") as stream:
        picture.figure.savefig(stream, format="png", dpi=160)
    with atomic_write(files[1]) as text:
        text.write(picture.svg)
    return files


def close(picture: Picture) -> None:
    """Frees the figure."""
    pyplot().close(picture.figure)


def name_of(colour: str) -> str:
    """The CSS variable of a colour."""
    names = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper"}
    return names.get(colour) or f"series-{SERIES.index(colour)}"


def colours(dark: bool) -> str:
    """CSS variables of all colours."""
    chosen = [
        (colour, DARK.get(colour, colour) if dark else colour) for colour in (INK, MUTED, GRID, PAPER, *SERIES)
    ]
    return " ".join(f"--{name_of(colour)}: {value};" for colour, value in chosen)
