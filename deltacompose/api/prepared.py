"""The facts and the plan of a study recalled from the cache, so that reading a study needs no torch.

A plan depends on the study, on the code and the libraries that are installed, on the files of the backbone and on the
data of the tasks. The first two name the entry in the cache; the files and the data are compared when it is recalled.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from deltacompose import registry
from deltacompose.cache.file_digests import file_digest, files_of
from deltacompose.cache.remembered import entry, installed, recall, remember
from deltacompose.errors import BadInput
from deltacompose.planning import plan as planning
from deltacompose.planning.facts import Facts
from deltacompose.planning.plan import Prepared
from deltacompose.store.store import Store
from deltacompose.study.config import KEYS, Cell, Study
from deltacompose.task.build import Rows
from deltacompose.task.named import named_task
from deltacompose.task.sources import is_on_hub
from deltacompose.validation import plain

_HUB = ("HF_HOME", "HF_HUB_CACHE", "DELTACOMPOSE_PLUGINS", "DELTACOMPOSE_NO_PLUGINS")
"""Environment variables that say where a backbone's files are, and which plugins there are."""


def recalled(study: Study | Prepared, store: Store | None = None) -> Prepared:
    """A prepared study, as `prepare` gives it, recalled where this code has planned the same inputs before.

    For commands that only read: nothing is recalled where code was changed within this process.

    Args:
        store: if given, the plan also has the cells that finished cells have added, and its keys have the store's
            version.

    Raises:
        BadInput: the study names something that does not exist, or has settings that fit none of its compositions.
    """
    if isinstance(study, Prepared):
        return study
    version = KEYS if store is None else store.format
    path = _entry(study, version)
    prepared = None if path is None else _recalled(study, path)
    if prepared is None:
        from deltacompose.api.planned import prepared_now

        prepared = prepared_now(study, version)
        if path is not None and not prepared.facts.absent:
            _remember(prepared, path)
    return prepared if store is None else prepared.grown(store.intact)


def _entry(study: Study, version: int) -> Path | None:
    """Where the plan of a study is remembered; None where no files identify the installed members."""
    code = registry.code()
    if code is None:
        return None
    where = {name: os.environ.get(name, "") for name in _HUB}
    return entry("plans", [plain(study), version, code, installed(), where])


def _recalled(study: Study, path: Path) -> Prepared | None:
    """The remembered plan, if the backbone's files and the tasks' data are those of then."""
    kept = recall(path, dict[str, Any])
    with contextlib.suppress(ValidationError, BadInput, KeyError, TypeError, ValueError, OSError):
        if kept is None or kept["backbone"] != _backbone(Path(kept["backbone"]["folder"]), study.backbone.model):
            return None
        if kept["tasks"] != _tasks(study):
            return None
        known = TypeAdapter(Facts).validate_python(kept["facts"])
        cells = [Cell(c[0], c[1], tuple(c[2]), c[3], known.version) for c in kept["cells"]]
        return planning.assembled(study, known, registry.parse, cells)
    return None


def _remember(prepared: Prepared, path: Path) -> None:
    study, model = prepared.study, prepared.study.backbone.model
    with contextlib.suppress(BadInput, OSError):
        folder = registry.fetch_backbone(model)
        cells = [cell for _, cell in prepared.plan.nodes(data="cell")]
        facts = {
            "backbone": _backbone(folder, model),
            "tasks": _tasks(study),
            "facts": asdict(prepared.facts),
            "cells": [[cell.kind, cell.spec, cell.parents, cell.cost] for cell in cells],
        }
        remember(path, facts)


def _backbone(folder: Path, model: str) -> dict[str, str]:
    """The files of a backbone as they are now, and what chooses them: the reference of a snapshot, or a single file."""
    reference = folder.parent.parent / "refs" / "main"
    chosen = file_digest(reference) if folder.parent.name == "snapshots" and reference.is_file() else ""
    single = file_digest(Path(model).expanduser()) if Path(model).expanduser().is_file() else ""
    local = str(Path(model).expanduser().is_dir())
    state = files_of(folder).state
    return {"folder": str(folder), "state": state, "reference": chosen, "file": single, "local": local}


def _tasks(study: Study) -> dict[str, str]:
    """The present data of each task: a digest of its files, or, where no file tells, of its examples."""
    states: dict[str, str] = {}
    for name in study.named_tasks:
        task = named_task(name, study.own_tasks, study.folder, registry.task_of)
        read = task.read
        in_files = isinstance(read, Rows) and not is_on_hub(read.row.path, Path(read.folder))
        states[name] = read.state() if isinstance(read, Rows) and in_files else task.fingerprint
    return states
