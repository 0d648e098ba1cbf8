"""A new plugin from the template next to this file: a complete distribution that installs and passes its own tests."""

from __future__ import annotations

import importlib.metadata
import keyword
import re
from collections.abc import Collection
from pathlib import Path

from deltacompose.errors import BadInput

TEMPLATE = Path(__file__).parent / "plugin"


def new_plugin(name: str, folder: Path, taken: Collection[str] = ()) -> Path:
    """Writes the distribution `deltacompose-<name>` into a new folder of that name and gives the folder.

    Args:
        name: what the method will be called in compositions; a leading `deltacompose-` is dropped and `-` reads as `_`.
        folder: where the new folder is made.
        taken: names that the method must not have, those of the methods and expressions that exist.

    Raises:
        BadInput: the name cannot be used, or the folder exists or cannot be written.
    """
    method = _named(name, taken)
    target = folder / f"deltacompose-{method.replace('_', '-')}"
    words = {
        "name": method,
        "distribution": target.name,
        "package": f"deltacompose_{method}",
        "method_class": "".join(word.capitalize() for word in method.split("_")),
        "deltacompose": importlib.metadata.version("deltacompose"),
    }
    texts = {path.replace("NAME", method): text for path, text in _rendered(words).items()}
    _written(target, texts)
    return target


def _named(name: str, taken: Collection[str]) -> str:
    method = re.sub(r"^deltacompose[-_]", "", name).replace("-", "_")
    if not re.fullmatch(r"[a-z]+(_?[a-z0-9]+)*", method) or keyword.iskeyword(method):
        raise BadInput(
            f"{name!r} is not a name for a plugin; a name is small letters, digits and '-', a letter first, no word of "
            "Python's own"
        )
    if method in taken or method == "plugins":
        raise BadInput(f"the name {method!r} is taken; choose one that is not among: {', '.join(sorted(taken))}")
    return method


def _rendered(words: dict[str, str]) -> dict[str, str]:
    # Imported here because nothing else at the plugin door needs jinja2.
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    sources = sorted(path for path in TEMPLATE.rglob("*.jinja"))
    return {
        path.relative_to(TEMPLATE).with_suffix("").as_posix(): environment.from_string(path.read_text()).render(words)
        for path in sources
    }


def _written(target: Path, texts: dict[str, str]) -> None:
    try:
        target.mkdir(parents=True)
        for path, text in texts.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_text(text)
    except FileExistsError:
        raise BadInput(f"{target} exists already; remove it or choose another name") from None
    except OSError as error:
        raise BadInput(f"{target} cannot be written: {error.strerror}") from error
