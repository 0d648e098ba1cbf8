"""Every event as a line of a file, with the result of a finished cell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deltacompose.engine.loggers import Logger, Run
from deltacompose.errors import BadInput


def jsonl(target: str, run: Run) -> Logger:
    """A logger that appends to the file `target`, by default `log.jsonl` in the store.

    Raises:
        BadInput: the file cannot be written.
    """
    return _Jsonl(Path(target) if target else run.store / "log.jsonl", run)


class _Jsonl:
    """Appends lines to a file that it keeps open."""

    def __init__(self, path: Path, run: Run) -> None:
        self.study = run.name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise BadInput(f"cannot write the log {path}: {error.strerror or error}") from None

    def log(self, event: Mapping[str, Any], record: Mapping[str, Any] | None) -> None:
        own = {} if record is None else {"spec": record["spec"], "result": record["result"]}
        self.file.write(json.dumps({"study": self.study, **event, **own}) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()
