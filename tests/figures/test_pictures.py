"""Pictures as they were when looked at last, within a tolerance; running this file (PYTHONPATH=tests) redraws them."""

import io
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from pictures import matrix_of_size

from deltacompose import figures
from deltacompose.figures.style import rendered

STORED = Path(__file__).parent / "baselines"
TOLERANCE = 12.0
"""Root mean square difference of 255 steps; a text that moves by a letter's width gives more."""
DRAW = {
    "heatmap": lambda: figures.heatmap(matrix_of_size(5, missing=0.1), value="corrected", style="icml").figure,
    "clustermap": lambda: figures.clustermap(matrix_of_size(12), value="score", style="icml").figure,
    "graph": lambda: figures.graph(matrix_of_size(5), style="icml").figure,
    "lift": lambda: figures.lift(matrix_of_size(5), style="icml").figure,
}


def picture(name):
    return rendered(DRAW[name](), "png", dpi=40)


def difference(one, other):
    """Root mean square difference in 255 steps; infinite where sizes differ by over two pixels."""
    a, b = (imread(io.BytesIO(content))[..., :3] for content in (one, other))
    if np.abs(np.subtract(a.shape, b.shape)).max() > 2:
        return np.inf
    high, wide = (min(sizes) for sizes in zip(a.shape[:2], b.shape[:2], strict=True))
    return 255 * float(np.sqrt(np.mean((a[:high, :wide] - b[:high, :wide]) ** 2)))


@pytest.mark.parametrize("name", DRAW)
def test_a_figure_looks_as_it_did(name):
    assert difference(picture(name), (STORED / f"{name}.png").read_bytes()) < TOLERANCE


def test_another_figure_does_not_pass_for_it():
    other = rendered(figures.heatmap(matrix_of_size(5, missing=0.1), value="score", style="icml").figure, "png", dpi=40)
    assert difference(other, (STORED / "heatmap.png").read_bytes()) > TOLERANCE


if __name__ == "__main__":
    STORED.mkdir(exist_ok=True)
    for stem in DRAW:
        (STORED / f"{stem}.png").write_bytes(picture(stem))
