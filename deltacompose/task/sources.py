"""Raw rows of a data set: from a CSV, JSON or Parquet file, a folder in the hub's format, or the Hugging Face hub.

Files are read by the standard library. Folders and the hub are read by the `datasets` library (extra `hub`), whose
cache and offline switch (`HF_HUB_OFFLINE=1`) are honoured.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from deltacompose.cache.file_digests import file_digest
from deltacompose.errors import BadInput, quoted, unknown
from deltacompose.formats.parquet_files import read_parquet_rows
from deltacompose.formats.row_files import read_csv_rows, read_json_array, read_json_rows
from deltacompose.task.description import PARQUET, Data

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
_BUFFER = 10_000


class Unreachable(BadInput):
    """The hub cannot be reached, and there is no copy in the cache."""


def own_splits(path: str | Mapping[str, str], data: Data) -> Mapping[str, str]:
    """Our splits that the data set has -> its own names for them (for files: their paths)."""
    if not isinstance(path, str):
        return path
    if data.splits is not None:
        return data.splits
    if is_file(path):
        return {"train": "train", "val": "val", "test": "test"} if data.split else {"train": path}
    return {"train": "train", "val": "validation", "test": "test"}


def is_file(path: str) -> bool:
    """Whether a path is that of a file that we read ourselves."""
    return Path(path).suffix.lower() in SUFFIXES


def is_on_hub(path: str | Mapping[str, str], folder: Path) -> bool:
    """Whether a path names a hub data set: no file, no folder that exists, and no path by its looks."""
    if not isinstance(path, str) or is_file(path) or (folder / path).is_dir():
        return False
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", path):
        raise BadInput(
            f"{quoted(path)} is not data: it is not a {', '.join(SUFFIXES)} file, there is no folder {folder / path}, "
            "and a hub data set is named 'name' or 'owner/name'"
        )
    return True


def read_rows(path: str | Mapping[str, str], data: Data, split: str, folder: Path) -> list[dict[str, Any]]:
    """The rows of one of our splits, dropped ones left out, in their fixed order.

    Args:
        path: a file, a folder, a hub name, or a file for every split.
        folder: what relative paths are relative to.

    Raises:
        BadInput: the data cannot be found or read, has no such configuration or split, or no row is left.
    """
    name = own_splits(path, data)[split]
    file = name if not isinstance(path, str) else path
    if is_file(file):
        rows = _drawn(_of_split(_file_rows(folder / file), data.split, name, folder / file), data.limit.get(split))
    else:
        rows = _hub_rows(path if isinstance(path, str) else file, data, split, folder)
    kept = [row for row in rows if not any(text(column(row, name)) in values for name, values in data.drop.items())]
    if not kept:
        dropped = f"; dropped: {dict(data.drop)}" if data.drop else ""
        raise BadInput(f"no row of {split!r} is left of {len(rows)} in {quoted(path)}{dropped}")
    return kept


def state_of(path: str | Mapping[str, str], data: Data, folder: Path) -> str:
    """SHA-256 of the present content of a data set's files; of one of the hub of its address alone.

    Raises:
        BadInput: a file cannot be read.
    """
    names = [path] if isinstance(path, str) else sorted(path.values())
    if is_on_hub(path, folder):
        files = []
    else:
        files = [file for name in names for file in _files(folder / name)]
    try:
        digests = [[str(file), file_digest(file)] for file in files]
    except OSError as error:
        raise BadInput(f"cannot read {error.filename}: {error.strerror}") from None
    address = [names, data.config, data.revision, digests]
    return hashlib.sha256(json.dumps(address).encode()).hexdigest()


def _files(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file()) if place.is_dir() else [place]


def column(row: Mapping[str, Any], name: str) -> Any:
    """A column's value; `choices.text` is the column `text` inside `choices`.

    Raises:
        BadInput: there is none; the message lists the columns.
    """
    value: Any = row
    for part in name.split(".") if name not in row else [name]:
        if not isinstance(value, Mapping) or part not in value:
            raise unknown("column", name, row)
        value = value[part]
    return value


def text(value: Any) -> str:
    """A value as text: nothing for None, `true` and `false`, and the parts of a list joined by spaces."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return " ".join(map(text, value))
    return str(value)


def _file_rows(file: Path) -> list[dict[str, Any]]:
    own = {".jsonl": read_json_rows, ".json": read_json_array, ".parquet": read_parquet_rows}.get(file.suffix.lower())
    if own is not None:
        return own(file)
    rows = read_csv_rows(file, "\t" if file.suffix.lower() == ".tsv" else ",")
    header = rows[0][1] if rows else []
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise BadInput(f"{file} has the column {quoted(twice[0])} twice")
    for line, row in rows[1:]:
        if len(row) != len(header):
            raise BadInput(f"{file}, line {line}: another number of cells than the header has columns")
    return [dict(zip(header, row, strict=True)) for _, row in rows[1:]]


def _of_split(rows: list[dict[str, Any]], by: str | None, name: str, file: Path) -> list[dict[str, Any]]:
    if by is None:
        return rows
    matching = [row for row in rows if text(column(row, by)) == name]
    if not matching:
        raise unknown(f"{file.name} split", name, {text(column(row, by)) for row in rows})
    return matching


def _drawn(rows: Sequence[dict[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    return [rows[index] for index in _indices(len(rows), limit)]


def _indices(rows: int, limit: int | None) -> Iterable[int]:
    """Which rows a limit leaves: always the same ones, in their order."""
    if limit is None or limit >= rows:
        return range(rows)
    return sorted(random.Random(0).sample(range(rows), limit))


def _hub_rows(path: str, data: Data, split: str, folder: Path) -> list[dict[str, Any]]:
    limit = data.limit.get(split)
    table = load(path, data, split, folder)
    if data.streaming:
        return [dict(row) for row in (table.shuffle(seed=0, buffer_size=_BUFFER).take(limit) if limit else table)]
    return [dict(row) for row in table.select(_indices(len(table), limit))]


def load(path: str, data: Data, split: str, folder: Path) -> Any:
    """One split as a `datasets` table, from a local folder or from the hub by way of its cache.

    Raises:
        BadInput: the library is missing, the hub cannot be reached and the cache has no copy, or there is no such
            data set, configuration or split.
    """
    is_on_hub(path, folder)  # refuses what looks like a path
    library = _library()
    name = own_splits(path, data)[split]
    try:
        return library.load_dataset(**_address(path, data, folder), split=name, streaming=data.streaming)
    except _unreachable() as error:
        raise Unreachable(
            f"the hub cannot be reached for {quoted(path)} and there is no copy of it in the cache "
            f"{cache_folder(data)} ({_line(error)}); where there is a network, "
            "`deltacompose prefetch` puts one there"
        ) from None
    except (OSError, ValueError, RuntimeError, library.exceptions.DatasetsError) as error:
        config = f", configuration {data.config!r}" if data.config else ""
        raise BadInput(f"data set {quoted(path)}{config}, split {name!r}: {_line(error)}") from None


def cache_folder(data: Data) -> str:
    """Where copies of the hub's data sets are kept; `HF_HOME` moves it."""
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE if data.revision == PARQUET else str(_library().config.HF_DATASETS_CACHE)


def _address(path: str, data: Data, folder: Path) -> dict[str, Any]:
    """Arguments of `load_dataset` that locate a data set."""
    local = folder / path
    if local.is_dir():
        return {"path": str(local / data.config if data.config and (local / data.config).is_dir() else local)}
    if data.revision == PARQUET:
        return {"path": str(_parquet(path, data.config))}
    return {"path": path, "name": data.config, "revision": data.revision}


def _parquet(path: str, config: str | None) -> Path:
    """The folder of a configuration in the hub's own parquet copy, from the hub's cache where there is no network.

    `datasets` fetches such a folder by itself, and does not find it again in its cache without a network.
    """
    from huggingface_hub import snapshot_download

    wanted = f"{config}/*" if config else None
    whole = snapshot_download(path, repo_type="dataset", revision=PARQUET, allow_patterns=wanted)
    folder = Path(whole, config or "")
    if not folder.is_dir():
        raise ConnectionError(f"there is no {folder}")
    return folder


def _unreachable() -> tuple[type[Exception], ...]:
    """Exceptions of a failing network: those of the libraries and of the client they download with."""
    from huggingface_hub import errors

    return ConnectionError, errors.LocalEntryNotFoundError, getattr(errors, "HTTPError", ConnectionError)


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise BadInput(
            "data sets of the hub and its folder format need the `datasets` library: pip install 'deltacompose[hub]'"
        ) from None
    return datasets


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:300]
