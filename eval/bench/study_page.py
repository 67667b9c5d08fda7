"""What is kept of a sampling study: a page with its benches side by side, settings down and budgets across."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..measures.significance import bootstrap_interval
from ..text_table import Table
from .summary import ALL, Line, groups, smallest, verdict

SHOWN = ("bayes", "log_odds")
RIVAL = ("window(skip=7)", "greedy")
"""Schedule and aggregator of the setting in the first table, and of the one that it is compared with."""


@dataclass(frozen=True, slots=True)
class Bench:
    """The lines of one judge's bench, and the details in the header of its rows."""

    judge: str
    lines: Sequence[Line]
    details: Mapping[str, Any]


def study_page(study: str, benches: Sequence[Bench]) -> str:
    """The Markdown page of a study whose benches share collection, measure and budgets."""
    details = benches[0].details
    against = "the ranking that all pairs give" if details["reference"] == "all-pairs" else "the qrels"
    return (
        f"# {study}\n\n"
        f"{details['measures'][0]} against {against}, means over {len(details['seeds'])} seeds; topics: "
        f"{details['topics']}, of up to {details['candidates']} candidates. Made by `sparring benchmark sampling "
        f"{study}`.\n\n"
        f"{opening(details['margin'])}\n\n{equivalent_table(benches).markdown()}\n"
        f"{CAPTION}\n\n{budgets_table(benches).markdown()}\n" + "".join(f"{note(bench)}\n" for bench in benches)
    )


CAPTION = "Every setting, by budget; bold: equivalent to all pairs with the same aggregator."


def opening(margin: float) -> str:
    """What the first table shows."""
    shown, rival = " with ".join(SHOWN), " with ".join(RIVAL)
    return (
        f"The smallest budget from which on {shown} is equivalent to all pairs (TOST, margin {margin:g}); there "
        f"its difference to all pairs with the 90 % interval, and to {rival} with the 95 % interval over topics:"
    )


def equivalent_table(benches: Sequence[Bench]) -> Table:
    """A row per judge: first stage, all pairs, the smallest budget that equals all pairs, and what it gives."""
    header = ["judge", "first stage", "all pairs", "equivalent from", SHOWN[0], "to all pairs"]
    rows = [_equivalent(bench.judge, bench.lines, bench.details["margin"]) for bench in benches]
    return Table([*header, f"to {' + '.join(RIVAL)}", "rounds"], rows)


def _equivalent(judge: str, lines: Sequence[Line], margin: float) -> list[str]:
    first = next((line for line in lines if line.schedule == "first stage"), None)
    full = next((line for line in lines if line.schedule == ALL and line.aggregator == SHOWN[1]), None)
    row = [judge, *("" if line is None else f"{line.mean:.3f}" for line in (first, full))]
    group = groups(lines).get(SHOWN, [])
    line = smallest(group, [verdict(line, margin) == "equivalent" for line in group])
    if line is None:
        return [*row, "never" if group else "", "", "", "", ""]
    difference = f"{line.difference:+.4f} ({line.low:+.4f}, {line.high:+.4f})"
    rivals = [other for other in groups(lines).get(RIVAL, []) if other.budget == line.budget]
    lead = _lead(line, rivals[0]) if rivals else ""
    return [*row, line.budget, f"{line.mean:.3f}", difference, lead, str(line.rounds)]


def _lead(line: Line, other: Line) -> str:
    low, high = bootstrap_interval(line.values, other.values)
    return f"{line.mean - other.mean:+.4f} ({low:+.4f}, {high:+.4f})"


def budgets_table(benches: Sequence[Bench]) -> Table:
    """A row per judge, schedule and aggregator: means by budget, and of all pairs with this aggregator."""
    budgets = list(dict.fromkeys(line.budget for bench in benches for line in bench.lines if line.sampled))
    rows: list[list[str]] = []
    bold: set[tuple[int, int]] = set()
    for bench in benches:
        full = {line.aggregator: f"{line.mean:.3f}" for line in bench.lines if line.schedule == ALL}
        for (schedule, aggregator), group in groups(bench.lines).items():
            found = {line.budget: line for line in group}
            bold |= {
                (len(rows), 3 + column)
                for column, budget in enumerate(budgets)
                if budget in found and verdict(found[budget], bench.details["margin"]) == "equivalent"
            }
            means = [f"{found[budget].mean:.3f}" if budget in found else "" for budget in budgets]
            rows.append([bench.judge, schedule, aggregator, *means, full.get(aggregator, "")])
    header = ["judge", "schedule", "aggregator", *budgets, "all pairs"]
    return Table(header, rows, labels=3, best=frozenset(bold))


def note(bench: Bench) -> str:
    """A line on what compares nothing, and on how consistent the judge is."""
    label = "SIMULATED outcomes; " if bench.details["simulation"] else ""
    means = [
        f"{line.schedule} {line.mean:.3f} ({line.mean_low:.3f}-{line.mean_high:.3f})"
        for line in bench.lines
        if not line.sampled and line.schedule != ALL
    ]
    cyclic = bench.details["diagnostics"]["cyclic_rate"]
    return f"- {bench.judge}: {label}{', '.join(means)}; {cyclic:.1%} of the judge's triads are cyclic."
