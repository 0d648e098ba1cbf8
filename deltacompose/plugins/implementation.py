"""The implementation of a method as one digest: part of cell keys together with its `version`.

A built-in method of a released deltacompose is named by the distribution's version alone, so that an edited comment
recomputes nothing. Any other method is named by the source of its package as well: an edit of it is a new method.
"""

from __future__ import annotations

import hashlib
import importlib.machinery
import inspect
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from packaging.version import InvalidVersion, Version

from deltacompose.cache.file_digests import file_digest
from deltacompose.errors import BadInput
from deltacompose.plugins.loader import Loaded

BUILT_IN = ("deltacompose", "deltacompose_plugins")
"""Top-level packages of this distribution."""


def implementation(loaded: Loaded, name: str) -> str:
    """SHA-256 (hex) of a method's distribution and version and, unless it is a released built-in, of its source.

    Raises:
        BadInput: the method is not installed, its source cannot be read, or it changed after it was imported.
    """
    origin, kind = loaded.origin("method", name), loaded.methods[name]
    own = [origin, kind.__qualname__, getattr(kind, "version", 1)]
    if not _is_released_builtin(origin, kind):
        own += [_source(name, kind), *sorted(_bases(name, kind))]
    return hashlib.sha256(json.dumps(own).encode()).hexdigest()


def sources(loaded: Loaded, name: str) -> list[Path]:
    """The files that a method is named by; none of a released built-in, which its distribution's version names."""
    origin, kind = loaded.origin("method", name), loaded.methods[name]
    place = None if _is_released_builtin(origin, kind) else _package(kind)
    return [] if place is None else _files(place)


def _is_released_builtin(origin: str, kind: type) -> bool:
    return _root(kind) in BUILT_IN and is_release(origin.rpartition(" ")[2])


def is_release(version: str) -> bool:
    """Whether a version is that of a release: not a development version, and without local changes.

    >>> is_release("0.2.0"), is_release("0.3.0.dev1"), is_release("0.2.0+mine")
    (True, False, False)
    """
    try:
        known = Version(version)
    except InvalidVersion:
        return False
    return not (known.is_devrelease or known.local)


def _root(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _bases(name: str, kind: type) -> Iterator[str]:
    """Digests of the modules of base classes that other packages give."""
    for base in kind.__mro__[1:]:
        if _root(base) not in (*BUILT_IN, _root(kind)) and _root(base) not in sys.stdlib_module_names:
            yield _file(name, base)


def _source(name: str, kind: type) -> str:
    """The digest of the package of a class: the relative paths and contents of its files."""
    place = _package(kind)
    if place is None:
        return hashlib.sha256(_text(name, kind).encode()).hexdigest()
    _check_imported(name, kind)
    digests = [[path.relative_to(place.parent).as_posix(), file_digest(path)] for path in _files(place)]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def _package(kind: type) -> Path | None:
    """The folder of the outermost regular package of a class, or the file of its module; None of one without files."""
    parts = kind.__module__.split(".")
    for count in range(1, len(parts) + 1):
        file = getattr(sys.modules.get(".".join(parts[:count])), "__file__", None)
        if file:
            return Path(file).parent if Path(file).stem == "__init__" else Path(file)
    return None


def _files(place: Path) -> list[Path]:
    return [place] if place.is_file() else sorted(path for path in place.rglob("*") if _is_source(path))


def _is_source(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"


def _file(name: str, kind: type) -> str:
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return file_digest(Path(file)) if file else hashlib.sha256(_text(name, kind).encode()).hexdigest()


def _text(name: str, kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError) as error:
        raise BadInput(
            f"cannot read the source of method {name!r} ({error}); define it in a module of its own"
        ) from None


def _check_imported(name: str, kind: type) -> None:
    """Refuses files that changed after this process imported them: what runs is then not what they say."""
    for module in [m for n, m in list(sys.modules.items()) if n.partition(".")[0] == _root(kind)]:
        loader = getattr(getattr(module, "__spec__", None), "loader", None)
        if type(loader) is importlib.machinery.SourceFileLoader and module.__file__:
            path = Path(module.__file__)
            compiled = set(_nested(loader.source_to_code(path.read_bytes(), str(path))))
            if any(code.co_filename == str(path) and code not in compiled for code in _running(module)):
                raise BadInput(
                    f"the code of method {name!r} in {path} changed after this process imported it; "
                    "restart the process (a notebook's kernel, a cluster's workers)"
                )


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _running(module: ModuleType) -> Iterator[CodeType]:
    """The code of the functions of a module and of its classes."""
    for value in list(vars(module).values()):
        for member in list(vars(value).values()) if isinstance(value, type) else [value]:
            yield from (function.__code__ for function in _functions(member))


def _functions(value: Any) -> Iterator[FunctionType]:
    if isinstance(value, property):
        value = value.fget
    if isinstance(value, classmethod | staticmethod):
        value = value.__func__
    if isinstance(value, FunctionType):
        yield value
