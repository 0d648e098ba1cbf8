"""Curves of a run for Weights & Biases, offline unless `WANDB_MODE` says otherwise."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import Any

from deltacompose.engine.loggers import Logger, Run
from deltacompose.errors import BadInput
from deltacompose_plugins.loggers.values import points


def wandb(target: str, run: Run) -> Logger:
    """A logger that writes a run of the project `target`, by default `deltacompose`, into the folder of the store.

    It makes no connection: `wandb sync` sends a run afterwards, and `WANDB_MODE=online` while it goes on.

    Raises:
        BadInput: wandb is not installed.
    """
    try:
        library: Any = importlib.import_module("wandb")
    except ImportError:
        raise BadInput("the logger wandb needs wandb: pip install 'deltacompose[loggers]' wandb") from None
    mode = os.environ.get("WANDB_MODE", "offline")
    project = target or "deltacompose"
    return _Wandb(library.init(project=project, name=run.name, dir=str(run.store), mode=mode))


class _Wandb:
    """Writes each point once, with its step, because steps of several trainings do not follow one another."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self.written: set[tuple[str, int]] = set()

    def log(self, event: Mapping[str, Any], record: Mapping[str, Any] | None) -> None:
        for name, value, step in points(event, record):
            if (name, step) not in self.written:
                self.written.add((name, step))
                self.run.log({name: value, f"{name}/step": step})

    def close(self) -> None:
        self.run.finish()
