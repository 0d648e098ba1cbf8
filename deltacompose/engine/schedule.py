"""Schedule of a plan: ready cells in groups, the longest first."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import networkx as nx

from deltacompose.errors import BadInput
from deltacompose.study.config import Cell

Grouping = Callable[[Sequence[Cell], Mapping[str, Any]], list[list[Cell]]]
"""Parts ready cells into groups that are sent to a worker together, given the options of the run."""


def bank_of_spec(cell: Cell) -> str | None:
    """A training cell's `spec["bank"]`: a text that equals those of the cells that it can share a bank with."""
    return cell.spec.get("bank")


def tokens_of_spec(cell: Cell) -> float:
    """A training cell's `spec["batch_tokens"]`: how many tokens one of its steps takes; 0 where it does not say."""
    return float(cell.spec.get("batch_tokens", 0))


def delta_of_spec(cell: Cell) -> object:
    """Key of the evaluation cells of one delta: their parents and the backbone."""
    return cell.parents, str(cell.spec.get("backbone"))


def by_bank(
    ready: Sequence[Cell],
    options: Mapping[str, Any],
    bank: Callable[[Cell], str | None] = bank_of_spec,
    tokens: Callable[[Cell], float] = tokens_of_spec,
    evaluated: Callable[[Cell], object] = delta_of_spec,
) -> list[list[Cell]]:
    """The ordinary grouping: trainings that can be banked, evaluations of one delta, all else alone.

    Training cells go together if `bank` gives the same text for them (None for one that cannot be banked), up to
    `options["tokens"]` tokens per step and `options["bank"]` cells (16). Evaluation cells go together if `evaluated`
    gives the same for them (their parents and backbone), up to `options["evaluations"]` of them (64). No group is so
    large that one of `options["slots"]` idle workers would stay so. A training by several processes goes alone.
    """
    # Banks of the largest size would leave workers idle: 8 cells for 4 workers are four banks of 2.
    share = max(1, math.ceil(len(ready) / options.get("slots", 1)))
    most = {"train": options.get("bank", 16), "evaluate": options.get("evaluations", 64)}
    alike: dict[object, list[Cell]] = defaultdict(list)
    # Neighbours in this order share a group, so that few cheap cells wait for an expensive one in their bank.
    for cell in sorted(ready, key=lambda cell: -cell.cost):
        alike[_likeness(cell, bank, evaluated)].append(cell)
    groups = []
    for cells in alike.values():
        room = options.get("tokens", math.inf) if cells[0].kind == "train" else math.inf
        shares = [0.0 if room == math.inf else tokens(cell) / room for cell in cells]
        groups += _parted(cells, min(share, most.get(cells[0].kind, 1)), shares)
    return groups


def _likeness(
    cell: Cell, bank: Callable[[Cell], str | None], evaluated: Callable[[Cell], object] = delta_of_spec
) -> object:
    if cell.kind == "train" and cell.spec.get("processes", 1) == 1 and bank(cell) is not None:
        return cell.kind, bank(cell)
    if cell.kind == "evaluate":
        return cell.kind, evaluated(cell)
    return cell.key


def _parted(cells: Sequence[Cell], most: int, shares: Sequence[float]) -> list[list[Cell]]:
    """Cells in groups of at most so many, whose shares of the budget add up to no more than one."""
    groups: list[list[Cell]] = []
    used = 0.0
    for cell, share in zip(cells, shares, strict=True):
        if not groups or len(groups[-1]) == most or used + share > 1:
            groups.append([])
            used = 0.0
        groups[-1].append(cell)
        used += share
    return groups


class Schedule:
    """Settled, ready and waiting cells of a plan that may grow. Changes with every cell that ends.

    Attributes:
        plan: the directed graph of cells, parents to children; nodes are keys with the attribute `cell`.
        done: keys of finished cells.
        failed, blocked: why, by key.
    """

    def __init__(self, group: Callable[[Sequence[Cell]], list[list[Cell]]]) -> None:
        self.plan = nx.DiGraph()
        self.done: set[str] = set()
        self.failed: dict[str, str] = {}
        self.blocked: dict[str, str] = {}
        self._group = group
        # Ready cells are grouped as late as possible, in `take`, because more neighbours make fuller banks.
        self._ready: list[Cell] = []
        self._queue: list[tuple[float, int, list[Cell]]] = []
        self._later: list[tuple[float, int, list[Cell]]] = []
        self._count = itertools.count()

    @property
    def open(self) -> bool:
        """Whether a cell is neither done, failed nor blocked."""
        return len(self.done) + len(self.failed) + len(self.blocked) < len(self.plan)

    @property
    def queued(self) -> int:
        """How many groups could be given out now."""
        return len(self._queue)

    def cell(self, key: str) -> Cell:
        """The cell of a key of the plan."""
        planned: Cell = self.plan.nodes[key]["cell"]
        return planned

    def settled(self, key: str) -> bool:
        """Whether a cell is done, failed or blocked."""
        return key in self.done or key in self.failed or key in self.blocked

    def grow(self, cells: Iterable[Cell]) -> list[Cell]:
        """Add cells to the plan; gives those that are new. `begin` them when their state in the store is known."""
        new = list({cell.key: cell for cell in cells if cell.key not in self.plan}.values())
        self.plan.add_nodes_from((cell.key, {"cell": cell}) for cell in new)
        self.plan.add_edges_from((parent, cell.key) for cell in new for parent in cell.parents if parent in self.plan)
        return new

    def begin(self, cell: Cell) -> None:
        """Make a cell ready if nothing stands before it, or blocked if a parent failed."""
        if self.settled(cell.key):
            return
        for parent in self.plan.predecessors(cell.key):
            if parent in self.failed or parent in self.blocked:
                self._block(cell.key, parent)
                return
        if all(parent in self.done for parent in self.plan.predecessors(cell.key)):
            self._ready.append(cell)

    def finish(self, key: str) -> None:
        """Take a cell as done, which may make its children ready."""
        self.done.add(key)
        for child in self.plan.successors(key):
            self.begin(self.cell(child))

    def fail(self, key: str, reason: str) -> list[str]:
        """Take a cell as failed; gives its descendants, which are blocked by that."""
        self.failed[key] = reason
        blocked = [child for child in nx.descendants(self.plan, key) if not self.settled(child)]
        for child in blocked:
            self._block(child, key)
        return blocked

    def _block(self, key: str, by: str) -> None:
        cause = self.failed.get(by)
        self.blocked[key] = self.blocked[by] if cause is None else f"{label(self.cell(by))} failed: {cause}"

    def take(self, now: float) -> list[Cell] | None:
        """The group to be done next, or None. `now` is in seconds of any clock that only goes forward."""
        while self._later and self._later[0][0] <= now:
            self._push(heapq.heappop(self._later)[2])
        ready, self._ready = self._ready, []
        groups = self._group(ready) if ready else []
        if sorted(cell.key for group in groups for cell in group) != sorted(cell.key for cell in ready):
            raise BadInput("the grouping of ready cells must give every cell once; it lost or doubled some")
        for group in groups:
            self._push(group)
        return heapq.heappop(self._queue)[2] if self._queue else None

    def _push(self, group: list[Cell]) -> None:
        heapq.heappush(self._queue, (-sum(cell.cost for cell in group), next(self._count), group))

    def put_back(self, group: list[Cell], until: float) -> None:
        """Give a group out again, but not before a moment."""
        heapq.heappush(self._later, (until, next(self._count), group))


def label(cell: Cell) -> str:
    """A cell in a few words: `train lora on sst2, seed 0`."""
    spec = cell.spec
    words = [cell.kind, str(spec.get("composition") or "")]
    if spec.get("source") or spec.get("task"):
        words += ["on" if spec.get("task") else "from", str(spec.get("task") or spec.get("source"))]
    if spec.get("target"):
        words += ["to", str(spec["target"])]
    text = " ".join(word for word in words if word)
    return f"{text}, seed {spec['seed']}" if "seed" in spec else text
