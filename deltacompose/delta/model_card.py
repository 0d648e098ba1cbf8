"""The card of a delta as the Hugging Face hub shows it: a `README.md` with metadata, all texts escaped."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

LIBRARY = "deltacompose"


@dataclass(frozen=True)
class HubResult:
    """A score in a model card: of a task's split, in a metric."""

    task: str
    split: str
    metric: str
    value: float


def model_card(
    described: Mapping[str, Any],
    results: Sequence[HubResult] = (),
    tags: Sequence[str] = (),
    licence: str = "",
) -> str:
    """The text of a `README.md` for what `delta.json` holds.

    Its metadata are `base_model`, `library_name`, `tags` and a `model-index` of the results
    (https://huggingface.co/docs/hub/model-cards).

    Args:
        described: `expression`, `backbone` and `record` of a delta.
        licence: of the data that it was trained on.
    """
    backbone, record = described["backbone"], described["record"]
    name, expression = str(backbone.get("name", "")), str(described["expression"])
    metadata: dict[str, Any] = {
        "library_name": LIBRARY,
        "tags": sorted({LIBRARY, "delta-tuning", *map(_line, tags)} - {""}),
    }
    metadata |= {"base_model": _line(name)} if name else {}
    metadata |= {"license": "other", "license_name": _line(licence)} if licence else {}
    if results:
        metadata["model-index"] = [{"name": _line(expression), "results": [_result(result) for result in results]}]
    task = record.get("task")
    lines = [
        f"# {plain(expression)}",
        "",
        f"A delta of {plain(name) or 'an unnamed backbone'}"
        + (f", trained on {plain(task)}." if isinstance(task, str) else "."),
        "",
        "| | |",
        "|---|---|",
        *(f"| {plain(key)} | {plain(value)} |" for key, value in _facts(described)),
        "",
        *_table(results),
        "```python",
        "import deltacompose as dc",
        "",
        'delta = dc.load_delta("hf://<user>/<repository>")',
        "```",
    ]
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n\n" + "\n".join(lines) + "\n"


def plain(value: object) -> str:
    """A text for Markdown that stays text: on one line, without HTML, links, tables or code.

    >>> plain("<script>x</script> | `a`")
    '&lt;script&gt;x&lt;/script&gt; \\\\| \\\\`a\\\\`'
    """
    text = html.escape(" ".join(str(value).split())[:500], quote=False)
    return re.sub(r"([\\`*_\[\]|!#])", r"\\\1", text)


def _line(text: str) -> str:
    """A text for the metadata: one line, so that it cannot end them."""
    return " ".join(text.split())[:200]


def _facts(described: Mapping[str, Any]) -> list[tuple[str, object]]:
    record, backbone = described["record"], described["backbone"]
    facts = [("seed", record.get("seed")), ("trainable parameters", record.get("parameters"))]
    facts += [("development score", record.get("dev")), ("fingerprint of the backbone", backbone.get("fingerprint"))]
    facts += [("methods of", ", ".join(sorted(set(described.get("plugins", {}).values()))))]
    return [(name, value) for name, value in facts if value not in (None, "")]


def _result(result: HubResult) -> dict[str, Any]:
    return {
        "task": {"type": "text2text-generation"},
        "dataset": {"name": _line(result.task), "type": _line(result.task), "split": result.split},
        "metrics": [{"type": result.metric, "value": result.value}],
    }


def _table(results: Sequence[HubResult]) -> list[str]:
    if not results:
        return []
    rows = [f"| {plain(r.task)} | {plain(r.split)} | {plain(r.metric)} | {r.value:.4f} |" for r in results]
    return ["| evaluated on | split | metric | score |", "|---|---|---|---|", *rows, ""]
