"""Old import paths: each works, warns with the new path, and gives the very same objects."""

import importlib
import subprocess
import sys

import pytest

from deltacompose.moved import MOVED


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_path_warns_and_gives_the_objects_of_the_new_one(old):
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=MOVED[old]):
        alias = importlib.import_module(old)
    target = importlib.import_module(MOVED[old])
    public = [name for name in vars(target) if not name.startswith("_")]
    assert public
    assert all(getattr(alias, name) is getattr(target, name) for name in public)


def test_a_plugin_written_for_the_old_paths_still_imports():
    program = "from deltacompose.recipe import Recipe\nfrom deltacompose.analysis import records\nprint(Recipe().steps)"
    done = subprocess.run([sys.executable, "-W", "always", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deltacompose.recipe has moved to deltacompose.study.recipe" in done.stderr


def test_a_path_that_never_existed_is_an_import_error():
    with pytest.raises(ModuleNotFoundError, match=r"deltacompose\.nothing"):
        importlib.import_module("deltacompose.nothing")
