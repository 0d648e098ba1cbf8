"""The gallery: one command draws every figure of it from stored results, and writes its page."""

import importlib.util
from pathlib import Path

import pytest
from PIL import Image

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


def test_the_code_on_the_page_names_files_of_a_checkout():
    code = GALLERY.code_of(GALLERY.heatmap_corrected)
    assert 'matrix = read("studies/which_tasks_help/lora.transfer.csv")' in code
    assert '"heatmap_corrected.pdf"' in code


def test_a_figure_that_is_not_in_the_gallery_is_refused(capsys):
    with pytest.raises(SystemExit) as exit_:
        GALLERY.main(["nothing"])
    assert exit_.value.code == 2
    assert "nothing" in capsys.readouterr().err
