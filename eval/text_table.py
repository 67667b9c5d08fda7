"""Evaluations as tables for people (text, Markdown, LaTeX) and for programs (TSV, JSON)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
    }
)


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text; the first ``labels`` columns are words (left), the others numbers (right).

    ``best`` names cells (row, column) that Markdown and LaTeX print in bold; ``rules`` are rows above which LaTeX
    draws a line.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1
    best: frozenset[tuple[int, int]] = field(default_factory=frozenset)
    rules: frozenset[int] = field(default_factory=frozenset)

    def text(self) -> str:
        """Columns aligned with spaces."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[c]) for line in lines) for c in range(len(self.header))]
        return "".join(
            "  ".join(
                cell.ljust(width) if column < self.labels else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            + "\n"
            for line in lines
        )

    def tsv(self) -> str:
        """One line per row, cells separated by tabs, header first."""
        lines = [self.header, *self.rows]
        return "".join("\t".join(cell.replace("\t", " ") for cell in line) + "\n" for line in lines)

    def markdown(self) -> str:
        """A GitHub table, best values in bold."""
        ruler = ["---" if column < self.labels else "---:" for column in range(len(self.header))]
        body = [
            [self._bold(r, c, cell.replace("|", r"\|"), "**{}**") for c, cell in enumerate(row)]
            for r, row in enumerate(self.rows)
        ]
        head = [cell.replace("|", r"\|") for cell in self.header]
        return "".join(f"| {' | '.join(line)} |\n" for line in [head, ruler, *body])

    def latex(self) -> str:
        """A tabular environment for the package booktabs, best values in bold."""
        columns = "l" * self.labels + "r" * (len(self.header) - self.labels)
        lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", self._latex_row(None, self.header), r"\midrule"]
        for number, row in enumerate(self.rows):
            if number in self.rules:
                lines.append(r"\midrule")
            lines.append(self._latex_row(number, row))
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"

    def _latex_row(self, number: int | None, row: Sequence[str]) -> str:
        cells = [
            cell.translate(_LATEX)
            if number is None
            else self._bold(number, c, cell.translate(_LATEX), r"\textbf{{{}}}")
            for c, cell in enumerate(row)
        ]
        return " & ".join(cells) + r" \\"

    def _bold(self, row: int, column: int, cell: str, form: str) -> str:
        return form.format(cell) if (row, column) in self.best else cell
