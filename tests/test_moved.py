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


def test_a_package_imports_a_name_when_it_is_first_used():
    program = (
        "import sys, deltacompose as dc\n"
        "assert 'deltacompose.study.config' not in sys.modules\n"
        "assert dc.Study.__module__ == 'deltacompose.study.config' and dc.figures.__name__ == 'deltacompose.figures'\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["deltacompose", "deltacompose.api", "deltacompose.figures"])
def test_a_name_that_a_package_lacks_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match=f"^module '{package}' has no attribute 'nothing'$"):
        _ = importlib.import_module(package).nothing


def test_an_old_name_warns_and_gives_the_new_object():
    import deltacompose.backbone

    with pytest.warns(DeprecationWarning, match="FusedPart"):
        assert deltacompose.backbone.Part is deltacompose.backbone.FusedPart
    with pytest.raises(AttributeError, match="no attribute 'Whole'"):
        _ = deltacompose.backbone.Whole
