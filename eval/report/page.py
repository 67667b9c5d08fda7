"""One self-contained HTML page: tables, pictures and commands, for screens light and dark and for paper."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..text_table import Table
from .drawing import Picture, colours, inline_svg

_CSS = """
:root { color-scheme: light dark; LIGHT --panel: #f4f4f7; --link: #00558a; }
@media (prefers-color-scheme: dark) { :root { DARK --panel: #212127; --link: #7cc4f0; } }
@media print { :root { LIGHT --panel: #ffffff; --link: #000000; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.2rem 4rem; max-width: 72rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.35rem; margin: 2.8rem 0 .6rem; padding-top: .7rem; border-top: 1px solid var(--grid); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
a { color: var(--link); }
nav a { margin-right: 1rem; }
.lead, figcaption, .note { color: var(--muted); }
.label { display: inline-block; padding: .1rem .55rem; border: 1px solid currentColor; border-radius: 1rem;
  font-size: .85rem; font-weight: 600; color: var(--series-1); }
figure { margin: 1.2rem 0; }
figure svg { width: 100%; height: auto; display: block; }
figcaption { font-size: .88rem; margin-top: .3rem; max-width: 60rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem .7rem .22rem 0; text-align: right; vertical-align: top; white-space: nowrap; }
th { border-bottom: 1.5px solid var(--ink); font-weight: 600; }
td { border-bottom: 1px solid var(--grid); }
.wide table { font-size: .76rem; } .wide th, .wide td { padding-right: .45rem; }
tr.rule td { border-top: 1.5px solid var(--muted); }
.word { text-align: left; }
td.long { white-space: normal; min-width: 24rem; }
pre { background: var(--panel); border: 1px solid var(--grid); padding: .7rem .9rem; overflow-x: auto;
  font-size: .84rem; white-space: pre-wrap; overflow-wrap: anywhere; border-radius: .3rem; }
.take { font-size: .82rem; color: var(--muted); margin: .3rem 0 0; }
.take a { margin-right: .7rem; }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav, .take { display: none; }
  figure, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  table { font-size: 7.5pt; } .wide table { font-size: 6pt; }
  th, td, .wide th, .wide td { padding-right: .35rem; } th, td.word { white-space: normal; }
  pre { white-space: pre-wrap; } .scroll { overflow: visible; }
}
"""


@dataclass(slots=True)
class Section:
    """A part of the page: blocks of HTML under a heading, and the tables and pictures to keep as files."""

    title: str
    blocks: list[str] = field(default_factory=list)
    tables: list[tuple[str, Table]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)

    def text(self, words: str, kind: str = "") -> None:
        """Adds a paragraph of plain text."""
        self.blocks.append(f"<p{f' class={kind!r}' if kind else ''}>{html.escape(words)}</p>")

    def heading(self, words: str) -> None:
        """Adds a heading inside the section."""
        self.blocks.append(f"<h3>{html.escape(words)}</h3>")

    def table(self, name: str, table: Table) -> None:
        """Adds a table, with links that take it along as TSV, Markdown or LaTeX."""
        self.tables.append((name, table))
        self.blocks.append(_table(name, table))

    def picture(self, picture: Picture) -> None:
        """Adds a picture with its caption."""
        self.pictures.append(picture)
        svg = inline_svg(picture).replace("<svg ", f'<svg aria-label="{html.escape(picture.caption)}" ', 1)
        self.blocks.append(f"<figure>{svg}<figcaption>{html.escape(picture.caption)}</figcaption></figure>")

    def command(self, words: str, line: str) -> None:
        """Adds a command that computes the section's numbers again."""
        self.blocks.append(f"<p class='note'>{html.escape(words)}</p><pre>{html.escape(line)}</pre>")

    def label(self, words: str) -> None:
        """Adds a label that cannot be overlooked."""
        self.blocks.append(f"<p><span class='label'>{html.escape(words)}</span></p>")


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole page; it asks nothing of the network."""
    css = _CSS.replace("LIGHT", colours(dark=False)).replace("DARK", colours(dark=True))
    links = "".join(f"<a href='#s{n}'>{html.escape(s.title)}</a>" for n, s in enumerate(sections))
    body = "".join(
        f"<section id='s{n}'><h2>{html.escape(s.title)}</h2>{''.join(s.blocks)}</section>"
        for n, s in enumerate(sections)
    )
    return (
        "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{html.escape(title)}</title><style>{css}</style></head><body>"
        f"<h1>{html.escape(title)}</h1><p class='lead'>{html.escape(lead)}</p><nav>{links}</nav>{body}"
        "</body></html>\n"
    )


def _table(name: str, table: Table) -> str:
    def cell(tag: str, column: int, words: str) -> str:
        kind = "word" if column < table.labels else ""
        kind += " long" if len(words) > 60 else ""
        return f"<{tag}{f' class={kind.strip()!r}' if kind.strip() else ''}>{html.escape(words)}</{tag}>"

    head = "".join(cell("th", c, words) for c, words in enumerate(table.header))
    rows = []
    for r, row in enumerate(table.rows):
        cells = [cell("td", c, words) for c, words in enumerate(row)]
        for c in range(len(cells)):
            if (r, c) in table.best:
                cells[c] = cells[c].replace(">", "><b>", 1).replace("</td>", "</b></td>")
        rows.append(f"<tr{' class=rule' if r in table.rules else ''}>{''.join(cells)}</tr>")
    forms = (("tsv", "TSV", table.tsv()), ("md", "Markdown", table.markdown()), ("tex", "LaTeX", table.latex()))
    links = "".join(
        f"<a download='{html.escape(name)}.{suffix}' href='data:text/plain;charset=utf-8;base64,"
        f"{base64.b64encode(text.encode()).decode()}'>{label}</a>"
        for suffix, label, text in forms
    )
    wide = " wide" if len(table.header) > 11 else ""
    return (
        f"<div class='scroll{wide}'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
        f"<p class='take'>{links}</p>"
    )
