"""Several trained deltas made one: from Python and by `deltacompose merge`."""

import json
import sys

import picostudy
import pytest
import torch

import deltacompose as dc
from deltacompose import cli
from deltacompose.backbone.pico import pico_backbone
from deltacompose.delta.arithmetic import loss_on, weighted
from deltacompose.delta.delta import Delta
from deltacompose.delta.reuse import SCALE, merged
from deltacompose.errors import BadInput
from deltacompose.library.library import Library
from deltacompose.library.new_task import few_examples
from deltacompose.scoring import reader
from deltacompose.task.build import task_from_mapping

TEXT = "lora(rank=2)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A backbone on disk, a task with its rows, and a library of three deltas."""
    folder = tmp_path_factory.mktemp("merge")
    picostudy.make(folder, tasks=("mood",))
    (folder / "mood.yaml").write_text(json.dumps(picostudy.own("mood")))
    backbone = dc.load_backbone(str(folder / "bert"))
    library = Library.create(str(folder / "library"), delta_of(backbone, 0).backbone)
    for seed in range(3):
        library.add(delta_of(backbone, seed))
    return folder


@pytest.fixture(scope="module")
def backbone(folder):
    return dc.load_backbone(str(folder / "bert"))


@pytest.fixture
def typed(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["deltacompose", *map(str, words)])
        cli.main()
        return capsys.readouterr().out

    return run


def delta_of(backbone, seed, text=TEXT):
    expression = dc.parse(text)
    source = torch.Generator().manual_seed(seed)
    weights = {
        n: x + torch.randn(x.shape, generator=source) for n, x in dc.init_weights(backbone, expression, 0).items()
    }
    about = {"name": backbone.name, "family": backbone.family, "fingerprint": backbone.fingerprint}
    return Delta(expression, weights, {}, about, {}, {"task": f"task {seed}", "seed": 0})


def test_a_mean_and_task_arithmetic_are_what_their_formulas_say(backbone):
    deltas = [delta_of(backbone, seed) for seed in range(3)]
    start = dc.init_weights(backbone, dc.parse(TEXT), 0)
    mean, coefficients = merged("mean", deltas, backbone)
    summed, none = merged("task_arithmetic", deltas, backbone)
    assert coefficients == (1 / 3,) * 3
    assert none is None
    for name, first in start.items():
        own = torch.stack([delta.weights[name] for delta in deltas])
        assert torch.allclose(mean.weights[name], own.mean(0), atol=1e-6)
        assert torch.allclose(summed.weights[name], first + SCALE * (own - first).sum(0), atol=1e-5)
    assert mean.record["combined"] == ["task 0", "task 1", "task 2"]


def test_sign_election_keeps_what_deltas_agree_on(backbone):
    delta = delta_of(backbone, 1)
    alike, _ = merged("ties", [delta, delta], backbone)
    start = dc.init_weights(backbone, dc.parse(TEXT), 0)
    changed = kept = 0
    for name, x in delta.weights.items():
        same = torch.isclose(alike.weights[name], x)
        assert (same | torch.isclose(alike.weights[name], start[name])).all()
        kept, changed = kept + int(same.sum()), changed + x.numel()
    assert kept / changed == pytest.approx(0.2, abs=0.03)


def test_weights_that_few_examples_choose_are_no_worse_than_none(backbone, folder):
    deltas = [delta_of(backbone, seed) for seed in range(3)]
    task = few_examples(task_from_mapping("mood", picostudy.own("mood"), folder), 8, 0)
    read = reader(backbone, task)
    delta, coefficients = merged("few_shot", deltas, backbone, read, evaluations=12)
    loss = loss_on(read, deltas[0], range(8))
    none = loss(weighted([each.weights for each in deltas], [0.0] * 3))
    assert loss(delta.weights) + 0.05 * sum(map(abs, coefficients)) / 3 <= none + 1e-6


def test_the_command_merges_a_library_by_weights_found_on_few_examples(folder, typed, tmp_path):
    words = ["merge", tmp_path / "out", folder / "library", "--way", "few_shot", "--task", folder / "mood.yaml"]
    facts = json.loads(typed(*words, "--shots", 8, "--evaluations", 6, "--json"))
    assert len(facts["coefficients"]) == len(facts["deltas"]) == 3
    assert facts["way"] == "few_shot"
    deltas = [dc.load_delta(place).weights for place in facts["deltas"]]
    expected = weighted(deltas, facts["coefficients"])
    again = dc.load_delta(tmp_path / "out").weights
    assert all(torch.allclose(x, again[name], atol=1e-6) for name, x in expected.items())


def test_the_command_merges_to_a_url_deltas_that_are_named(folder, typed):
    places = [folder / "library" / "deltas" / name for name in Library(str(folder / "library")).names()[:2]]
    assert "2 deltas of lora(rank=2) merged by mean" in typed("merge", "memory://merged/mean", *places)
    assert dc.load_delta("memory://merged/mean").record["how"] == "mean"


# Misuse


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("sum", "no merging way 'sum'; merging ways: few_shot, mean, similarity, task_arithmetic, ties"),
        ("similarity", "needs a weight for each delta"),
        ("few_shot", "name the task"),
    ],
)
def test_a_way_that_lacks_what_it_needs_is_refused(way, message, backbone):
    with pytest.raises(BadInput, match=message):
        merged(way, [delta_of(backbone, 0), delta_of(backbone, 1)], backbone)


def test_deltas_of_two_compositions_or_backbones_are_not_merged(backbone):
    with pytest.raises(BadInput, match="take one kind"):
        merged("mean", [delta_of(backbone, 0), delta_of(backbone, 0, "bitfit")], backbone)
    with pytest.raises(BadInput, match="was trained on"):
        merged("mean", [delta_of(pico_backbone("bert", seed=5), 0)], backbone)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--way", "few_shot"], "name it with --task"),
        (["--way", "similarity"], "needs a weight for each delta"),
        (["--way", "few_shot", "--task", "sentiment_tweet", "--shots", "1"], "1 shots for task 'sentiment_tweet'"),
        (["--composition", "bitfit"], "no composition of the library 'bitfit'"),
    ],
)
def test_a_mistake_in_the_command_is_one_sentence(options, message, folder, monkeypatch, capsys, tmp_path):
    words = ["deltacompose", "merge", str(tmp_path / "out"), str(folder / "library"), *options]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
