"""Inputs of the analysis commands: transfer matrices and deltas, read from a store or from files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import typer

from deltacompose import api
from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.analysis.similarity.compare import Deltas, Prompts, read_prompts
from deltacompose.analysis.similarity.stored_arrays import StoredDeltas, stored_deltas
from deltacompose.analysis.transfer import tidy_tables as tables
from deltacompose.analysis.transfer.findings import gather, measures_transfer
from deltacompose.analysis.transfer.published import About, matrix_of
from deltacompose.analysis.transfer.tidy_scores import is_tidy
from deltacompose.cli import output
from deltacompose.cli.study import prepared_for, store_of
from deltacompose.errors import BadInput, unknown
from deltacompose.formats.sheets import SUFFIXES as TABLES
from deltacompose.formats.sheets import header_of
from deltacompose.store.store import Problem, open_store
from deltacompose.study.config import Study

SPLITS = ("val", "test")


@dataclass(frozen=True)
class Options:
    """The options that name the inputs; every analysis command takes all of them."""

    source: Path | None = None
    store: Path | None = None
    scores: Path | None = None
    prompts: Path | None = None
    categories: Path | None = None
    composition: str = ""
    split: str = ""
    name: str = ""
    runs: int = 0
    percent: bool = False
    transposed: bool = False


@dataclass(frozen=True, eq=False)
class Inputs:
    """Transfer matrices and deltas.

    Attributes:
        matrices: the measured transfer matrices by composition; for a table of scores, by the composition in it.
        deltas: the trained deltas by composition; those of a file of prompts under "".
        categories: the category of each task.
        records: the records of a store, finished and failed.
        folder: gives the folder of a cell in the store; None for files.
    """

    matrices: Mapping[str, TransferMatrix] = field(default_factory=dict)
    deltas: Mapping[str, Deltas] = field(default_factory=dict)
    categories: Mapping[str, str] = field(default_factory=dict)
    records: Sequence[Mapping[str, Any]] = ()
    folder: Callable[[str], Path] | None = None
    split: str = "test"

    def stored(self) -> Mapping[str, StoredDeltas]:
        """The deltas from a store, without those from files."""
        return {text: deltas for text, deltas in self.deltas.items() if isinstance(deltas, StoredDeltas)}

    def needed_matrices(self) -> Mapping[str, TransferMatrix]:
        """The matrices.

        Raises:
            BadInput: there are none; the message says how to get one.
        """
        if not self.matrices:
            raise BadInput(
                "there are no transfer scores to analyse; set `transfer: true` in the study, or give --scores"
            )
        return self.matrices

    def needed_deltas(self) -> Mapping[str, Deltas]:
        """The deltas.

        Raises:
            BadInput: there are none; the message says how to get them.
        """
        if not self.deltas:
            raise BadInput(
                "there are no deltas to analyse; name a store or a study, or give soft prompts with --prompts"
            )
        return self.deltas


def read_inputs(options: Options, unused: Sequence[str] = ()) -> Inputs:
    """Reads the inputs that the options name.

    Args:
        unused: options that the command ignores; a note on stderr says so if one is given.

    Raises:
        BadInput: a store and files at once, neither, or files that cannot be read.
    """
    for option in (name for name in unused if getattr(options, name)):
        typer.echo(f"note: this command ignores --{option} {getattr(options, option)}", err=True)
    options = _by_suffix(options)
    files = [name for name in ("scores", "prompts") if getattr(options, name)]
    if options.source is None and not files:
        raise BadInput("there is no input to analyse; name a store, a study or files (--scores, --prompts)")
    if options.source is not None and (options.name or options.runs):
        raise BadInput("--name and --seeds describe a plain table of scores, not a store")
    if options.source is not None and (options.percent or options.transposed):
        raise BadInput("--percent and --targets-in-rows describe a table of scores, not a store")
    if options.source is not None and files:
        raise BadInput(f"cannot combine {options.source} with --{files[0]}; give either a store or files")
    return _from_store(options, options.source) if options.source is not None else _from_files(options)


def _by_suffix(options: Options) -> Options:
    """Accepts a table of scores or a file of prompts as the source, by its suffix."""
    source = options.source
    if source is None or source.is_dir() or source.suffix not in (*TABLES, ".npz"):
        return options
    option = "prompts" if source.suffix == ".npz" else "scores"
    if getattr(options, option):
        raise BadInput(f"{source} and --{option} {getattr(options, option)} were both given; give only one of them")
    return replace(options, source=None, **{option: source})  # type: ignore[arg-type]


def _from_files(options: Options) -> Inputs:
    file = options.scores or options.prompts
    if options.split:
        raise BadInput(f"--split selects evaluations of a store; {file} has no column of splits")
    if options.composition and not (options.scores and is_tidy_table(options.scores)):
        raise BadInput(f"--composition selects from a store or a tidy table; {file} has no column of compositions")
    categories = tables.read_categories(options.categories) if options.categories else {}
    matrices = {}
    if options.scores:
        matrix = _scores(options.scores, categories, options)
        matrices = {matrix.composition: matrix}
    deltas = {next(iter(matrices), ""): read_prompts(options.prompts)} if options.prompts else {}
    return Inputs(matrices, deltas, categories)


def _scores(path: Path, categories: Mapping[str, str], options: Options) -> TransferMatrix:
    """The matrix of a tidy table, recognised by its header, or of a plain table of sources and targets."""
    if is_tidy_table(path) and (options.name or options.runs):
        raise BadInput(f"--name and --seeds describe a plain table of scores; {path} is a tidy one and has both")
    if is_tidy_table(path) and options.transposed:
        raise BadInput(f"--targets-in-rows describes a plain table of scores; {path} is a tidy one")
    about = About(categories, options.name, options.runs, options.percent, options.transposed)
    return matrix_of(path, options.composition or None, about)


def is_tidy_table(path: Path) -> bool:
    """Whether a file has one row per score."""
    return is_tidy(header_of(path))


def _from_store(options: Options, source: Path) -> Inputs:
    study = None if source.is_dir() else Study.read(source)
    place = store_of(source, options.store)
    if not place.is_dir():
        raise BadInput(f"there is no store {place}; `deltacompose run {source}` makes one")
    split = options.split or (study.split if study else "test")
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    store = open_store(place, create=False)
    damaged: list[Problem] = []
    records = api.records(store, study and prepared_for(study, store), damaged)
    output.print_damaged(damaged)
    of_transfer = api.of_transfer(records)
    own = tables.read_categories(options.categories) if options.categories else api.categories_of(records, store, study)
    gathered = gather(of_transfer, own, (), split, study.tasks if study else ()).matrices if of_transfer else {}
    matrices = {text: matrix for text, matrix in gathered.items() if measures_transfer(matrix)}
    order = next((matrix.names for matrix in matrices.values()), tuple(own))
    deltas = stored_deltas(records, store.folder, order)
    if options.composition:
        known = {*gathered, *deltas}
        wanted = _canonical(options.composition, known)
        matrices = {wanted: matrices[wanted]} if wanted in matrices else {}
        deltas = {wanted: deltas[wanted]} if wanted in deltas else {}
    return Inputs(matrices, deltas, own, records, store.folder, split)


def _canonical(composition: str, known: set[str]) -> str:
    """The composition in the notation of the store: its text, or the text of the parsed expression."""
    from deltacompose import api

    text = composition if composition in known else str(api.parse(composition))
    if text not in known:
        raise unknown("composition", text, known)
    return text


__all__ = ["Inputs", "Options", "Prompts", "read_inputs"]
