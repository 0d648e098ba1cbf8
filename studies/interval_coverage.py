"""Coverage of the intervals and the rate of false marks, on simulated transfer matrices whose truth is known.

`python studies/interval_coverage.py coverage` prints how often a 95 % interval covers the truth with 2, 3, 5
and 8 seeds, next to a percentile bootstrap of the seeds; `… discoveries` how often a matrix without any effect gets a
mark. Both take the number of simulated matrices as a second word. Their results are in `docs/studies.md`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm

from deltacompose.analysis.arrays import Floats
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.statistics import estimate
from deltacompose.analysis.transfer.uncertainty import Against, marks, weighted
from deltacompose.errors import unknown

Generator = np.random.Generator
SEEDS = (2, 3, 5, 8)


Luck = Literal["normal", "rarely bad", "rarely good", "failing"]
FAILING = 0.1
"""How often a seed fails in a world of failing seeds."""


@dataclass(frozen=True)
class World:
    """How scores come about: an example is right if its latent value is above zero.

    latent = level + seed's luck + example's difficulty + what the two do together, each normal with the given standard
    deviation, and so is the score's true mean known.
    """

    name: str
    seeds: float
    examples: float
    both: float
    luck: Luck = "normal"

    def luck_of(self, shape: tuple[int, ...], generator: Generator) -> Floats:
        """The luck of seeds, of mean 0: normal, exponential with its tail below or above, or a rare failure."""
        if self.luck == "normal":
            return generator.normal(0, self.seeds, shape)
        if self.luck == "failing":
            failed = (generator.random(shape) < FAILING).astype(float)
            bad: Floats = (FAILING - failed) * self.seeds / float(np.sqrt(FAILING * (1 - FAILING)))
            return bad
        sign = 1.0 if self.luck == "rarely good" else -1.0
        skewed: Floats = sign * self.seeds * (generator.exponential(1.0, shape) - 1)
        return skewed

    def even(self) -> float:
        """The latent level at which the expected accuracy is one half: zero unless luck is skewed."""
        if self.luck == "normal":
            return 0.0
        luck = self.luck_of((200_000,), np.random.default_rng(0))
        noise = np.sqrt(self.examples**2 + self.both**2)
        return float(brentq(lambda level: norm.cdf((level + luck) / noise).mean() - 0.5, -2, 2))

    def truth(self, level: Floats) -> Floats:
        """(...) expected accuracy, over seeds and examples, at latent levels (...)."""
        result: Floats = norm.cdf(level / np.sqrt(self.seeds**2 + self.examples**2 + self.both**2))
        return result


WORLDS = (
    World("seeds differ, examples alike", 0.4, 0.0, 1.0),
    World("both differ", 0.2, 0.5, 0.8),
    World("examples differ, seeds little", 0.1, 1.0, 0.5),
    World("seeds alike", 0.0, 1.0, 1.0),
)

SKEWED = (
    World("seeds rarely bad", 0.4, 0.5, 1.0, "rarely bad"),
    World("seeds rarely good", 0.4, 0.5, 1.0, "rarely good"),
    World("one seed in ten fails", 0.4, 0.5, 1.0, "failing"),
)
"""Worlds in which Student's t is wrong for few seeds: their luck is not symmetric."""


def draw(
    world: World, levels: Floats, seeds: int, examples: int, generator: Generator, untouched: Floats | None = None
) -> TransferMatrix:
    """A matrix with latent levels (sources, targets); the examples of a target are shared by sources and seeds.

    With latent levels of the untouched backbone, (targets,), it is read on the same examples too: once, because it has
    no seeds. Without, its score is one half and its examples are unknown.
    """
    sources, targets = levels.shape
    names = tuple(f"task{i}" for i in range(max(sources, targets)))
    luck = world.luck_of((seeds, sources, targets, 1), generator) if world.seeds else 0.0
    difficulty = generator.normal(0, world.examples, (targets, examples))
    both = generator.normal(0, world.both, (seeds, sources, targets, examples))
    right = (levels[..., None] + luck + difficulty + both > 0).astype(float)
    values = right.mean(axis=-1)
    nothing = np.zeros(values.shape, dtype=bool)
    scores = {(k, names[s], names[t]): right[k, s, t] for k, s, t in np.ndindex(values.shape)}
    plain = np.full(targets, 0.5)
    if untouched is not None:
        answers = (untouched[:, None] + difficulty + generator.normal(0, world.both, (targets, examples)) > 0).astype(
            float
        )
        plain = answers.mean(axis=1)
        scores |= {(0, "untouched", names[t]): answers[t] for t in range(targets)}
    return TransferMatrix(
        sources=names[:sources],
        targets=names[:targets],
        seeds=tuple(range(seeds)),
        values=values,
        chance=np.full(targets, 0.5),
        untouched=plain,
        random=np.full((seeds, targets), 0.5),
        trivial=nothing,
        failed=nothing,
        metric=("accuracy",) * targets,
        examples=scores,
    )


def coverage_of_a_cell(
    world: World, seeds: int, repeats: int, examples: int = 200, start: int = 0
) -> Mapping[str, float]:
    """Share of 95 % intervals of one cell's score that hold the truth, for three kinds of interval."""
    generator, level = np.random.default_rng(start), np.array([[0.3]])
    truth, held = float(world.truth(level)[0, 0]), {"crossed": 0, "t of seeds": 0, "percentile": 0}
    for _ in range(repeats):
        matrix = draw(world, level, seeds, examples, generator)
        scores = matrix.values[:, 0, 0]
        crossed, alone = weighted(matrix, "raw", np.ones((1, 1))), estimate(scores)
        ends = np.quantile(generator.choice(scores, (1000, seeds)).mean(axis=1), [0.025, 0.975])
        held["crossed"] += crossed.low <= truth <= crossed.high
        held["t of seeds"] += alone.low <= truth <= alone.high
        held["percentile"] += ends[0] <= truth <= ends[1]
    return {name: count / repeats for name, count in held.items()}


def coverage_of_a_mean(world: World, seeds: int, repeats: int, tasks: int = 6, start: int = 0) -> float:
    """Share of 95 % intervals of the mean corrected value over a block of cells that hold the truth."""
    generator = np.random.default_rng(start)
    levels = np.where(np.eye(tasks) == 1, 2.0, generator.normal(0.4, 0.2, (tasks, tasks)))
    corrected = (world.truth(levels) - 0.5) / (np.diag(world.truth(levels)) - 0.5)
    weights = np.where(np.eye(tasks) == 1, 0.0, 1 / (tasks * (tasks - 1)))
    truth, held = float((weights * corrected).sum()), 0
    for _ in range(repeats):
        interval = weighted(draw(world, levels, seeds, 200, generator), "corrected", weights)
        held += interval.low <= truth <= interval.high
    return held / repeats


def false_discoveries(
    world: World, seeds: int, repeats: int, tasks: int = 6, start: int = 0, against: Against = "untouched"
) -> Mapping[str, float]:
    """Share of matrices without any effect in which some cell is marked: their false discovery rate, at q = .05.

    Against the untouched backbone every cell is compared, example by example, with the same answers of the same
    backbone, which are as good as a delta's on average over examples: so the cells of a target go wrong together.
    """
    generator, counts = np.random.default_rng(start), {"bh": 0, "by": 0}
    untouched, even = np.zeros(tasks) if against == "untouched" else None, world.even()
    for _ in range(repeats):
        result = marks(draw(world, np.full((tasks, tasks), even), seeds, 200, generator, untouched), against)
        counts["bh"] += bool(result.bh.any())
        counts["by"] += bool(result.by.any())
    return {name: count / repeats for name, count in counts.items()}


def coverage(repeats: int = 1000) -> str:
    """All worlds at 2, 3, 5 and 8 seeds, as text."""
    lines = [
        f"{repeats} simulated matrices per row; nominal coverage .95",
        f"{'world':<30} seeds  crossed  t of seeds  percentile  mean of C",
    ]
    for world in WORLDS:
        for seeds in SEEDS:
            cell, mean = coverage_of_a_cell(world, seeds, repeats), coverage_of_a_mean(world, seeds, repeats, tasks=3)
            lines.append(
                f"{world.name:<30} {seeds:>5}  {cell['crossed']:>7.3f}  {cell['t of seeds']:>10.3f}  "
                f"{cell['percentile']:>10.3f}  {mean:>9.3f}"
            )
    return "\n".join(lines)


def discoveries(repeats: int = 1000) -> str:
    """As `coverage`, of matrices without any effect."""
    lines = [
        f"{repeats} simulated matrices per row; a mark in a matrix without any effect is false; q .05",
        f"{'world':<30} seeds  untouched (BH)  untouched (BY)  chance (BH)  chance (BY)",
    ]
    for world in (*WORLDS, *SKEWED):
        for seeds in SEEDS:
            independent, other = (
                false_discoveries(world, seeds, repeats, tasks=3, against=level) for level in ("untouched", "chance")
            )
            lines.append(
                f"{world.name:<30} {seeds:>5}  {independent['bh']:>14.3f}  {independent['by']:>14.3f}  "
                f"{other['bh']:>11.3f}  {other['by']:>11.3f}"
            )
    return "\n".join(lines)


def main(words: Sequence[str]) -> str:
    """The table that `python studies/interval_coverage.py WHAT REPEATS` prints."""
    tables = {"coverage": coverage, "discoveries": discoveries}
    what, repeats = [*words, "coverage"][0], [*words[1:], "1000"][0]
    if what not in tables:
        raise unknown("table", what, tables)
    return tables[what](int(repeats))


if __name__ == "__main__":
    sys.stdout.write(main(sys.argv[1:]) + "\n")
