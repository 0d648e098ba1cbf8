"""Names that become paths, and bytes that become whole files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from deltacompose.errors import BadInput

_PLAIN = re.compile(r"[a-z0-9_]{1,60}")


def slug(text: str) -> str:
    """A stem of file names for a composition: its text where that is plain, else its words and part of its hash.

    The hash stands behind a hyphen, which no plain text has, so a plain text never meets a shortened one.

    >>> slug("lora"), slug("lora(rank=4) >> adapter")
    ('lora', 'lora_rank_4_then_adapter-e657f403')
    """
    if _PLAIN.fullmatch(text):
        return text
    words = re.sub(r"[^a-z0-9]+", "_", text.lower().replace(">>", " then ").replace("+", " and "))
    return f"{words.strip('_')[:48] or 'composition'}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def slugs(texts: Iterable[str]) -> dict[str, str]:
    """The stem of each composition's files.

    Raises:
        BadInput: two compositions would share their files.
    """
    stems: dict[str, str] = {}
    for text in dict.fromkeys(texts):
        stem = slug(text)
        if stem in stems.values():
            raise BadInput(f"two compositions would share the file name {stem!r}, one of them {text!r}")
        stems[text] = stem
    return stems


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a whole file or none: into a neighbour first, which then takes the name.

    Raises:
        BadInput: the folder or the file cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise BadInput(f"cannot write {str(path)!r}: {error.strerror or error}") from None
    finally:
        if part.parent.is_dir():
            part.unlink(missing_ok=True)
    return path


def write_text(path: Path, content: str) -> Path:
    """Write a whole text file, UTF-8, or none."""
    return write_bytes(path, content.encode())
