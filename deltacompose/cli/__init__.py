"""The `deltacompose` command. Its modules import what is heavy inside their functions, so that `--help` is quick."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated

import typer

from deltacompose.cli import delta, graph, interaction, interop, predict, store, study, subspace
from deltacompose.cli import exchange as handover
from deltacompose.cli import listings as catalogue
from deltacompose.cli import similarity as analysis
from deltacompose.cli.stdout import document_alone
from deltacompose.errors import BadInput, Diverged, bounded

INTERRUPTED = 130
"""The exit status after ctrl-C, as shells have it."""

app = typer.Typer(
    name="deltacompose",
    help="Compose delta-tuning methods, and find out how tasks relate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def options(
    no_plugins: Annotated[bool, typer.Option("--no-plugins", help="Use the built-in members alone.")] = False,
) -> None:
    if no_plugins:
        os.environ["DELTACOMPOSE_NO_PLUGINS"] = "1"


study.register(app)
delta.register(app)
analysis.register(app)
predict.register(app)
graph.register(app)
subspace.register(app)
catalogue.register(app)
handover.register(app)
interop.register(app)
app.command()(interaction.interaction)
app.add_typer(store.app, name="store")


def main() -> None:
    """Runs the command. Bad input is one sentence on stderr and exit status 2; ctrl-C is 130.

    A delta that diverges is no fault of the command line, and no bug: one sentence too, and status 1.
    """
    try:
        # `typer.Exit` comes back as its number here, and is not raised; so does ctrl-C, by typer's version
        with document_alone(sys.argv[1:]):
            status = app(standalone_mode=False, prog_name="deltacompose")
    except BrokenPipeError:  # what reads our output has ended, as `head` does
        with contextlib.suppress(OSError, ValueError):  # a stream in memory has no descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        reason = f"error: {error.filename or ''}: {error.strerror or error}".replace(": : ", ": ")
        print(bounded(reason), file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        _usage(error)
    if status == INTERRUPTED:
        print("stopped; what was finished is kept", file=sys.stderr)
    if status:
        sys.exit(status)


def _usage(error: Exception) -> None:
    """Shows a mistake in the command line as typer does; anything else is a fault of ours and keeps its traceback."""
    show = getattr(error, "show", None)
    if show is None:
        raise error
    if isinstance(getattr(error, "message", None), str):
        error.message = bounded(error.message)  # type: ignore[attr-defined]
    show()
    sys.exit(getattr(error, "exit_code", 2))
