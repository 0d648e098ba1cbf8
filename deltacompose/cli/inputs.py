"""What a command of analysis is given, read: transfer matrices and deltas, from a store or from files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import typer

from deltacompose import results
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.similarity.compare import Deltas, Prompts, read_prompts
from deltacompose.analysis.similarity.stored_arrays import StoredDeltas, stored_deltas
from deltacompose.analysis.transfer import files as tables
from deltacompose.analysis.transfer.findings import gather, measures_transfer
from deltacompose.cli import show
from deltacompose.cli.study import store_of
from deltacompose.errors import BadInput, unknown
from deltacompose.formats.row_files import csv_header
from deltacompose.store.store import Problem, open_store
from deltacompose.study.config import Study

TABLES = (".csv", ".parquet")
SPLITS = ("val", "test")


@dataclass(frozen=True)
class Files:
    """The options that name what is to be read; every command of analysis takes all of them."""

    source: Path | None = None
    store: Path | None = None
    scores: Path | None = None
    prompts: Path | None = None
    categories: Path | None = None
    composition: str = ""
    split: str = ""


@dataclass(frozen=True, eq=False)
class Material:
    """What was read.

    Attributes:
        matrices: by composition, those in which transfer was measured; of a table of scores, under what it says.
        deltas: by composition, the trained ones; of a file of prompts, under "".
        categories: of each task.
        records: of a store, finished and failed.
        folder: where the store keeps a cell; None where files were given.
    """

    matrices: Mapping[str, TransferMatrix] = field(default_factory=dict)
    deltas: Mapping[str, Deltas] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict)
    records: Sequence[Mapping[str, Any]] = ()
    folder: Callable[[str], Path] | None = None
    split: str = "test"

    def stored(self) -> Mapping[str, StoredDeltas]:
        """The deltas that are in a store."""
        return {text: one for text, one in self.deltas.items() if isinstance(one, StoredDeltas)}

    def needed_matrices(self) -> Mapping[str, TransferMatrix]:
        """The matrices; none at all is an error that says how to come by one."""
        if not self.matrices:
            raise BadInput(
                "no transfer was measured; a study measures it with `transfer: true`, and files give it by --scores"
            )
        return self.matrices

    def needed_deltas(self) -> Mapping[str, Deltas]:
        """The deltas; none at all is an error that says how to come by them."""
        if not self.deltas:
            raise BadInput("no deltas were given; name a store or a study, or give soft prompts by --prompts")
        return self.deltas


def read(given: Files, unread: Sequence[str] = ()) -> Material:
    """What the options name.

    Args:
        unread: options of files that the command has no use for, which it says where one is given.

    Raises:
        BadInput: a store and files at once, neither, or files that cannot be read.
    """
    for option in (name for name in unread if getattr(given, name)):
        typer.echo(f"this command has no use for --{option} {getattr(given, option)}", err=True)
    given = _by_suffix(given)
    files = [name for name in ("scores", "prompts") if getattr(given, name)]
    if given.source is None and not files:
        raise BadInput("nothing to analyse: name a store, a study or files (--scores, --prompts, --categories)")
    if given.source is not None and files:
        raise BadInput(f"{given.source} and --{files[0]} were both given; take a store or files")
    return _from_store(given, given.source) if given.source is not None else _from_files(given)


def _by_suffix(given: Files) -> Files:
    """A table or a file of prompts may stand where a store would."""
    source = given.source
    if source is None or source.is_dir() or source.suffix not in (*TABLES, ".npz"):
        return given
    option = "prompts" if source.suffix == ".npz" else "scores"
    if getattr(given, option):
        raise BadInput(f"{source} and --{option} {getattr(given, option)} were both given; one is enough")
    return replace(given, source=None, **{option: source})  # type: ignore[arg-type]


def _from_files(given: Files) -> Material:
    file = given.scores or given.prompts
    if given.split:
        raise BadInput(f"--split chooses among the evaluations of a store; {file} says of no split")
    if given.composition and not (given.scores and _is_tidy(given.scores)):
        raise BadInput(f"--composition chooses among those of a store or a tidy table; {file} names none")
    categories = tables.read_categories(given.categories) if given.categories else {}
    matrices = {}
    if given.scores:
        matrix = _scores(given.scores, categories, given.composition or None)
        matrices = {matrix.composition: matrix}
    deltas = {next(iter(matrices), ""): read_prompts(given.prompts)} if given.prompts else {}
    return Material(matrices, deltas, categories)


def _scores(path: Path, categories: Mapping[str, str], composition: str | None) -> TransferMatrix:
    """A tidy table where its header is one, else a plain table of sources and targets."""
    if _is_tidy(path):
        matrix = tables.read(path, composition)
        return replace(matrix, categories=categories) if categories else matrix
    return tables.read_scores(path, categories)


def _is_tidy(path: Path) -> bool:
    return path.suffix == ".parquet" or set(tables.COLUMNS) <= set(csv_header(path))


def _from_store(given: Files, source: Path) -> Material:
    study = None if source.is_dir() else Study.read(source)
    place = store_of(source, given.store)
    if not place.is_dir():
        raise BadInput(f"there is no store {place}; `deltacompose run {source}` makes one")
    split = given.split or (study.split if study else "test")
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    store = open_store(place, create=False)
    damaged: list[Problem] = []
    records = results.records(store, study, damaged)
    show.damaged(damaged)
    of_transfer = results.of_transfer(records)
    own = tables.read_categories(given.categories) if given.categories else results.categories_of(records, store, study)
    found = gather(of_transfer, own, (), split) if of_transfer else None
    matrices = {t: m for t, m in found.matrices.items() if measures_transfer(m)} if found else {}
    order = next((matrix.names for matrix in matrices.values()), tuple(own))
    deltas = stored_deltas(records, store.folder, order)
    if given.composition:
        known = {*(found.matrices if found else ()), *deltas}
        wanted = _canonical(given.composition, known)
        matrices = {text: matrix for text, matrix in matrices.items() if text == wanted}
        deltas = {text: one for text, one in deltas.items() if text == wanted}
    return Material(matrices, deltas, own, records, store.folder, split)


def _canonical(composition: str, known: set[str]) -> str:
    """A composition as the store writes it: by its text, else by what it parses to."""
    from deltacompose import api

    text = composition if composition in known else str(api.parse(composition))
    if text not in known:
        raise unknown("composition", text, known)
    return text


__all__ = ["Files", "Material", "Prompts", "read"]
