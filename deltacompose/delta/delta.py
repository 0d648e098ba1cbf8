"""A trained composition, in hand and on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from deltacompose.attach.attachment import attached
from deltacompose.backbone.backbone import Backbone
from deltacompose.composition import Composition, Part, parse
from deltacompose.errors import BadInput

FORMAT = 1
"""The version of the folder's layout."""


@dataclass(frozen=True, eq=False)
class Delta:
    """Expression, tensors, and the record of how they came about.

    Attributes:
        weights: the trained tensors, finalised, `<stage>.<part>.<place>.<tensor>`.
        constants: the frozen tensors that the edits read beside them.
        backbone: name, family and fingerprint of the backbone that it was trained on.
        plugins: for each method the distribution and version that it came from.
        record: how it was trained, ready for JSON: task, seed, recipe, history and what else is known.
    """

    expression: Composition
    weights: Mapping[str, Tensor]
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    backbone: Mapping[str, str] = field(default_factory=dict)
    plugins: Mapping[str, str] = field(default_factory=dict)
    record: Mapping[str, Any] = field(default_factory=dict)

    @contextmanager
    def attached(self, backbone: Backbone) -> Iterator[PreTrainedModel]:
        """The backbone's model with this delta in force; undone exactly on leaving."""
        self.check(backbone)
        with attached(backbone, self.expression, self.weights, self.constants, finalized=True) as model:
            yield model

    def check(self, backbone: Backbone) -> None:
        """Refuses a backbone other than the one that the delta was trained on."""
        if self.backbone and self.backbone["fingerprint"] != backbone.fingerprint:
            raise BadInput(
                f"this delta of {self.expression} was trained on {self.backbone['name']} "
                f"(fingerprint {self.backbone['fingerprint'][:12]}), not on {backbone.name} "
                f"({backbone.fingerprint[:12]})"
            )

    def save(self, folder: str | Path) -> Path:
        """Writes `delta.safetensors` and `delta.json` into a folder, which is made if need be."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"{kind}/{name}": x.detach().cpu().contiguous() for kind, name, x in self._tensors()}
        save_file(tensors, folder / "delta.safetensors")
        described = self._described() | {"sha256": _sha256(folder / "delta.safetensors")}
        (folder / "delta.json").write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")
        return folder

    def _tensors(self) -> Iterator[tuple[str, str, Tensor]]:
        for kind, tensors in (("weights", self.weights), ("constants", self.constants)):
            yield from ((kind, name, tensor) for name, tensor in tensors.items())

    def _described(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "expression": str(self.expression),
            "settings": self.expression.describe(),
            "backbone": dict(self.backbone),
            "plugins": dict(self.plugins),
            "record": dict(self.record),
        }


def load(folder: str | Path, methods: Mapping[str, type[Part]]) -> Delta:
    """The delta in a folder.

    Raises:
        BadInput: no delta there, a file that is cut off, of another format or of another delta, a method that is not
            installed, or one whose settings now mean something else than when the delta was saved.
    """
    described = _described(Path(folder))
    expression = parse(described["expression"], methods)
    if json.loads(json.dumps(expression.describe())) != described["settings"]:
        raise BadInput(
            f"{folder}: {described['expression']!r} has other default settings in the installed "
            f"{', '.join(sorted(set(described['plugins'].values()))) or 'plugins'} than when the delta was saved: "
            f"{json.dumps(described['settings'])}"
        )
    tensors = _tensors(Path(folder) / "delta.safetensors", described.get("sha256"))
    split = {
        kind: {n.partition("/")[2]: x for n, x in tensors.items() if n.startswith(f"{kind}/")}
        for kind in ("weights", "constants")
    }
    return Delta(
        expression,
        split["weights"],
        split["constants"],
        described["backbone"],
        described["plugins"],
        described["record"],
    )


def _described(folder: Path) -> dict[str, Any]:
    path = folder / "delta.json"
    try:
        described = json.loads(path.read_text())
    except FileNotFoundError:
        raise BadInput(
            f"{folder} holds no delta: there is no {path.name}; a delta's folder has delta.json and delta.safetensors"
        ) from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read as a delta's record ({error})") from None
    wanted = ("format", "expression", "settings", "backbone", "plugins", "record")
    if not isinstance(described, dict) or any(key not in described for key in wanted):
        raise BadInput(f"{path} is no delta's record; it needs {', '.join(wanted)}")
    if described["format"] != FORMAT:
        raise BadInput(f"{path} has format {described['format']!r}; this version of deltacompose reads format {FORMAT}")
    return described


def _tensors(path: Path, sha256: str | None) -> dict[str, Tensor]:
    """The tensors of a file; its hash is compared where the delta's record has one."""
    try:
        tensors: dict[str, Tensor] = load_file(path)
        found = _sha256(path)
    except FileNotFoundError:
        raise BadInput(f"{path.parent} holds no delta: there is no {path.name}") from None
    except (SafetensorError, OSError) as error:
        raise BadInput(f"{path} is cut off or no safetensors file ({error})") from None
    if sha256 not in (None, found):
        raise BadInput(f"{path} is not the file that delta.json beside it was written for: its sha256 is {found[:12]}")
    return tensors


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
