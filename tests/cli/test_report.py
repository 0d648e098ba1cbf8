"""The progress of the command `report`."""

import io
import sys

from deltacompose.cli import report


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self):
        return True


def phases():
    with report._progress() as phase:
        phase("reading the store", None)
        step = phase("drawing figures", 2)
        step("one.pdf")
        step("two.pdf")


def test_a_terminal_shows_a_bar_of_what_is_being_done(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    phases()
    assert "drawing figures" in sys.stderr.getvalue()
    assert "2/2" in sys.stderr.getvalue()


def test_a_log_gets_no_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    phases()
    assert sys.stderr.getvalue() == ""
