"""Diagnostics against definitions worked out by hand or by brute force."""

from __future__ import annotations

import dataclasses
import itertools
from math import comb

import numpy as np
import pytest
from sparring.rerank.pairs.diagnostics import diagnose
from sparring.rerank.vocabulary import Preferences


def topic(size, rows, weight=None) -> Preferences:
    first, second, probability = (np.array(column) for column in zip(*rows, strict=True)) if rows else [[]] * 3
    return Preferences(
        np.array([size]),
        np.array([0, len(rows)]),
        np.asarray(first, np.int32),
        np.asarray(second, np.int32),
        np.asarray(probability, float),
        weight,
    )


def tournament(seed, size) -> Preferences:
    rng = np.random.default_rng(seed)
    return topic(size, [(i, j, rng.random()) for i, j in itertools.combinations(range(size), 2)])


def test_both_orders_by_hand():
    said = diagnose(topic(3, [(0, 1, 0.9), (1, 0, 0.2), (0, 2, 0.7), (2, 0, 0.6), (1, 2, 0.5)]))
    assert said.both_orders == 2 and said.pairs == 3 and said.comparisons == 5
    assert said.flip_rate == 0.5  # 0 against 2 is won by whoever comes first
    assert said.asymmetry == pytest.approx((0.1 + 0.3) / 2)
    there, back = [0.9, 0.2, 0.7, 0.6], [0.8, 0.1, 0.4, 0.3]
    assert said.correlation == pytest.approx(np.corrcoef(there, back)[0, 1])
    assert said.tie_rate == pytest.approx(1 / 5)
    assert said.first_wins == pytest.approx((0.9 + 0.2 + 0.7 + 0.6 + 0.5) / 5)


@pytest.mark.parametrize("seed", range(5))
def test_cyclic_triads_of_a_tournament_follow_from_its_out_degrees(seed):
    size = 9
    preferences = tournament(seed, size)
    wins, _, _ = preferences.dense()
    degrees = (wins[0] > 0.5).sum(axis=1)
    said = diagnose(preferences)
    assert said.triads == comb(size, 3)
    assert said.cyclic_triads == comb(size, 3) - sum(comb(int(d), 2) for d in degrees)
    assert said.coverage == 1 and said.components == 1


@pytest.mark.parametrize("seed", range(3))
def test_min_transitivity_is_what_enumeration_finds(seed):
    preferences = tournament(seed, 7)
    p = preferences.dense()[0][0]
    triples = [min(p[a, b], p[b, c]) <= p[a, c] for a, b, c in itertools.permutations(range(7), 3)]
    assert diagnose(preferences).min_transitivity == pytest.approx(np.mean(triples))


def test_hodge_ratio_is_zero_for_differences_and_one_for_a_cycle():
    score = np.array([0.4, 0.1, 0.0, -0.2])
    rows = [(i, j, (1 + score[i] - score[j]) / 2) for i, j in [(0, 1), (1, 2), (0, 2), (2, 3), (0, 3)]]
    assert diagnose(topic(4, rows)).inconsistency == pytest.approx(0, abs=1e-7)
    assert diagnose(topic(3, [(0, 1, 0.8), (1, 2, 0.8), (2, 0, 0.8)])).inconsistency == pytest.approx(1)


def test_hodge_ratio_is_the_residual_of_least_squares():
    preferences = tournament(3, 6)
    rows = np.zeros((len(preferences.first), 6))
    rows[np.arange(len(rows)), preferences.first] = 1
    rows[np.arange(len(rows)), preferences.second] = -1
    flow = 2 * preferences.probability - 1
    fitted = rows @ np.linalg.lstsq(rows, flow, rcond=None)[0]
    expected = np.linalg.norm(flow - fitted) / np.linalg.norm(flow)
    assert diagnose(preferences).inconsistency == pytest.approx(expected)


def test_connectivity_counts_components_and_the_never_compared():
    said = diagnose(topic(6, [(0, 1, 0.6), (2, 3, 0.6), (1, 4, 0.2)]))
    assert said.components == 3 and said.unsampled == 1
    assert said.comparisons_per_candidate == 1.0
    assert "3 components" in str(said) and "never compared: 1" in str(said)


def test_topics_are_pooled_and_need_not_have_the_same_size():
    parts = [tournament(1, 9), topic(0, []), tournament(2, 5), topic(4, [])]
    said = diagnose(Preferences.join(parts))
    alone = [diagnose(part) for part in parts]
    assert said.topics == 4 and said.candidates == 18
    for name in ("comparisons", "pairs", "triads", "cyclic_triads", "unsampled"):
        assert getattr(said, name) == sum(getattr(one, name) for one in alone)


def test_comparisons_of_weight_zero_do_not_count():
    rows = [(0, 1, 0.9), (1, 2, 0.9), (2, 0, 0.9)]
    said = diagnose(topic(3, rows, np.array([1.0, 1.0, 0.0])))
    assert said.comparisons == 2 and said.triads == 0


def test_nothing_asked_is_not_an_error_and_reads_well():
    said = diagnose(topic(3, []))
    assert said.comparisons == 0 and np.isnan(said.tie_rate) and np.isnan(said.inconsistency)
    assert "nan" not in str(said)
    assert dataclasses.fields(said)
    nothing = diagnose(
        Preferences(np.empty(0, np.int64), np.zeros(1, np.int64), *[np.empty(0, np.int32)] * 2, np.empty(0))
    )
    assert nothing.topics == 0


def test_reads_as_a_few_lines():
    lines = str(diagnose(tournament(0, 8))).splitlines()
    assert len(lines) == 7 and max(map(len, lines)) < 120
