"""The help of the program: its commands under the headings of `options`, as plain text."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

from deltacompose.cli.options import ANALYSES, CATALOGUE, DELTAS, EXCHANGE, STUDIES


class GroupedCommands(TyperGroup):
    """Lists the commands by their `rich_help_panel`.

    Typer groups commands only in its rich mode, whose boxes break copied text and piped output.
    """

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes a section for each group that has commands."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        visible = [(name, command) for name, command in commands if command is not None and not command.hidden]
        width = max((len(name) for name, _ in visible), default=0)
        for heading in (STUDIES, DELTAS, ANALYSES, CATALOGUE, EXCHANGE):
            rows = [
                (name.ljust(width), command.get_short_help_str())
                for name, command in visible
                if getattr(command, "rich_help_panel", None) == heading
            ]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)
