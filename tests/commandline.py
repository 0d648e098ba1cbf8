"""One command of the command line, called without the program around it."""

import typer
from typer.testing import CliRunner


def printed_by(function, *arguments):
    """The standard output of a command; its exception is raised."""
    app = typer.Typer()
    app.command()(function)
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout
