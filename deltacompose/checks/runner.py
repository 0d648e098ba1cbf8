"""Checks and how they are run: each separately, with one sentence for a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deltacompose.errors import BadInput, unknown
from deltacompose.plugins.isolation import error_text


class Broken(AssertionError):
    """A member does not pass a check; the message is one sentence: what is wrong, where, found and expected.

    Attributes:
        cause: what is wrong with the member, in words, or what it raised; several checks may fail for one cause.
    """

    def __init__(self, sentence: str, cause: str = "") -> None:
        super().__init__(sentence)
        self.cause = cause


class Unchecked(Broken):
    """A check could not be made, because the member raised something that is not about this check alone."""


def always(subject: Any) -> bool:
    """A check that every member must pass."""
    return True


@dataclass(frozen=True)
class Check:
    """One property, and the function that raises `Broken` for what lacks it.

    Attributes:
        when: whether the check says anything about this member.
        once: whether it needs no backbone, so that one run says all.
    """

    function: Callable[[Any], None]
    when: Callable[[Any], bool] = always
    once: bool = False

    @property
    def name(self) -> str:
        """How the check is called in a test's id and among the expected failures."""
        return self.function.__name__

    @property
    def sentence(self) -> str:
        """The property, as the first line of the function's docstring says it."""
        return (self.function.__doc__ or "").strip().partition("\n")[0]

    def says_something_of(self, subject: Any) -> bool:
        """Whether the check says anything about a member; of one that cannot even be asked, it does."""
        try:
            return self.when(subject)
        except (Exception, SystemExit):  # what a stranger's member raises may be anything; the check itself will tell
            return True

    def __call__(self, subject: Any) -> None:
        """Raises `Broken` where the member lacks the property; any other exception also becomes one sentence."""
        try:
            self.function(subject)
        except Broken:
            raise
        except (Exception, SystemExit) as error:  # what a stranger's member raises may be anything
            cause = error_text(error)
            raise Unchecked(f"{subject}: {self.name.replace('_', ' ')} cannot be checked: {cause}", cause) from error


def run(checks: Sequence[tuple[str, Callable[[], None]]], expected: Mapping[str, str] | None = None) -> None:
    """Runs checks, each given with its name, and raises one `Broken` that has a line for every surprise.

    Checks that fail for one cause have two lines: the most telling of their failures, and the names of the others.
    Failures come before members that could not be checked.

    Args:
        expected: reasons by the name of the check that fails for it, `bank_equals_separate` or, for one backbone alone,
            `bank_equals_separate[t5]`.

    Raises:
        Broken: a check failed that was not expected to, or passed although it was.
        BadInput: a check of that name does not exist, or has no reason.
    """
    reasons = expected_reasons([name for name, _ in checks], expected)
    surprises = []
    for name, check in checks:
        failure, reason = _failure(check), reasons[name]
        if failure and not reason:
            surprises.append((name, failure))
        elif reason and not failure:
            surprises.append((name, Broken(f"passes although it is expected to fail ({reason}); expect it no longer")))
    if surprises:
        raise Broken("\n".join(_lines(surprises)))


def expected_reasons(names: Sequence[str], expected: Mapping[str, str] | None) -> dict[str, str]:
    """For each check's name the reason why it is expected to fail, or ""; unknown names are refused."""
    expected = expected or {}
    known = dict.fromkeys([*names, *(name.partition("[")[0] for name in names)])
    for name, reason in expected.items():
        if name not in known:
            raise unknown("check", name, known)
        if not reason:
            raise BadInput(f"the check {name!r} is expected to fail without a reason; say why it does")
    return {name: expected.get(name, expected.get(name.partition("[")[0], "")) for name in names}


def _failure(check: Callable[[], None]) -> Broken | None:
    try:
        check()
    except Broken as broken:
        return broken
    return None


def _lines(surprises: Sequence[tuple[str, Broken]]) -> Iterator[str]:
    """A line for each cause, for the most telling of its failures; the others are named after it."""
    alike: dict[tuple[str, str], list[tuple[str, Broken]]] = {}
    for name, failure in surprises:
        alike.setdefault((failure.cause, "" if failure.cause else name), []).append((name, failure))
    told = [(min(group, key=_unchecked), group) for group in alike.values()]
    for (name, failure), group in sorted(told, key=lambda entry: _unchecked(entry[0])):
        yield f"[{name}] {failure}"
        if others := [other for other, _ in group if other != name]:
            yield f"[{_joined(others)}] for the same reason"


def _unchecked(surprise: tuple[str, Broken]) -> bool:
    return isinstance(surprise[1], Unchecked)


def _joined(names: Sequence[str]) -> str:
    """Names of checks with the backbones of each together: `effect[t5, bert], spawned_worker`."""
    backbones: dict[str, list[str]] = {}
    for name in names:
        check, _, backbone = name.removesuffix("]").partition("[")
        backbones.setdefault(check, []).extend([backbone] if backbone else [])
    return ", ".join(f"{check}[{', '.join(on)}]" if on else check for check, on in backbones.items())
