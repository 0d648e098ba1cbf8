"""YAML files, read strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deltacompose.formats.files import read_text
from deltacompose.limits import YAML_BYTES
from deltacompose.validation import parsed_yaml


def read_yaml(path: Path) -> Any:
    """The data of a YAML file.

    Raises:
        Missing: there is no such file.
        BadInput: it cannot be read, is larger than the limit, or is not valid YAML; see `parsed_yaml`.
    """
    return parsed_yaml(read_text(path, YAML_BYTES), str(path))
