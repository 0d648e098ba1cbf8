"""Many deltas as one file: blocks give what the whole gives, and nothing half-written is ever seen."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from deltacompose.analysis import similarity, subspace, tensors
from deltacompose.analysis.graph import edges as network
from deltacompose.analysis.similarity import large_scale as large
from deltacompose.errors import BadInput


def folders_of(base, count=9, seed=0, scale=1.0):
    """Folders of random deltas of two tensors, by name."""
    rng = np.random.default_rng(seed)
    folders = {}
    for i in range(count):
        folder = base / f"delta{i}"
        folder.mkdir(parents=True)
        shapes = {"0.0.b.up": (4, 2), "0.0.a.down": (3, 5)}
        delta = {f"weights/{name}": (scale * rng.normal(size=shape)).astype("f4") for name, shape in shapes.items()}
        save_file({**delta, "constants/0.0.seed": np.ones(2, "f4")}, folder / "delta.safetensors")
        folders[f"task{i}"] = folder
    return folders


@pytest.fixture
def stack(tmp_path):
    return large.collect(folders_of(tmp_path), tmp_path / "stack")


def whole(stack):
    return np.array(stack.matrix(), dtype=np.float64)


def test_a_row_is_the_flattened_delta_without_its_constants(stack, tmp_path):
    delta = tensors.read(tmp_path / "delta3")
    assert list(delta) == ["0.0.a.down", "0.0.b.up"]
    assert np.array_equal(stack.matrix()[3], similarity.flatten(delta).astype("f4"))
    assert stack.names[3] == "task3"
    assert stack.tensors == {"0.0.a.down": (3, 5), "0.0.b.up": (4, 2)}


def test_a_stack_is_opened_again_as_it_was(stack):
    assert large.opened(stack.folder) == stack


def test_blocks_give_what_the_whole_gives(stack):
    for columns in (1, 5, 100):
        inner = large.inner_products(stack, columns)
        assert np.allclose(inner, whole(stack) @ whole(stack).T, atol=1e-4)
        assert np.array_equal(inner, inner.T)
    assert np.allclose(large.cosines(inner), similarity.cosine(whole(stack)), atol=1e-5)


def test_the_spectrum_from_inner_products_is_that_of_the_stack(stack):
    found = large.spectrum(large.inner_products(stack), values=3)
    values = subspace.singular_values(whole(stack))
    assert np.allclose(found["singular_values"], values[:3], rtol=1e-3)
    assert np.isclose(found["participation_ratio"], subspace.participation_ratio(values), rtol=1e-3)
    assert np.isclose(found["stable_rank"], subspace.stable_rank(values), rtol=1e-3)
    assert json.loads(json.dumps(found)) == found


def test_a_sketch_keeps_inner_products_on_average(stack):
    sketches = [large.sketch(stack, 8, seed) for seed in range(300)]
    inner = np.mean([sketch @ sketch.T for sketch in sketches], axis=0)
    assert np.abs(inner - whole(stack) @ whole(stack).T).max() < 3
    assert np.array_equal(sketches[0], large.sketch(stack, 8, 0))


def test_the_error_of_a_sketch_falls_with_the_root_of_its_width(tmp_path):
    rng = np.random.default_rng(0)
    folders = {}
    for i in range(40):
        save_file({"x": rng.normal(size=4000).astype("f4")}, tmp_path / f"{i}.safetensors")
        folders[str(i)] = tmp_path / f"{i}.safetensors"
    stack = large.collect(folders, tmp_path / "stack", "float16")
    exact = large.cosines(large.inner_products(stack))
    for width in (64, 1024):
        sketch = large.sketch(stack, width)
        error = similarity.cosine(sketch) - exact
        assert 0.7 < np.std(error[np.triu_indices(40, 1)]) * np.sqrt(width) < 1.3


@given(st.integers(0, 1000), st.integers(1, 5))
@settings(max_examples=10, deadline=None)
def test_neighbours_are_the_greatest_cosines(seed, k):
    vectors = np.random.default_rng(seed).normal(size=(12, 6)).astype("f4")
    cosines = similarity.cosine(vectors)
    np.fill_diagonal(cosines, -2)
    near, values = large.neighbours(vectors, k)
    assert np.array_equal(near, np.argsort(-cosines, axis=1)[:, :k])
    assert np.allclose(values, np.sort(cosines, axis=1)[:, ::-1][:, :k], atol=1e-5)


def test_the_graph_of_neighbours_is_that_of_all_cosines():
    vectors = np.random.default_rng(0).normal(size=(12, 6)).astype("f4")
    names = list("abcdefghijkl")
    found = large.neighbour_graph(names, *large.neighbours(vectors, 3))
    expected = network.build(names, similarity.cosine(vectors), "knn", k=3)
    assert {frozenset(edge) for edge in found.edges} == {frozenset(edge) for edge in expected.edges}
    assert np.isclose(found.size("weight"), expected.size("weight"), rtol=1e-5)


def test_half_precision_files_of_both_kinds_are_read(tmp_path):
    given = torch.tensor([1.5, -0.25, 3e4])
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        save_torch_file({"x": given.to(kind)}, tmp_path / "d.safetensors")
        assert np.array_equal(tensors.read(tmp_path / "d.safetensors")["x"], given.to(kind).double().numpy())


def test_a_failed_collection_leaves_nothing_behind(tmp_path):
    folders = folders_of(tmp_path, 3)
    save_file({"weights/other": np.ones(3, "f4")}, folders["task2"] / "delta.safetensors")
    with pytest.raises(
        BadInput, match=r"delta 'task2' differs from the first in 0.0.a.down: none where \(3, 5\) is expected"
    ):
        large.collect(folders, tmp_path / "stack")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["delta0", "delta1", "delta2"]


def test_values_too_great_for_half_precision_are_refused(tmp_path):
    with pytest.raises(BadInput, match="too great for float16; take float32"):
        large.collect(folders_of(tmp_path, 2, scale=1e6), tmp_path / "stack", "float16")


def test_values_that_are_not_finite_are_refused(tmp_path):
    with pytest.raises(BadInput, match="delta 'task0' has 23 values that are not finite"):
        large.collect(folders_of(tmp_path, 2, scale=np.inf), tmp_path / "stack")


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    folders = folders_of(tmp_path, 2)
    path = folders["task1"] / "delta.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BadInput, match=r"delta\.safetensors is truncated or not a safetensors file"):
        large.collect(folders, tmp_path / "stack")


def test_whole_numbers_are_no_delta(tmp_path):
    save_file({"x": np.arange(3)}, tmp_path / "d.safetensors")
    with pytest.raises(BadInput, match=r"tensor .x. is of type I64; a delta's tensors are F64, F32, F16, BF16"):
        tensors.read(tmp_path / "d.safetensors")


def test_an_index_that_does_not_fit_its_matrix_is_refused(stack):
    index = json.loads((stack.folder / "index.json").read_text())
    (stack.folder / "index.json").write_text(json.dumps({**index, "parameters": 7}))
    with pytest.raises(BadInput, match=r"does not fit its matrix \(9, 23\) of float32"):
        large.opened(stack.folder)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda stack: large.collect({}, stack.folder), "exists already"),
        (lambda stack: large.collect({}, stack.folder / "new"), "at least 2 deltas; found 0"),
        (lambda stack: large.collect({}, stack.folder / "new", "float61"), "did you mean 'float16'"),
        (lambda stack: large.opened(stack.folder / "none"), "holds no stack of deltas"),
        (lambda stack: tensors.read(stack.folder), "there is no file"),
        (lambda stack: large.sketch(stack, 24), "a sketch of 23 parameters has a width from 1 to that; found 24"),
        (lambda stack: large.neighbours(np.eye(3, dtype="f4"), 3), "at most 2 neighbours each; k = 3"),
        (
            lambda stack: large.spectrum(np.eye(3, dtype="f4"), 3),
            "at most 2 singular values about their mean; 3 wanted",
        ),
        (lambda stack: large.cosines(np.zeros((2, 2), "f4")), "delta number 0 is all zeros"),
    ],
)
def test_a_stack_that_cannot_be_used_is_refused_with_a_sentence(stack, call, message):
    with pytest.raises(BadInput, match=message):
        call(stack)
