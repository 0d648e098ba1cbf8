from collections.abc import Callable

from deltacompose_example.red import RED

from deltacompose.checks import parametrize_with_checks


@parametrize_with_checks([RED()])
def test_the_method_keeps_the_contract(method: RED, check: Callable[[RED], None]) -> None:
    check(method)
