"""Curves of a run as TensorBoard's event files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deltacompose.engine.loggers import Logger, Run
from deltacompose.errors import BadInput
from deltacompose_plugins.loggers.values import points


def tensorboard(target: str, run: Run) -> Logger:
    """A logger that writes into the folder `target`, by default `tensorboard` in the store.

    Raises:
        BadInput: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise BadInput("the logger tensorboard needs TensorBoard: pip install 'deltacompose[loggers]'") from None
    return _TensorBoard(SummaryWriter(str(Path(target) if target else run.store / "tensorboard")))


class _TensorBoard:
    """Writes each point once; a history repeats points that were seen while the training was under way."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer
        self.written: set[tuple[str, int]] = set()

    def log(self, event: Mapping[str, Any], record: Mapping[str, Any] | None) -> None:
        for name, value, step in points(event, record):
            if (name, step) not in self.written:
                self.written.add((name, step))
                self.writer.add_scalar(name, value, step)
        if event["event"] == "failed":
            self.writer.add_text(f"failed/{event['label']}", str(event["reason"]))

    def close(self) -> None:
        self.writer.close()
