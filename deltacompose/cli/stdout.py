"""Stdout of a command with `--json`: one document and nothing else, whatever libraries print."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import TextIO

import typer

_STDOUT, _STDERR = 1, 2
_document: ContextVar[TextIO | None] = ContextVar("document", default=None)


@contextlib.contextmanager
def document_alone(words: Sequence[str]) -> Iterator[None]:
    """Reserves stdout for the document if the command line has `--json`; all other output goes to stderr.

    Libraries and plugins print from C code, from child processes and while the process exits, so the file descriptor is
    redirected to stderr, not only `sys.stdout`.
    """
    options = words[: words.index("--")] if "--" in words else words
    if "--json" not in options:
        yield
        return
    stdout = sys.stdout
    kept = _descriptor_of(stdout)
    document = stdout if kept is None else os.fdopen(kept, "w", encoding="utf-8")
    token = _document.set(document)
    if kept is not None:
        os.dup2(_STDERR, _STDOUT)
    if sys.stderr is not None:
        sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = stdout
        _document.reset(token)
        if kept is not None:
            sys.stderr.flush()
            os.dup2(kept, _STDOUT)
            atexit.register(os.dup2, _STDERR, _STDOUT)  # called before what plugins registered earlier
            with contextlib.suppress(OSError):
                document.close()


def write_document(text: str) -> None:
    """Writes the document to the reserved stdout; without a reservation prints it."""
    document = _document.get()
    if document is None:
        return typer.echo(text)
    document.write(text + "\n")
    document.flush()
    return None


def _descriptor_of(stream: TextIO) -> int | None:
    """A copy of file descriptor 1 if the stream writes to it, otherwise None."""
    try:
        stream.flush()
        return os.dup(_STDOUT) if stream.fileno() == _STDOUT else None
    except (AttributeError, OSError, ValueError):  # a stream in memory has none
        return None
