"""Commands that take deltas to peft and to plain transformers models, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deltacompose.cli import show
from deltacompose.cli.delta import AsJson, BackboneName
from deltacompose.errors import BadInput, unknown


def register(app: typer.Typer) -> None:
    """Adds the command to the program; `export` is one command for stores and deltas, in `handover`."""
    app.command("import")(import_adapter)


def export_delta(delta: Path, out: Path, to: str, backbone: str, as_json: bool = False) -> None:
    """Writes a delta as an adapter of peft's, or merges it into a plain transformers model."""
    from deltacompose import api
    from deltacompose.delta import exchange as interop

    if to not in ("peft", "merged"):
        raise unknown("format", to, ["peft", "merged"])
    _check_new(out)
    given, loaded = api.load_delta(delta), api.load_backbone(backbone)
    facts: dict[str, Any] = {"expression": str(given.expression), "to": to, "folder": str(out)}
    if to == "peft":
        facts["type"] = interop.export_peft(given, loaded, out)
        said = f"{given.expression} as peft's {facts['type']}, in {out}"
    else:
        merged = interop.export_merged(given, loaded, out)
        facts |= {"largest_difference": merged.difference, "largest_logit": merged.size}
        said = (
            f"{given.expression} merged, in {out}: logits differ by at most {merged.difference:.2g} from those with "
            f"the delta in force, which are up to {merged.size:.2g}"
        )
    return show.as_json(facts) if as_json else typer.echo(said)


def import_adapter(
    folder: Annotated[Path, typer.Argument(help="A folder of peft's: adapter_config.json and safetensors.")],
    out: Annotated[Path, typer.Argument(help="Folder for the delta; new or empty.")],
    backbone: BackboneName = "embedded",
    any_base: Annotated[
        bool, typer.Option("--any-base", help="Take an adapter that names another base model.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a delta of an adapter that peft has saved."""
    from deltacompose import api
    from deltacompose.delta import exchange as interop

    _check_new(out)
    found = interop.import_peft(folder, api.load_backbone(backbone), api.methods(), any_base=any_base)
    delta = api.with_origins(found)
    delta.save(out)
    facts = {"expression": str(delta.expression), "type": delta.record["imported"], "folder": str(out)}
    return show.as_json(facts) if as_json else typer.echo(f"{facts['type']} as {delta.expression}, in {out}")


def _check_new(folder: Path) -> None:
    """Nothing is written over, and nothing is done before it is known that it may be written."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} is there already and not empty; name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
