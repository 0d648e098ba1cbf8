"""Digests of a model's files, so that no edit of them goes unnoticed.

Weights are read once and streamed; the digests of large files are remembered in the user's cache folder under path,
size, modification and change times, and inode, and computed again as soon as one of these differs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import BinaryIO

from deltacompose.errors import BadInput

CACHE = "DELTACOMPOSE_CACHE"
"""The environment variable that names the cache folder; `$XDG_CACHE_HOME/deltacompose` if it is not set."""

LARGE = 1 << 20
"""Bytes from which a file's digest is remembered; smaller files are read every time."""

SETTLED = 2.0
"""Seconds since the last change after which a file's times can be trusted to differ after the next change."""

WEIGHTS = tuple(f"{stem}model.safetensors{end}" for stem in ("", "diffusion_pytorch_") for end in ("", ".index.json"))
"""Names of the files of weights, the first that exists being loaded."""

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
"""Files of a peft adapter, which transformers loads together with a model that lies in the same folder."""

SMALL = ("*.json", "*.txt", "*.model", "*.spm", "*.jinja", "*.py")
"""Files other than the weights that loading may read: configurations, and everything of a tokenizer."""

_PIECE = 1 << 22
_HEADER_LIMIT = 100 << 20
"""The longest header that the safetensors format allows."""

_remembered: dict[str, tuple[list[int], str]] = {}


@dataclass(frozen=True)
class Files:
    """The files that a backbone was loaded from, as they were then.

    Attributes:
        folder: where they are.
        weights: digest of all tensors by name, data type, shape and bytes; how they are split into files is left out.
        state: digest of everything in the folder that loading may read.
    """

    folder: Path
    weights: str
    state: str

    @property
    def paths(self) -> list[Path]:
        """The files."""
        return [*_weight_files(self.folder), *(path for path in sorted(self.folder.iterdir()) if _is_read(path))]

    @property
    def unchanged(self) -> bool:
        """Whether the files still are what they were."""
        return files_of(self.folder) == self


def files_of(folder: Path) -> Files:
    """The present state of the files of a model.

    Raises:
        BadInput: a file of weights cannot be read.
    """
    try:
        weights = {name: value for path in _weight_files(folder) for name, value in _tensors(path).items()}
        others = {path.name: file_digest(path) for path in sorted(folder.iterdir()) if _is_read(path)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # a header or an index of another shape
        raise BadInput(f"the model in {folder} cannot be read: {str(error)[:200]} ({type(error).__name__})") from error
    digest = hashlib.sha256(json.dumps(sorted(weights.items())).encode()).hexdigest()
    state = hashlib.sha256(json.dumps([digest, sorted(others.items())]).encode()).hexdigest()
    return Files(folder, digest, state)


def missing_weights(folder: Path) -> list[str]:
    """The names of the files of weights that a model's folder should have and lacks; none where all are there."""
    try:
        return [path.name for path in _weight_files(folder) if not path.is_file()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"the model in {folder} cannot be read: {str(error)[:200]} ({type(error).__name__})") from error


def state_without_weights(folder: Path) -> str:
    """SHA-256 (hex) of all that a skeleton is made from: the folder's other files, and which weights it lacks."""
    others = {path.name: file_digest(path) for path in sorted(folder.iterdir()) if _is_read(path)}
    return hashlib.sha256(json.dumps([missing_weights(folder), sorted(others.items())]).encode()).hexdigest()


def tensor_names(folder: Path) -> frozenset[str]:
    """The names of all tensors in the files of weights of a model, whose digests have been taken."""
    return frozenset(name for path in _weight_files(folder) for name in _tensors(path))


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    return _remember("bytes", path, lambda: _digest(path))


def cache_folder() -> Path:
    """Where digests are remembered between processes."""
    own = os.environ.get(CACHE)
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deltacompose"


def _weight_files(folder: Path) -> list[Path]:
    """The files from which the weights are loaded: one, or the shards that an index names; and an adapter's."""
    name = next((name for name in WEIGHTS if (folder / name).is_file()), WEIGHTS[0])
    files = [folder / name]
    if name.endswith(".json"):
        index = json.loads((folder / name).read_bytes())
        files = [folder / shard for shard in sorted(set(index["weight_map"].values()))]
    return [*files, *(folder / name for name in ADAPTER if (folder / name).is_file())]


def _tensors(path: Path) -> dict[str, str]:
    """The digest of every tensor of a safetensors file by name; of another file that of its bytes."""
    if path.suffix != ".safetensors":
        return {path.name: file_digest(path)}
    digests: dict[str, str] = json.loads(_remember("tensors", path, lambda: json.dumps(dict(_streamed(path)))))
    return digests


def _streamed(path: Path) -> Iterator[tuple[str, str]]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _HEADER_LIMIT:
            raise ValueError(f"{path.name} is not a safetensors file")
        header = json.loads(file.read(length))
        for name, tensor in sorted(header.items()):
            if name == "__metadata__":
                continue
            start, end = tensor["data_offsets"]
            digest = hashlib.sha256(f"{tensor['dtype']} {tensor['shape']}\n".encode())
            file.seek(8 + length + start)
            for piece in _pieces(file, end - start):
                digest.update(piece)
            yield name, digest.hexdigest()


def _pieces(file: BinaryIO, count: int) -> Iterator[bytes]:
    while count > 0:
        piece = file.read(min(_PIECE, count))
        if not piece:
            raise ValueError(f"{file.name} is truncated")
        count -= len(piece)
        yield piece


def _remember(what: str, path: Path, compute: Callable[[], str]) -> str:
    """A digest of a file, computed anew unless the file is large and was last changed before it was last computed."""
    state = _state(path)
    if state[0] < LARGE:
        return compute()
    key = hashlib.sha256(f"{what}\n{path.absolute()}".encode()).hexdigest()
    known = _remembered.get(key) or _read(cache_folder() / "digests" / f"{key}.json")
    if known is not None and known[0] == state:
        _remembered[key] = known
        return known[1]
    started = time.time()
    value = compute()
    if _state(path) != state:
        raise ValueError(f"{path} changes while it is read")
    if started - max(state[1:3]) / 1e9 > SETTLED:
        _remembered[key] = (state, value)
        _write(cache_folder() / "digests" / f"{key}.json", state, value)
    return value


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _read(path: Path) -> tuple[list[int], str] | None:
    """A remembered digest; None where there is none, or it cannot be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_bytes())
        return list(content["state"]), str(content["digest"])
    return None


def _write(path: Path, state: list[int], digest: str) -> None:
    """Remember a digest for other processes; where the cache cannot be written, they compute it again."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{uuid.uuid4().hex}")
        draft.write_text(json.dumps({"state": state, "digest": digest}))
        os.replace(draft, path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_read(path: Path) -> bool:
    return path.is_file() and any(fnmatchcase(path.name, pattern) for pattern in SMALL)
