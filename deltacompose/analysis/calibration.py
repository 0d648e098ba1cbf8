"""Whether the intervals and marks keep their word, on simulated transfer matrices whose truth is known.

`python -m deltacompose.analysis.calibration` prints how often a 95 % interval covers the truth with 2, 3, 5 and 8
seeds, beside a percentile bootstrap of the seeds, and how often a matrix without any effect gets a mark.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from deltacompose.analysis.matrix import Floats, TransferMatrix
from deltacompose.analysis.statistics import estimate
from deltacompose.analysis.uncertainty import marks, weighted

Generator = np.random.Generator


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


def draw(world: World, levels: Floats, seeds: int, examples: int, generator: Generator) -> TransferMatrix:
    """A matrix with latent levels (sources, targets); the examples of a target are shared by sources and seeds."""
    sources, targets = levels.shape
    names = tuple(f"task{i}" for i in range(max(sources, targets)))
    luck = generator.normal(0, world.seeds, (seeds, sources, targets, 1)) if world.seeds else 0.0
    difficulty = generator.normal(0, world.examples, (targets, examples))
    both = generator.normal(0, world.both, (seeds, sources, targets, examples))
    right = (levels[..., None] + luck + difficulty + both > 0).astype(float)
    values = right.mean(axis=-1)
    nothing = np.zeros(values.shape, dtype=bool)
    cells = np.ndindex(values.shape)
    return TransferMatrix(
        sources=names[:sources],
        targets=names[:targets],
        seeds=tuple(range(seeds)),
        values=values,
        chance=np.full(targets, 0.5),
        untouched=np.full(targets, 0.5),
        random=np.full((seeds, targets), 0.5),
        trivial=nothing,
        failed=nothing,
        metric=("accuracy",) * targets,
        examples={(k, names[s], names[t]): right[k, s, t] for k, s, t in cells},
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


def false_discoveries(world: World, seeds: int, repeats: int, tasks: int = 6, start: int = 0) -> Mapping[str, float]:
    """Share of matrices without any effect in which some cell is marked: their false discovery rate, at q = .05."""
    generator, found = np.random.default_rng(start), {"bh": 0, "by": 0}
    for _ in range(repeats):
        result = marks(draw(world, np.zeros((tasks, tasks)), seeds, 200, generator), "chance")
        found["bh"] += bool(result.bh.any())
        found["by"] += bool(result.by.any())
    return {name: count / repeats for name, count in found.items()}


def table(repeats: int = 1000) -> str:
    """All worlds at 2, 3, 5 and 8 seeds, as text."""
    head = f"{'world':<30} seeds  crossed  t of seeds  percentile  mean of C  FDR (BH)  FDR (BY)"
    lines = [f"{repeats} simulated matrices per row; nominal coverage .95, q .05", head]
    for world in WORLDS:
        for seeds in (2, 3, 5, 8):
            cell = coverage_of_a_cell(world, seeds, repeats)
            mean = coverage_of_a_mean(world, seeds, max(repeats // 4, 1))
            found = false_discoveries(world, seeds, max(repeats // 4, 1))
            lines.append(
                f"{world.name:<30} {seeds:>5}  {cell['crossed']:>7.3f}  {cell['t of seeds']:>10.3f}  "
                f"{cell['percentile']:>10.3f}  {mean:>9.3f}  {found['bh']:>8.3f}  {found['by']:>8.3f}"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(table(int(sys.argv[1]) if len(sys.argv) > 1 else 1000) + "\n")
