"""Records and commands that the tests of searches share."""

from __future__ import annotations

from typer.testing import CliRunner

from deltacompose.cli import app

RATES = {"full": 1e-2, "intrinsic": 1e-9}
"""The reference learns, and no subspace does: so a search goes up to the greatest d."""


def command(folder, name, *options):
    words = [name, folder / "study.yaml", "--store", folder / "store", *options]
    found = CliRunner().invoke(app, list(map(str, words)))
    assert found.exit_code == 0, (found.output, found.exception)
    return found.stdout


def record(text, seed, dev, **settings):
    method = text.partition("(")[0]
    spec = {"composition": text, "task": "t", "seed": seed, "settings": [[{"method": method, "settings": settings}]]}
    return {"kind": "train", "key": f"{text}-{seed}", "spec": spec, "result": {"dev": dev}}


SPEC = {
    "task": "t",
    "settings": {"projection": "dense"},
    "reference": "full",
    "share": 0.9,
    "resolution": 0,
    "most": 9,
}
