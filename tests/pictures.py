"""What tests of figures share: tables of any size with long names, and whether every text of a figure can be read."""

from __future__ import annotations

from unittest import mock

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from deltacompose.analysis.matrix import TransferMatrix
from deltacompose.figures.venues import styled

WORDS = ("paraphrase", "commonsense", "entailment", "question", "sentiment", "translation", "summary", "dialogue")
KINDS = ("sentiment analysis", "natural language inference", "question answering", "paraphrase detection", "generation")
SLACK = 0.6
"""Pixels by which boxes of text may touch, which is less than the space around letters."""


def long_names(count):
    """Names of about 35 letters that begin and end alike."""
    return tuple(f"crossfit_{WORDS[i % 8]}_{WORDS[(i // 8 + 3) % 8]}_{i:02d}_without_template" for i in range(count))


def matrix_of_size(count, seeds=3, categories=5, missing=0.0, names=None):
    """A matrix of so many tasks; a share of its cells is missing, one has failed, one is a constant answer."""
    random = np.random.default_rng(count)
    names = names or long_names(count)
    own = random.uniform(0.7, 0.95, count)
    values = np.clip(random.uniform(0.35, 0.75, (seeds, count, count)) + random.normal(0, 0.02, (seeds, 1, 1)), 0, 1)
    values[:, range(count), range(count)] = own + random.normal(0, 0.01, (seeds, count))
    failed, trivial = np.zeros(values.shape, dtype=bool), np.zeros(values.shape, dtype=bool)
    if missing:
        gone = random.random((count, count)) < missing
        np.fill_diagonal(gone, False)
        values[:, gone] = np.nan
        values[:, 0, 1], failed[:, 0, 1], trivial[0, 1, 0] = np.nan, True, True
        values[0, 2, 3] = np.nan
    kinds = {
        name: KINDS[i % categories] if categories <= 5 else f"category {i % categories}" for i, name in enumerate(names)
    }
    return TransferMatrix(
        sources=names,
        targets=names,
        seeds=tuple(range(seeds)),
        values=values,
        chance=np.full(count, 0.5),
        untouched=random.uniform(0.4, 0.55, count),
        random=random.uniform(0.4, 0.5, (seeds, count)),
        trivial=trivial,
        failed=failed,
        metric=("accuracy",) * count,
        categories=kinds if categories else {},
        composition="lora(rank=8) + prompt(length=20) >> adapter(width=24)",
    )


def texts_of(figure):
    """Every text that is drawn, with its box in pixels; ticks beyond the limits of an axis are not drawn."""
    figure.set_dpi(100)
    canvas, texts, draw = FigureCanvasAgg(figure), {}, Text.draw

    def noted(text, renderer):
        if text.get_text().strip() and text.get_visible():
            texts[id(text)] = text
        draw(text, renderer)

    with styled(), mock.patch.object(Text, "draw", noted):
        canvas.draw()
        renderer = canvas.get_renderer()
        return [(text, text.get_window_extent(renderer)) for text in texts.values()]


def assert_legible(figure, smallest=4.9):
    """No text leaves the canvas, no two overlap, none is smaller than can be read."""
    found = texts_of(figure)
    assert found
    wide, high = figure.bbox.width, figure.bbox.height
    for text, box in found:
        assert text.get_fontsize() >= smallest, (text.get_text(), text.get_fontsize())
        inside = box.x0 >= -SLACK and box.y0 >= -SLACK and box.x1 <= wide + SLACK and box.y1 <= high + SLACK
        assert inside, f"{text.get_text()!r} leaves the canvas: {box.extents} of {(wide, high)}"
    boxes = np.array([box.extents for _, box in found])
    low, high = boxes[:, :2] + SLACK, boxes[:, 2:] - SLACK
    apart = (high[:, None] <= low[None]) | (low[:, None] >= high[None])
    meet = np.argwhere(np.triu(~apart.any(axis=2), 1))
    assert not len(meet), [(found[i][0].get_text(), found[j][0].get_text()) for i, j in meet[:5]]


def assert_keys_apart(figure):
    """No legend and no title of the figure lies on the frame of axes, where the data are."""
    renderer = figure.canvas.get_renderer()
    parts = [*figure.legends, *filter(None, [getattr(figure, "_suptitle", None)]), *figure.texts]
    parts = [part for part in parts if not hasattr(part, "get_text") or part.get_text().strip()]
    for axes in (axes for axes in figure.axes if axes.axison):
        frame = axes.get_window_extent(renderer)
        assert min(frame.width, frame.height) > 0.3 * figure.dpi, f"axes of {frame.width} x {frame.height} pixels"
        for part in parts:
            box = part.get_window_extent(renderer)
            apart = (
                box.x1 <= frame.x0 + SLACK or box.x0 >= frame.x1 - SLACK
                or box.y1 <= frame.y0 + SLACK or box.y0 >= frame.y1 - SLACK
            )  # fmt: skip
            assert apart, f"{part} at {box.extents} lies on axes at {frame.extents}"
