"""The public conformance suite for methods, tasks, tables and measures.

`suite` has the functions that a plugin calls, `runner` runs the checks, `subject` is the method under test. Checks of a
method: `settings`, `formula`, `tensors`, `abilities`, `behaviour`, `gradients`, `training`, `detaching`, `composing`,
`combining`, `generating`, `precision`, `independence`, `hidden_inputs` and `other_process`. `backbones` and `adapters`
check tables, `tasks` tasks, `measures` measures. `batches`, `calls`, `disturbing` and `signature` are material that
several checks use.
"""

from deltacompose.checks.suite import (
    BACKBONES,
    HOSTILE_BACKBONES,
    METHOD_CHECKS,
    Broken,
    check_backbone_table,
    check_measure,
    check_method,
    check_task,
    parametrize_with_checks,
)

__all__ = [
    "BACKBONES",
    "Broken",
    "HOSTILE_BACKBONES",
    "METHOD_CHECKS",
    "check_backbone_table",
    "check_measure",
    "check_method",
    "check_task",
    "parametrize_with_checks",
]
