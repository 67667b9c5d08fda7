"""Faults of users' judgments, through `sparring evaluate`."""

from __future__ import annotations

import pytest
from worlds import World


def test_fault_18_a_judged_topic_that_the_run_lacks_counts_as_zero(world: World) -> None:
    world.write("first.run", "\n".join(line for line in world.lines if not line.startswith("q2 ")) + "\n")
    assert world.evaluate() == 0
    assert "1 of 3 judged topics are missing (q2)" in world.errors
    said = "Averages over all 3 judged topics, missing ones as 0, and over the 2 in the run: nDCG@10 "
    every, own = world.errors.split(said)[1].split()[::2]
    assert float(every) == pytest.approx(float(own) * 2 / 3, abs=1e-4) and every in world.results


@pytest.mark.parametrize(
    "line,message",
    [
        ("q0 0 d10 0.5", "grade '0.5' is not a whole number"),
        ("q0 0 d01 2", "document d01 of topic q0 is judged on line 2 already (1 there and 2 here)"),
        ("q0 0 d01 1", "document d01 of topic q0 is judged on line 2 already (the same)"),
    ],
)
def test_fault_19_doubtful_grades(world: World, line: str, message: str) -> None:
    path = world.write("qrels.txt", (world.folder / "qrels.txt").read_text() + line + "\n")
    assert world.evaluate() == 5
    assert f"{path}:25: " in world.errors and message in world.errors


def test_fault_19_negative_grades_are_unjudged(world: World) -> None:
    assert world.evaluate() == 0
    table = world.results
    world.write("qrels.txt", (world.folder / "qrels.txt").read_text() + "q0 0 d20 -1\n")
    assert world.evaluate() == 0 and world.results == table
    assert "1 negative grades count as unjudged" in world.errors
