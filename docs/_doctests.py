"""Shows the examples of docstrings as code on the documentation site.

The parser of docstrings knows examples only below a heading `Examples:`; ours stand where they explain something.
"""

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^>>> .*(?:\n(?!\s*$).+)*", re.M)


class Doctests(griffe.Extension):
    """Puts a fence around every example that is not indented below a heading."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(lambda example: f"```pycon\n{example[0]}\n```", obj.docstring.value)
