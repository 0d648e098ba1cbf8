"""The gallery: one command draws every figure of it from stored results, and writes its page."""

import ast
import builtins
import importlib.util
import re
from pathlib import Path

import pytest
from PIL import Image

from deltacompose import figures

SCRIPT = Path(__file__).parent.parent.parent / "docs" / "gallery.py"


def loaded():
    spec = importlib.util.spec_from_file_location("gallery", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GALLERY = loaded()


@pytest.mark.parametrize("figure", GALLERY.FIGURES, ids=lambda figure: figure.__name__)
def test_a_figure_of_the_gallery_is_drawn_and_stored(figure, tmp_path):
    GALLERY.draw(figure, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert 400 < image.width <= 1400
    assert (GALLERY.IMAGES / f"{figure.__name__}.png").exists()


def test_the_page_of_the_gallery_is_what_the_command_writes():
    assert GALLERY.PAGE.read_text(encoding="utf-8") == GALLERY.page(), "run `python docs/gallery.py`"


def test_the_gallery_shows_every_figure_of_the_package():
    code = "\n".join(map(GALLERY.code_of, GALLERY.FIGURES))
    drawn = set(re.findall(r"\bdc\.(?:figures\.)?(\w+)\(", code))
    assert sorted(set(figures.__all__) - drawn) == []


def test_every_picture_of_the_gallery_is_on_its_page():
    assert {path.stem for path in GALLERY.IMAGES.glob("*.png")} == {figure.__name__ for figure in GALLERY.FIGURES}


def test_the_code_on_the_page_names_files_of_a_checkout():
    code = GALLERY.code_of(GALLERY.heatmap)
    assert 'LORA = "studies/which_tasks_help/lora.transfer.csv"\ndc.heatmap(LORA, "heatmap.pdf"' in code
    assert all(path.is_file() for path in GALLERY.FILES.values())


@pytest.mark.parametrize("figure", GALLERY.FIGURES, ids=lambda figure: figure.__name__)
def test_the_code_on_the_page_imports_every_name_that_it_uses(figure):
    nodes = list(ast.walk(ast.parse(GALLERY.code_of(figure))))
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    imported = {alias.asname or alias.name for node in nodes if hasattr(node, "names") for alias in node.names}
    used = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert used - bound - imported - set(dir(builtins)) == set()


def test_a_figure_that_is_not_in_the_gallery_is_refused(capsys):
    with pytest.raises(SystemExit) as exit_:
        GALLERY.main(["nothing"])
    assert exit_.value.code == 2
    assert "nothing" in capsys.readouterr().err
