"""Coverage of the intervals and the rate of false marks in simulations."""

from __future__ import annotations

import math

import interval_coverage
import numpy as np
import pytest
from scipy import stats

from deltacompose.analysis.transfer.uncertainty import marks
from deltacompose.errors import BadInput


@pytest.mark.parametrize("seeds", [3, 8])
@pytest.mark.parametrize("world", interval_coverage.WORLDS, ids=lambda world: world.name)
def test_the_interval_covers_between_92_and_98_percent_and_the_percentile_bootstrap_too_little(world, seeds):
    found = interval_coverage.coverage_of_a_cell(world, seeds, repeats=1000)
    assert 0.92 <= found["crossed"] <= 0.98
    assert found["percentile"] <= {3: 0.80, 8: 0.92}[seeds]


@pytest.mark.parametrize("seeds", [3, 8])
@pytest.mark.parametrize("world", interval_coverage.WORLDS, ids=lambda world: world.name)
def test_the_interval_of_a_mean_of_corrected_values_covers_between_92_and_98_percent(world, seeds):
    """Of 400 simulated matrices: at a coverage of .98 two standard errors of the share that is counted are .014.

    Nothing is allowed below .92: an interval that covers .90 would be counted so high about once in ten times.
    """
    found = interval_coverage.coverage_of_a_mean(world, seeds, repeats=400, tasks=3)
    assert 0.92 <= found <= 0.98 + 0.014


@pytest.mark.parametrize("world", interval_coverage.SKEWED, ids=lambda world: world.name)
def test_the_marks_of_figures_hold_their_rate_where_the_luck_of_seeds_is_skewed(world):
    """Benjamini and Yekutieli, the default: within two standard errors of .05. Benjamini and Hochberg: not always."""
    found = interval_coverage.false_discoveries(world, seeds=5, repeats=200, tasks=3)
    assert found["by"] <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 200)
    assert found["by"] < found["bh"]


def test_in_a_world_of_skewed_luck_the_uncorrected_rule_finds_too_much():
    found = interval_coverage.false_discoveries(interval_coverage.SKEWED[2], seeds=5, repeats=200, tasks=3)
    assert found["bh"] > 0.09 > found["by"]


def test_skewed_luck_has_mean_zero_and_its_world_an_even_chance():
    for world in interval_coverage.SKEWED:
        generator = np.random.default_rng(1)
        luck = world.luck_of((100_000,), generator)
        assert luck.mean() == pytest.approx(0.0, abs=0.01)
        assert luck.std() == pytest.approx(world.seeds, rel=0.03)
        matrix = interval_coverage.draw(world, np.full((1, 1), world.even()), 1000, 1000, generator)
        assert matrix.values.mean() == pytest.approx(0.5, abs=0.015)


@pytest.mark.parametrize("against", ["untouched", "chance"])
@pytest.mark.parametrize(("world", "seeds"), list(zip(interval_coverage.WORLDS, (3, 2, 5, 3), strict=True)))
def test_a_matrix_without_any_effect_gets_a_mark_at_most_as_often_as_promised(world, seeds, against):
    """With no effect every mark is false, so the false discovery rate is the share of matrices with a mark.

    Of 200 matrices: at a rate of q = .05 so many marks or more would come about once in a hundred times.
    """
    found = interval_coverage.false_discoveries(world, seeds, repeats=200, tasks=3, against=against)
    assert found["bh"] <= stats.binom.isf(0.01, 200, 0.05) / 200
    assert found["by"] <= found["bh"]


def test_marks_against_the_untouched_backbone_are_found_where_deltas_are_better():
    """The simulation of no effect would pass as well if nothing were ever marked."""
    generator, world = np.random.default_rng(0), interval_coverage.WORLDS[1]
    matrix = interval_coverage.draw(world, np.full((3, 3), 1.0), 3, 200, generator, np.zeros(3))
    found = marks(matrix)
    assert found.covers == ("seeds and examples",)
    assert found.bh[matrix.off_diagonal].all()


def test_the_tables_print_a_row_per_world_and_number_of_seeds():
    worlds = {
        "coverage": interval_coverage.WORLDS,
        "discoveries": (*interval_coverage.WORLDS, *interval_coverage.SKEWED),
    }
    for what, simulated in worlds.items():
        assert len(interval_coverage.main([what, "2"]).splitlines()) == 2 + 4 * len(simulated)
    with pytest.raises(BadInput, match="no table 'coverag'; did you mean 'coverage'"):
        interval_coverage.main(["coverag"])
