"""Where the files of a backbone are: what a plugin's loader gives. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Checkpoint:
    """Where a backbone's files are: what a plugin's loader gives.

    Attributes:
        location: a folder, or a name on the Hugging Face hub.
        sha256: what the file `model.safetensors` must hash to; "" where that is not checked.
    """

    location: str
    sha256: str = ""
