"""The driver: owns the plan, gives out what is ready, and believes only what it finds in the store."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, field
from typing import Any

import networkx as nx

from deltacompose.engine.claims import Claims
from deltacompose.engine.eta import Pace
from deltacompose.engine.executor import Executor, WorkerDied, disk_is_full, kinds, may_pass
from deltacompose.engine.schedule import Grouping, Schedule, by_bank, label
from deltacompose.errors import BadInput
from deltacompose.store.store import Damaged, Store, Unwritable, machine
from deltacompose.study.config import Cell

Progress = Callable[[Mapping[str, Any]], None]
"""Is told every event of a run, as it is written to the log."""

Extension = Callable[[Cell, Mapping[str, Any]], Iterable[Cell]]
"""The cells that a finished cell, with its record, adds to the plan. It must give the same for the same record."""

POLL = 0.5
"""Seconds between two looks at what other drivers are doing."""


@dataclass(frozen=True)
class Work:
    """How cells are carried out.

    Attributes:
        function: `"package.module:name"`; is called with `{"store", "cells", "options"}`, stores each cell itself, and
            gives a list of `{"key", "state", "seconds"}`.
        group: which ready cells go to a worker together.
        extend: which cells a finished cell adds.
        peek: what is known of a cell under way, `step` and `score`; None of one that has nothing to show yet.
        processes: how many processes carry out a cell together, given the options of the run.
    """

    function: str = "deltacompose.cells.carry_out:carry_out"
    group: Grouping = by_bank
    extend: Extension = lambda cell, record: ()
    peek: Callable[[Store, str], Mapping[str, Any] | None] = lambda store, key: None
    processes: Callable[[Cell, Mapping[str, Any]], int] = lambda cell, options: cell.spec.get("processes", 1)


@dataclass(frozen=True)
class Outcome:
    """Outcome of each cell of a plan, by key.

    Attributes:
        done: finished in this run.
        stored: in the store before.
        failed: the reason, also of failures that the store kept from an earlier run.
        blocked: the reason why they were not tried.
        plan: the plan as it was in the end, with what finished cells added to it.
    """

    done: tuple[str, ...]
    stored: tuple[str, ...]
    failed: Mapping[str, str]
    blocked: Mapping[str, str]
    plan: nx.DiGraph = field(repr=False, compare=False)

    def __repr__(self) -> str:
        states = ("done", "stored", "failed", "blocked")
        return f"<outcome: {', '.join(f'{len(getattr(self, state))} {state}' for state in states)}>"


def run_plan(
    plan: nx.DiGraph,
    store: Store,
    executor: Executor,
    work: str | Work = "deltacompose.cells.carry_out:carry_out",
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Carry out those cells of a plan that the store does not have; kept failures are not tried again.

    Args:
        plan: a directed graph from parents to children, each node a key with the attribute `cell`.
        work: how cells are carried out, or only the function.
        options: passed to the function; the engine reads `timeout` (seconds per cell; none), `attempts` (3, for
            transient errors) and `backoff` (1 second, doubled each time), and the grouping those of `by_bank`.
        progress: called with every event.

    Cells that were checkpointed together go on together, so that a bank is resumed as the bank that it was. A group
    whose worker died comes back as it was; one that fails otherwise, or has no attempts left, as two halves. A cell
    that fails alone comes back if its error may pass, else it fails and blocks its descendants. Drivers share stores.

    Raises:
        Unwritable: the store cannot be written; what is finished is kept.
        BadInput: a parent is missing, or the executor cannot be used.
        KeyboardInterrupt: ctrl-C or SIGTERM; nothing is running any more, what is finished is kept.
    """
    store.check_writable()
    run = _Run(store, executor, Work(work) if isinstance(work, str) else work, options or {}, progress)
    with _sigterm_as_interrupt(), run.logged():
        try:
            run.enter(cell for _, cell in plan.nodes(data="cell") if cell is not None)
            run.tell("plan")
            run.loop()
        except BaseException:
            executor.close()
            raise
        finally:
            run.claims.close()
            with contextlib.suppress(Unwritable):
                store.sweep()
    return run.outcome()


class NotStored(OSError):
    """A cell was reported as finished and is not in the store; over a network it may only be late to be seen."""


class _Run:
    """The state of one run: what is under way, how often what was tried. Changes with every cell that ends."""

    def __init__(
        self, store: Store, executor: Executor, work: Work, options: Mapping[str, Any], progress: Progress | None
    ) -> None:
        self.store = store
        self.executor = executor
        self.work = work
        self.options = dict(options)
        self.progress = progress
        self.claims = Claims(store)
        self.schedule = Schedule(self._grouped)
        self.pace = Pace()
        self.name = uuid.uuid4().hex
        self.stored: set[str] = set()
        self.running: dict[Future[Any], tuple[list[Cell], float]] = {}
        self.active: set[str] = set()
        self.elsewhere: list[Cell] = []
        self.attempts: Counter[tuple[str, ...]] = Counter()
        self.peeked: dict[str, Mapping[str, Any]] = {}

    # Choose the next cells

    def enter(self, cells: Iterable[Cell]) -> None:
        """Add cells to the plan, and the cells that those in the store add; what the store has is not done again."""
        waiting, fresh, failed = list(cells), [], {}
        while waiting:
            new, waiting = self.schedule.grow(waiting), []
            for cell in new:
                record = self._record(cell)
                if record is not None:
                    self.schedule.done.add(cell.key)
                    self.stored.add(cell.key)
                    waiting += self.work.extend(cell, record)
                elif self.store.state(cell.key) == "failed":
                    failed[cell.key] = self._kept_reason(cell.key)
                else:
                    fresh.append(cell)
        for key, reason in failed.items():  # after all cells are known, because a failure blocks its descendants
            self._fail(key, reason)
        for cell in fresh:
            self._check_parents(cell)
            self.schedule.begin(cell)
            if not self.schedule.settled(cell.key):
                self.pace.expect(cell)

    def _grouped(self, ready: Sequence[Cell]) -> list[list[Cell]]:
        # A bank that was interrupted goes on as the same bank: other neighbours would round its sums otherwise.
        own = {cell.key: self.store.together(cell.key) for cell in ready}
        mates = {key: together for together in own.values() for key in together}  # some may not be saved yet
        begun: dict[tuple[str, ...], dict[str, Cell]] = {}
        for cell in ready:
            begun.setdefault(own[cell.key] or mates.get(cell.key, ()), {})[cell.key] = cell
        fresh = list(begun.pop((), {}).values())
        groups = [[cells[key] for key in together if key in cells] for together, cells in begun.items()]
        # Slots that nothing occupies or waits for: fresh groups are made no larger than keeps each of them busy.
        idle = self.executor.slots - len(self.running) - self.schedule.queued - len(groups)
        return [*groups, *(self.work.group(fresh, self.options | {"slots": max(1, idle)}) if fresh else ())]

    def _record(self, cell: Cell) -> dict[str, Any] | None:
        """The record of a stored cell; a damaged one is moved aside, to be computed again."""
        if not self.store.folder(cell.key).exists():
            return None
        try:
            return self.store.record(cell.key)
        except Damaged as error:
            place = self.store.set_aside(cell.key)
            self.tell("damaged", key=cell.key, label=label(cell), reason=str(error), moved=str(place))
            return None

    def _kept_reason(self, key: str) -> str:
        try:
            failure = self.store.failure(key)
            return f"{failure['error']}: {failure['message']}"
        except BadInput as error:
            return str(error)

    def _check_parents(self, cell: Cell) -> None:
        for parent in cell.parents:
            if parent not in self.schedule.plan and not self.store.has(parent):
                raise BadInput(f"{label(cell)} rests on cell {parent}, which is neither in the plan nor in the store")

    def loop(self) -> None:
        while self.schedule.open:
            while len(self.running) < self.executor.slots:
                group = self.schedule.take(time.monotonic())
                if group is None:
                    break
                self._submit(group)
            self._look_elsewhere()
            self._collect()

    def _submit(self, group: list[Cell]) -> None:
        # Another driver may have finished some of them since they were scheduled.
        cells = [cell for cell in group if not self._settle(cell)]
        mine = [cell for cell in cells if self.claims.take(cell.key)]
        taken = {cell.key for cell in mine}
        self.elsewhere += [cell for cell in cells if cell.key not in taken]
        if not mine:
            return
        self.active |= taken
        self.tell("start", keys=[cell.key for cell in mine], labels=[label(cell) for cell in mine])
        started = time.monotonic()
        future = self.executor.submit(self.work.function, self._spec(mine))
        self.running[future] = mine, started

    def _spec(self, cells: Sequence[Cell]) -> dict[str, Any]:
        written = [
            {"kind": c.kind, "spec": dict(c.spec), "parents": list(c.parents), "cost": c.cost, "key": c.key}
            for c in cells
        ]
        spec = {"store": str(self.store.root), "cells": written, "options": self.options}
        if self.options.get("timeout"):
            spec["limit"] = self.options["timeout"] * len(cells)
        processes = max(self.work.processes(cell, self.options) for cell in cells)
        return spec | ({"processes": processes} if processes > 1 else {})

    def _collect(self) -> None:
        if not self.running:
            time.sleep(POLL / 10 if self.schedule.open else 0)
            return
        finished, _ = wait(self.running, timeout=POLL, return_when=FIRST_COMPLETED)
        self._look_within()
        for future in finished:
            cells, started = self.running.pop(future)
            self._ended(cells, time.monotonic() - started, _exception(future))

    def _ended(self, cells: list[Cell], seconds: float, error: BaseException | None) -> None:
        keys = {cell.key for cell in cells}
        # Released before the store is read: a driver that takes a cell over finds it stored, or has to compute it.
        self.claims.release(keys)
        self.active -= keys
        # Whatever the call returned, the store says which cells are done: a worker may die after it has stored some.
        left = [cell for cell in cells if not self._settle(cell, seconds / len(cells))]
        if left:
            self._try_again(left, error or NotStored("the call returned, but the store does not have the cell"))

    def _settle(self, cell: Cell, seconds: float | None = None) -> bool:
        """Whether the store says what became of a cell; if so, take note."""
        record = self._record(cell)
        if record is not None:
            self.pace.done(cell, seconds)
            self.schedule.finish(cell.key)
            self.enter(self.work.extend(cell, record))
            self.tell("done", key=cell.key, label=label(cell), seconds=record["seconds"], score=_score(record))
        elif self.store.state(cell.key) == "failed":
            self.pace.done(cell, seconds)
            self._fail(cell.key, self._kept_reason(cell.key))
        return self.schedule.settled(cell.key)

    def _try_again(self, cells: list[Cell], error: BaseException) -> None:
        if {"Unwritable", "UnfitWorker"} & set(kinds(error)):
            raise BadInput(str(error)) from error
        if disk_is_full(error):
            raise Unwritable(f"the run cannot go on: {error}; finished cells are kept") from error
        reason = f"{kinds(error)[0]}: {error}"
        group = tuple(cell.key for cell in cells)
        self.attempts[group] += 1
        tried, alone = self.attempts[group], len(cells) == 1
        # The error of a group does not say which cell caused it, and memory runs out in a group that is too large: its
        # halves are tried at once. Only the death of a worker, which may have other causes, repeats the whole group.
        passing = may_pass(error) if alone else "WorkerDied" in kinds(error)
        if passing and tried < self.options.get("attempts", 3):
            self._put_back([cells], self.options.get("backoff", 1.0) * 2 ** (tried - 1), reason)
            return
        if not alone:
            middle = len(cells) // 2
            self._put_back([cells[:middle], cells[middle:]], 0.0, reason)
            return
        self.store.fail(cells[0], error, tried)
        self.pace.done(cells[0], None)
        self._fail(cells[0].key, reason)

    def _put_back(self, groups: list[list[Cell]], pause: float, reason: str) -> None:
        self.tell("again", keys=[cell.key for group in groups for cell in group], reason=reason, pause=pause)
        for group in groups:
            self.schedule.put_back(group, time.monotonic() + pause)

    def _fail(self, key: str, reason: str) -> None:
        blocked = self.schedule.fail(key, reason)
        for child in blocked:
            self.pace.done(self.schedule.cell(child), None)
        self.tell("failed", key=key, label=label(self.schedule.cell(key)), reason=reason, blocked=blocked)

    def _look_within(self) -> None:
        """Tell the development scores of cells under way that were not told yet."""
        for cell in (cell for future, (cells, _) in self.running.items() if not future.done() for cell in cells):
            peeked = self.work.peek(self.store, cell.key)
            if peeked is not None and peeked != self.peeked.get(cell.key):
                self.peeked[cell.key] = peeked
                self.tell("evaluated", key=cell.key, label=label(cell), **peeked)

    def _look_elsewhere(self) -> None:
        """Settle what other drivers have finished, and take over what they have given up."""
        waiting, self.elsewhere = self.elsewhere, []
        for cell in waiting:
            if self._settle(cell):
                continue
            if self.claims.take(cell.key):  # free, so its driver died or gave up; claimed again when a slot is free
                self.claims.release([cell.key])
                self.schedule.begin(cell)
            else:
                self.elsewhere.append(cell)

    def counts(self) -> dict[str, int]:
        """How many cells are in each state; `cells` is their sum."""
        schedule = self.schedule
        facts = {"cells": len(schedule.plan), "stored": len(self.stored), "running": len(self.active)}
        facts |= {"done": len(schedule.done) - len(self.stored)}
        return facts | {"failed": len(schedule.failed), "blocked": len(schedule.blocked)}

    def tell(self, event: str, **facts: Any) -> None:
        """Write an event to the log and show it."""
        head = {"event": event, "run": self.name, "time": datetime.datetime.now(datetime.UTC).isoformat()}
        line = head | facts | {"counts": self.counts(), "eta": self.pace.eta(self.executor.slots)}
        line["elapsed"] = self.pace.elapsed()
        self.store.log(line)
        if self.progress is not None:
            self.progress(line)

    @contextlib.contextmanager
    def logged(self) -> Iterator[None]:
        """Say that the run begins, and how it ends."""
        self.tell("run", machine=machine(), pid=os.getpid())
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(Unwritable):
                self.active.clear()
                self.tell("stop", reason=str(error) or type(error).__name__)
            raise
        self.tell("end")

    def outcome(self) -> Outcome:
        schedule = self.schedule
        done = tuple(key for key in schedule.plan if key in schedule.done and key not in self.stored)
        stored = tuple(key for key in schedule.plan if key in self.stored)
        return Outcome(done, stored, schedule.failed, schedule.blocked, schedule.plan)


def _exception(future: Future[Any]) -> BaseException | None:
    try:
        return future.exception()
    except CancelledError:
        return WorkerDied("the call was cancelled")


def _score(record: Mapping[str, Any]) -> float | None:
    """A cell's own score; that of a choice among cells is a score for each, and none."""
    score = record["result"].get("dev", record["result"].get("score"))
    return score if isinstance(score, float | int) else None


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Within, SIGTERM stops as ctrl-C does. Only the main thread can receive signals; elsewhere nothing changes."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
