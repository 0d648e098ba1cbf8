"""The Python interface. Each name is imported when it is first used.

`deltas` trains and evaluates one delta; `studies` plans and runs studies; `stores` reads results. `planned` makes plans
and `prepared` recalls them from the cache; `estimates` has time and memory; `observers` shows progress; `agreement`
compares data types; `migration` converts stores of an earlier version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deltacompose import moved

if TYPE_CHECKING:  # for type checkers and editors, which do not call `__getattr__`
    from deltacompose.api.deltas import (
        attached,
        evaluate,
        init_weights,
        reader_for,
        train,
    )
    from deltacompose.api.estimates import cost_of, notes
    from deltacompose.api.planned import plan, prepare
    from deltacompose.api.stores import (
        categories_of,
        lifts,
        of_transfer,
        records,
        transfer_matrix,
        verify,
    )
    from deltacompose.api.studies import prefetch, run
    from deltacompose.registry import (
        check_rates,
        engine_of,
        expression_of,
        fetch_backbone,
        implementation_of,
        load_backbone,
        load_delta,
        measures,
        methods,
        origin_of,
        parse,
        sources_of,
        task_of,
        tasks,
        with_origins,
    )

_HOMES = {
    "registry": "check_rates engine_of expression_of fetch_backbone implementation_of load_backbone load_delta "
    "measures methods origin_of parse sources_of task_of tasks with_origins",
    "api.deltas": "attached evaluate init_weights reader_for train",
    "api.estimates": "cost_of notes",
    "api.planned": "plan prepare",
    "api.studies": "prefetch run",
    "api.stores": "categories_of lifts of_transfer records transfer_matrix verify",
}
_NAMES = {name: home for home, names in _HOMES.items() for name in names.split()}
__all__ = [
    "attached",
    "categories_of",
    "check_rates",
    "cost_of",
    "engine_of",
    "evaluate",
    "expression_of",
    "fetch_backbone",
    "implementation_of",
    "init_weights",
    "lifts",
    "load_backbone",
    "load_delta",
    "measures",
    "methods",
    "notes",
    "of_transfer",
    "origin_of",
    "parse",
    "plan",
    "prefetch",
    "prepare",
    "reader_for",
    "records",
    "run",
    "sources_of",
    "task_of",
    "tasks",
    "train",
    "transfer_matrix",
    "verify",
    "with_origins",
]

__getattr__ = moved.on_first_use("deltacompose.api", _NAMES)


def __dir__() -> list[str]:
    return sorted(__all__)
