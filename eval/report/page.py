"""One self-contained HTML page: tables, pictures and commands, for screens light and dark and for paper.

What it looks like is in ``templates``; Jinja2 fills them in and escapes all words, whoever wrote them.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ...rerank.errors import MissingPrerequisiteError
from ..text_table import Table
from .drawing import Picture, colours, inline_svg

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a section: ``words`` of a kind, a table (``words`` is its name), or a picture."""

    kind: Literal["text", "heading", "note", "lines", "label", "table", "picture"]
    words: str = ""
    table: Table | None = None
    picture: Picture | None = None


@dataclass(slots=True)
class Section:
    """A part of the page under a heading; its tables and pictures are also kept as files."""

    title: str
    blocks: list[Block] = field(default_factory=list)

    @property
    def tables(self) -> list[tuple[str, Table]]:
        """Its tables with their names."""
        return [(block.words, block.table) for block in self.blocks if block.table is not None]

    @property
    def pictures(self) -> list[Picture]:
        """Its pictures."""
        return [block.picture for block in self.blocks if block.picture is not None]

    def text(self, words: str) -> None:
        """Adds a paragraph of plain text."""
        self.blocks.append(Block("text", words))

    def heading(self, words: str) -> None:
        """Adds a heading inside the section."""
        self.blocks.append(Block("heading", words))

    def lines(self, words: str) -> None:
        """Adds text whose lines and spaces stay as they are."""
        self.blocks.append(Block("lines", words))

    def table(self, name: str, table: Table) -> None:
        """Adds a table, with links that take it along as TSV, Markdown or LaTeX."""
        self.blocks.append(Block("table", name, table=table))

    def picture(self, picture: Picture) -> None:
        """Adds a picture with its caption."""
        self.blocks.append(Block("picture", picture=picture))

    def command(self, words: str, line: str) -> None:
        """Adds a command that computes the section's numbers again."""
        self.blocks += [Block("note", words), Block("lines", line)]

    def label(self, words: str) -> None:
        """Adds a label that cannot be overlooked."""
        self.blocks.append(Block("label", words))


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole page; it asks nothing of the network."""
    template = templates().get_template("page.html")
    return template.render(
        title=title, lead=lead, sections=sections, light=colours(dark=False), dark=colours(dark=True)
    )


def templates() -> Environment:
    """The templates, which escape what they show; MissingPrerequisiteError with the command without Jinja2."""
    try:
        import jinja2
    except ImportError:
        raise MissingPrerequisiteError("pages need Jinja2: pip install 'sparring[report]'") from None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(str(__package__)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(svg=_svg, forms=_forms)
    return environment


def _svg(picture: Picture) -> Markup:
    """The picture as an element of the page: matplotlib has escaped the words in it."""
    from markupsafe import Markup

    start = Markup('<svg aria-label="{}" ').format(picture.caption)
    return Markup(inline_svg(picture).replace("<svg ", start, 1))


def _forms(table: Table) -> list[tuple[str, str, str]]:
    """(suffix, name, content in base64) of the forms in which a table can be taken along."""
    forms = (("tsv", "TSV", table.tsv()), ("md", "Markdown", table.markdown()), ("tex", "LaTeX", table.latex()))
    return [(suffix, name, base64.b64encode(text.encode()).decode()) for suffix, name, text in forms]
