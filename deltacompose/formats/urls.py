"""Folders at fsspec URLs (`memory://`, `s3://`, `hf://user/repo`): listed, fetched, and published with one file last.

A URL names a folder that the user chose. None is ever taken from a file: what a card or a record says is text.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from deltacompose.errors import BadInput, quoted
from deltacompose.formats.files import Missing, read_bytes

Place = str | Path
"""A folder: a path, or an fsspec URL."""


def is_url(place: Place) -> bool:
    """Whether a place is a URL rather than a path.

    >>> is_url("memory://library"), is_url("results/library")
    (True, False)
    """
    return isinstance(place, str) and "://" in place


def within(place: Place, *names: str) -> Place:
    """The place of a file or folder within another one; the names are joined as they are.

    >>> within("memory://library/", "deltas", "a"), within("memory://", "a")
    ('memory://library/deltas/a', 'memory://a')
    """
    if not is_url(place):
        return Path(place, *names)
    protocol, _, path = str(place).partition("://")
    return f"{protocol}://{'/'.join([*filter(None, [path.rstrip('/')]), *names])}"


def names_in(place: Place) -> list[str]:
    """The names of what a folder holds, in order; none where there is no such folder.

    Raises:
        BadInput: the folder cannot be read.
    """
    if not is_url(place):
        try:
            return sorted(entry.name for entry in Path(place).iterdir())
        except FileNotFoundError:
            return []
        except (OSError, ValueError) as error:
            raise BadInput(f"cannot read {quoted(str(place))}: {getattr(error, 'strerror', None) or error}") from None
    with _answering("read", str(place)):
        system, path = _system(str(place))
        system.invalidate_cache(path)  # listings are kept in memory, and another process may have written
        try:
            entries = system.ls(path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(str(entry).rstrip("/").rpartition("/")[2] for entry in entries)


def content_at(place: Place, name: str, limit: int) -> bytes:
    """The content of a file in a folder, of at most `limit` bytes.

    Raises:
        Missing: there is no such file.
        BadInput: it is larger than the limit, is not a file, or cannot be read.
    """
    at = within(place, name)
    if not is_url(place):
        return read_bytes(Path(at), limit)
    with _answering("read", str(at)):
        system, path = _system(str(at))
        _check_size(system, path, str(at), limit)
        content: bytes = system.cat_file(path)
    return content


@contextmanager
def local_folder(place: Place, names: Sequence[str], limit: int | None = None) -> Iterator[Path]:
    """A local folder with the named files of a place; that of a path is the folder itself.

    Files that a remote folder lacks are left out. Within the block an error names the URL and not the copy.

    Args:
        limit: the largest size in bytes of a file that is fetched; None for any.
    """
    if not is_url(place):
        yield Path(place)
        return
    with TemporaryDirectory(prefix="deltacompose-") as folder:
        for name in names:
            at = str(within(place, name))
            with _answering("read", at):
                system, path = _system(at)
                try:  # not `exists`, which takes a host that cannot be reached for a missing file
                    _check_size(system, path, at, limit)
                except FileNotFoundError:
                    continue
                system.get_file(path, str(Path(folder) / name))
        try:
            yield Path(folder)
        except BadInput as error:
            raise type(error)(str(error).replace(folder, str(place))) from None


def publish(folder: Path, url: str, last: str) -> None:
    """Writes the files of a local folder to a URL; `last` is written when all others are there.

    A reader that finds `last` so finds all of them.

    Raises:
        BadInput: the URL cannot be written.
    """
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: (path.name == last, path))
    with _answering("write", url):
        system, root = _system(url)
        for path in files:
            target = f"{root.rstrip('/')}/{path.relative_to(folder).as_posix()}"
            system.makedirs(target.rpartition("/")[0], exist_ok=True)
            if "file" in _protocols(system):  # written in place, a file is empty for a moment, which a reader may meet
                part = f"{target}.{os.getpid()}-{threading.get_ident()}.part"
                system.pipe_file(part, path.read_bytes())
                os.replace(part, target)
            else:
                system.pipe_file(target, path.read_bytes())


def _protocols(system: Any) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


def check_url(url: str) -> None:
    """Refuses a URL of which no file system can be made here.

    Raises:
        BadInput: it is a chain, or its protocol is unknown or needs a package that is missing.
    """
    with _answering("open", url):
        _system(url)


def _system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path there.

    Raises:
        BadInput: the URL is a chain, or its protocol is unknown or not installed.
    """
    import fsspec

    if "::" in url:
        raise BadInput(f"{quoted(url)} is not a valid URL of a folder (a chain of file systems; expected one)")
    protocol = url.partition("://")[0]
    known = sorted(fsspec.available_protocols())
    if protocol not in known:
        raise BadInput(f"{quoted(url)} has an unknown protocol; protocols: {', '.join(known)}")
    try:
        system, path = fsspec.url_to_fs(url)
    except ImportError as error:
        raise BadInput(f"cannot open {quoted(url)} because a package is missing ({error})") from None
    return system, str(path)


def _check_size(system: Any, path: str, url: str, limit: int | None) -> None:
    info = system.info(path)
    if info.get("type") != "file":
        raise BadInput(f"cannot read {quoted(url)}: it is a {info.get('type')}; expected a file")
    if limit is not None and (info.get("size") or 0) > limit:
        raise BadInput(f"cannot read {quoted(url)}: it has {info['size']} bytes; the limit is {limit}")


@contextmanager
def _answering(verb: str, url: str) -> Iterator[None]:
    """Within, what a file system raises becomes one sentence; its client libraries raise errors of their own."""
    try:
        yield
    except BadInput:
        raise
    except FileNotFoundError:
        raise Missing(f"cannot {verb} {quoted(url)}: there is no such file or folder") from None
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BadInput(f"cannot {verb} {quoted(url)}: {reason[:200]}") from None
