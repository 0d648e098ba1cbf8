"""The `deltacompose` command. Its modules import what is heavy inside their functions, so that `--help` is quick.

Studies and stores: `study`, `report_command`, `store_commands`, `watch`. Deltas: `delta_commands`, `library_commands`,
`recommend_command`, `reuse_command`, `exchange_commands`. Analyses: `transfer`, `similarity`, `similarity_all`,
`predict`, `graph`, `subspace_command`, `interaction`, `heatmap`, `agreement_command`. Members: `listings`,
`plugin_check`. Shared: `options`, `grouped` (the help), `inputs`, `output`, `stdout`, `waiting`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Annotated

import typer

from deltacompose.cli import agreement_command as agreement
from deltacompose.cli import delta_commands as delta
from deltacompose.cli import exchange_commands as exchange
from deltacompose.cli import graph, heatmap, interaction, listings, predict, similarity, study, transfer, watch
from deltacompose.cli import library_commands as library
from deltacompose.cli import recommend_command as recommend
from deltacompose.cli import report_command as report
from deltacompose.cli import reuse_command as reuse
from deltacompose.cli import store_commands as store
from deltacompose.cli import subspace_command as subspace
from deltacompose.cli.grouped import GroupedCommands
from deltacompose.cli.options import DELTAS, STUDIES
from deltacompose.cli.stdout import document_alone
from deltacompose.errors import BadInput, Diverged, bounded

INTERRUPTED = 130
"""Exit status after ctrl-C: 128 + SIGINT, as in shells."""

app = typer.Typer(
    name="deltacompose",
    cls=GroupedCommands,
    help="Compose delta-tuning methods and analyse how tasks relate.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def program(
    no_plugins: Annotated[bool, typer.Option("--no-plugins", help="Built-in members only.")] = False,
) -> None:
    if no_plugins:
        os.environ["DELTACOMPOSE_NO_PLUGINS"] = "1"


for commands in (
    study,
    report,
    watch,
    delta,
    transfer,
    similarity,
    predict,
    recommend,
    reuse,
    graph,
    heatmap,
    subspace,
    interaction,
    agreement,
    listings,
    exchange,
):
    commands.register(app)
app.add_typer(store.app, name="store", rich_help_panel=STUDIES)
app.add_typer(library.app, name="library", rich_help_panel=DELTAS)


def main() -> None:
    """Runs the command line.

    Bad input ends with one sentence on stderr and exit status 2, ctrl-C with status 130. A delta that diverges is
    neither bad input nor a bug: it ends with one sentence and status 1.
    """
    try:
        # typer returns the status of `typer.Exit` instead of raising it; some versions do the same for ctrl-C
        with document_alone(sys.argv[1:]):
            status = app(standalone_mode=False, prog_name="deltacompose")
    except BrokenPipeError:  # the reader of our output has exited, as `head` does
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
        print("interrupted; finished cells are kept", file=sys.stderr)
    if status:
        sys.exit(status)


def _usage(error: Exception) -> None:
    """Prints a usage error as typer does; any other exception is a bug and keeps its traceback."""
    show = getattr(error, "show", None)
    if show is None:
        raise error
    if isinstance(getattr(error, "message", None), str):
        error.message = bounded(error.message)  # type: ignore[attr-defined]
    show()
    sys.exit(getattr(error, "exit_code", 2))
