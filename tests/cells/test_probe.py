"""Cells that analyses need from the model (probes, subspaces, swapped parts), and the commands that read them."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from picostudy import make
from safetensors.numpy import load_file
from typer.testing import CliRunner

import deltacompose as dc
from deltacompose import api
from deltacompose.analysis import subspace
from deltacompose.analysis.similarity import flatten, transferability
from deltacompose.analysis.similarity.stored_arrays import FILE, LABELS, stored_deltas
from deltacompose.analysis.subspace import autoencoder, learned
from deltacompose.analysis.subspace.autoencoder import Settings
from deltacompose.analysis.transfer.part_swaps import swap_effects, swap_matrices
from deltacompose.backbone.pico import pico_backbone
from deltacompose.cells import probe as probes
from deltacompose.cells.loaded import reader_as_planned
from deltacompose.cells.subspace import ReconstructionLosses, reconstructed
from deltacompose.cells.swap import swapped
from deltacompose.cells.task_data import TaskData
from deltacompose.cells.tune import with_other_rows
from deltacompose.cells.worker_sources import Sources
from deltacompose.cli import app
from deltacompose.delta import Delta
from deltacompose.errors import BadInput
from deltacompose.method.weights import generator
from deltacompose.scoring import reader
from deltacompose.store import open_store
from deltacompose.study import Rows, SubspaceChoice
from deltacompose.study.recipe import Recipe
from deltacompose.task import Task
from deltacompose.task.examples import Example
from deltacompose.training.learner import Job

FAMILIES = ("bert", "distilbert", "t5", "bart", "gpt2", "opt", "llama", "gpt-neox")
TEXTS = ("a fine day", "a very much longer day than that", "rain", "no", "again and again")


def choice(name="mood", words=("bad", "good")):
    rows = [Example(f"{name}-{k}", text, "ab"[k % 2]) for k, text in enumerate(TEXTS)]
    verbalizer = dict(zip("ab", words, strict=True))
    return Task(name, "kind", "choice", "accuracy", lambda split: tuple(rows), "{input}", verbalizer)


def generation():
    rows = [Example(str(k), text, text[:3]) for k, text in enumerate(TEXTS)]
    return Task("echo", "kind", "generation", "exact_match", lambda split: tuple(rows), "{input}")


def delta_of(backbone, text, seed=0):
    expression = api.parse(text)
    weights = dc.init_weights(backbone, expression, seed)
    moved = {name: x + 0.05 * torch.randn(x.shape, generator=generator(seed, name)) for name, x in weights.items()}
    return Delta(expression, moved)


# -- arrays of one delta -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_have_a_row_for_every_layer_and_are_due_to_the_delta(family):
    backbone = pico_backbone(family)
    layers = sum(backbone.layers(stream) for stream in backbone.streams)
    found = [probes.activations(backbone, delta_of(backbone, "prompt(length=3)", seed)) for seed in (0, 0, 1)]
    assert found[0].shape == (layers, 32)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_features_of_an_input_do_not_depend_on_the_inputs_beside_it(family):
    backbone = pico_backbone(family)
    read, delta = reader(backbone, choice(), 64), delta_of(backbone, "prompt(length=3) + lora(rank=2)")
    together = probes.features(read, delta, "val")
    assert together.shape == (len(TEXTS), 16)
    with delta.attached(backbone), torch.no_grad():
        alone = torch.cat([read.features([row]) for row in read.rows("val")])
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(together, probes.features(read, delta_of(backbone, "prompt(length=3)", 1), "val"))


@pytest.mark.parametrize("family", FAMILIES)
def test_probabilities_sum_to_one_and_their_greatest_is_the_prediction(family):
    backbone = pico_backbone(family)
    read, delta = reader(backbone, choice(), 64), delta_of(backbone, "bitfit")
    found = probes.probabilities(read, read, delta, "val")
    assert torch.allclose(found.sum(1), torch.ones(len(TEXTS)))
    with delta.attached(backbone):
        assert ["ab"[k] for k in found.argmax(1).tolist()] == read.predict("val")


def test_probabilities_are_those_of_the_sources_own_answers():
    backbone = pico_backbone("bert")
    target, source = reader(backbone, choice(), 64), reader(backbone, choice("tone", ("hot", "cold")), 64)
    own, other = (probes.probabilities(target, one, delta_of(backbone, "bitfit"), "val") for one in (target, source))
    assert not torch.allclose(own, other)


@pytest.mark.parametrize("family", ["bert", "t5", "gpt2"])
def test_the_mean_of_single_gradients_is_the_gradient_of_the_mean_loss(family):
    backbone = pico_backbone(family)
    expression = api.parse("prompt(length=2) + lora(rank=2)")
    read = reader(backbone, choice(), 64)
    found = probes.gradients(Job(expression, read, 0, Recipe()), 100)
    weights = {name: x.requires_grad_() for name, x in sorted(dc.init_weights(backbone, expression).items())}
    with dc.attached(backbone, expression, weights):
        losses = [read.loss(read.collate([row], read.lengths(row)), 1).sum() for row in read.rows("train")]
        grads = torch.autograd.grad(torch.stack(losses).mean(), list(weights.values()), materialize_grads=True)
    assert torch.allclose(found, torch.cat([x.flatten() for x in grads]), atol=1e-5)


def test_the_fisher_diagonal_of_one_example_is_the_square_of_one_of_its_two_score_gradients():
    backbone = pico_backbone("bert")
    task = replace(choice(), read=lambda split: choice().read(split)[:1])
    read, delta = reader(backbone, task, 64), delta_of(backbone, "prompt(length=2)")
    [(name, weight)] = delta.weights.items()
    leaf = weight.clone().requires_grad_()
    with dc.attached(backbone, delta.expression, {name: leaf}, {}):
        log_p = torch.log_softmax(read.scores(read.rows("train"))[0], -1)
        squares = [torch.autograd.grad(one, leaf, retain_graph=True)[0].flatten().square() for one in log_p]
    for seed in range(6):
        found = probes.fisher(read, delta, seed, 1)
        assert any(torch.allclose(found, square, rtol=1e-3, atol=1e-9) for square in squares)


def test_the_fisher_diagonal_of_several_examples_is_the_mean_of_the_squares_of_their_gradients():
    """One of two answers is drawn for each of three examples: eight means are possible, and no square of a mean is."""
    backbone = pico_backbone("bert")
    task = replace(choice(), read=lambda split: choice().read(split)[:3])
    read, delta = reader(backbone, task, 64), delta_of(backbone, "prompt(length=2)")
    [(name, weight)] = delta.weights.items()
    leaf = weight.clone().requires_grad_()
    with dc.attached(backbone, delta.expression, {name: leaf}, {}):
        each = [torch.log_softmax(read.scores([row])[0], -1) for row in read.rows("train")]
        gradients = [[torch.autograd.grad(y, leaf, retain_graph=True)[0].flatten() for y in one] for one in each]
    drawn = [torch.stack(answers) for answers in itertools.product(*gradients)]
    for seed in range(4):
        found = probes.fisher(read, delta, seed, 3)
        same = lambda other, found=found: torch.allclose(found, other, rtol=1e-3, atol=1e-9)
        assert any(same(answers.square().mean(0)) for answers in drawn)
        assert not any(same(answers.mean(0).square()) or same(answers.sum(0).square()) for answers in drawn)


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_the_fisher_diagonal_of_a_generation_task_is_positive_and_the_same_for_the_same_seed(family):
    backbone = pico_backbone(family)
    read, delta = reader(backbone, generation(), 64), delta_of(backbone, "lora(rank=2)")
    one, again = (probes.fisher(read, delta, 3, 4) for _ in range(2))
    assert torch.equal(one, again)
    assert (one >= 0).all()
    assert one.any()


def test_probing_leaves_nothing_behind():
    backbone = pico_backbone("bert")
    read, delta = reader(backbone, choice(), 64), delta_of(backbone, "bitfit")
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in backbone.model.modules()]
    probes.activations(backbone, delta)
    probes.fisher(read, delta, 0, 2)
    probes.gradients(Job(delta.expression, read, 0, Recipe()), 2)
    assert [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in backbone.model.modules()] == hooks
    assert not any(x.requires_grad for x in backbone.model.parameters())


def test_a_generation_task_has_no_labels_whose_probability_could_be_asked():
    backbone = pico_backbone("t5")
    read = reader(backbone, generation(), 64)
    with pytest.raises(BadInput, match="'echo' is a generation task and has no labels of its own"):
        probes.probabilities(read, read, delta_of(backbone, "bitfit"), "val")


# -- what is made of trained deltas ------------------------------------------------------------------------------------


def test_a_subspace_of_all_dimensions_gives_every_delta_back():
    backbone = pico_backbone("bert")
    deltas = [delta_of(backbone, "prompt(length=2) + bitfit", seed) for seed in range(4)]
    stacked = np.stack([flatten({n: x.numpy() for n, x in one.weights.items()}) for one in deltas])
    space = learned.learn(stacked, "pca", Settings(3, 1))
    for delta in deltas:
        again = reconstructed(delta, space)
        assert all(torch.allclose(again.weights[n], x, atol=1e-5) for n, x in delta.weights.items())


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_the_tasks_losses_reach_every_weight_of_the_autoencoder_with_the_gradient_of_autograd(family):
    """The network is written again in torch, and one graph goes from its weights through the backbone to the losses."""
    backbone = pico_backbone(family)
    readers = {"mood": reader(backbone, choice(), 64), "tone": reader(backbone, choice("tone", ("hot", "cold")), 64)}
    deltas = {task: delta_of(backbone, "prompt(length=2) + bitfit", k) for k, task in enumerate(readers)}
    stacked = np.stack([flatten({n: x.numpy() for n, x in one.weights.items()}) for one in deltas.values()])
    stacked = stacked.astype(np.float64)
    network, _ = autoencoder.learn(stacked, Settings(1, 3, steps=1), 0)
    inputs = SimpleNamespace(reader=readers.get, backbone=backbone)
    scale = 0.5
    with ReconstructionLosses(inputs, deltas, len(TEXTS), 0) as losses:
        task_loss = autoencoder._in_units(losses, scale)
        loss, gradients = autoencoder.loss_and_gradients(network, stacked / scale, 0.7, task_loss)
    leaves = [torch.tensor(weight, requires_grad=True) for weight in autoencoder._weights(network)]
    encoder, encoder_bias, hidden, hidden_bias, output, output_bias = leaves
    given = torch.tensor(stacked / scale)
    decoded = torch.tanh((given @ encoder.T + encoder_bias) @ hidden.T + hidden_bias) @ output.T + output_bias
    expected = 0.7 * (decoded - given).square().mean()
    for flat, (task, delta) in zip(decoded * scale, deltas.items(), strict=True):
        names = sorted(delta.weights)
        parts = flat.float().split([delta.weights[name].numel() for name in names])
        weights = {name: part.view_as(delta.weights[name]) for name, part in zip(names, parts, strict=True)}
        read, rows = readers[task], readers[task].rows("train")
        lengths = tuple(map(max, zip(*map(read.lengths, rows), strict=True)))
        with dc.attached(backbone, delta.expression, weights):
            expected = expected + read.loss(read.collate(rows, lengths), 1).sum()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for found, true in zip(gradients, torch.autograd.grad(expected, leaves), strict=True):
        assert np.abs(true).max() > 0
        assert np.abs(found - true.numpy()).max() <= 1e-4 * np.abs(true.numpy()).max()


def test_the_tasks_losses_read_another_batch_at_every_step():
    backbone = pico_backbone("bert")
    readers, deltas = {"mood": reader(backbone, choice(), 64)}, {"mood": delta_of(backbone, "bitfit")}
    inputs = SimpleNamespace(reader=readers.get, backbone=backbone)
    flat = flatten({n: x.numpy() for n, x in deltas["mood"].weights.items()})[None].astype(np.float64)
    with ReconstructionLosses(inputs, deltas, 1, 0) as losses:
        assert len({losses(flat)[0] for _ in range(6)}) > 1


@pytest.mark.parametrize("way", ["pca", "autoencoder"])
def test_a_learned_subspace_is_the_same_from_its_file(tmp_path, way):
    deltas = np.random.default_rng(0).normal(size=(5, 12))
    space = learned.learn(deltas, way, Settings(2, 3, steps=50))
    (tmp_path / "space.safetensors").write_bytes(space.content())
    again = learned.read(tmp_path / "space.safetensors")
    assert np.allclose(again.reconstructed(deltas), space.reconstructed(deltas), atol=1e-5)
    assert again.sha256() == space.sha256()
    if way == "pca":
        assert np.allclose(space.kept(deltas, deltas.mean(0)), subspace.learn(deltas, 2).share(deltas))


def test_swapping_a_part_changes_that_part_alone():
    backbone = pico_backbone("bert")
    one, other = (delta_of(backbone, "prompt(length=2) + bitfit >> lora(rank=2)", seed) for seed in (0, 1))
    mixed = swapped(one, other, "0.1.")
    for name, tensor in mixed.weights.items():
        assert torch.equal(tensor, (other if name.startswith("0.1.") else one).weights[name])
    assert mixed.weights.keys() == one.weights.keys()


def test_new_data_shares_no_example_with_the_data_in_use():
    rows = tuple(Example(str(k), f"text {k}", "ab"[k % 2]) for k in range(10))
    whole = replace(choice(), read=lambda split: rows)
    used = whole.limited(train=4)
    other = with_other_rows(whole, used)
    ids = [{one.id for one in task.examples("train")} for task in (used, other)]
    assert len(ids[1]) == 4
    assert not ids[0] & ids[1]
    assert other.examples("test") == rows
    with pytest.raises(BadInput, match="no training examples other than the 10 in use"):
        with_other_rows(whole, whole)


def test_what_does_not_fit_is_refused(tmp_path):
    backbone = pico_backbone("bert")
    one, other = delta_of(backbone, "bitfit"), delta_of(backbone, "bitfit + prompt(length=2)")
    with pytest.raises(BadInput, match="cannot stand in bitfit"):
        swapped(one, other, "0.0.")
    with pytest.raises(BadInput, match=r"bitfit has no part '0\.1\.'; parts: 0\.0\."):
        swapped(one, one, "0.1.")
    dc.Delta(one.expression, one.weights).save(tmp_path)
    with pytest.raises(BadInput, match="which is not a learned subspace"):
        learned.read(tmp_path / "delta.safetensors")


# -- a study with all of them ------------------------------------------------------------------------------------------


MEASURES = ("neuron_overlap", "gradient_cosine", "task2vec", "logme", "leep", "nce", "prediction_agreement")
STACK = "prompt(length=2) + lora(rank=2)"


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory):
    """A study of four tasks with every kind of cell, and its store."""
    folder = tmp_path_factory.mktemp("study")
    study = replace(
        make(folder, tasks=("mood", "tone", "hue", "wit")),
        compositions=("prompt(length=2)", STACK),
        seeds=(0,),
        rows=Rows(train=20),
        measures=MEASURES,
        subspace=SubspaceChoice("prompt(length=2)", 1, "autoencoder", ("mood", "tone", "hue"), hidden=4, steps=3),
        swap=True,
    )
    study.write(folder / "study.yaml")
    return study, folder, dc.run(study, folder / "store")


def command(folder, name, *options):
    found = CliRunner().invoke(app, [name, str(folder / "store"), *map(str, options), "--json"])
    if found.exception:
        raise found.exception
    return json.loads(found.stdout)


def test_every_cell_is_planned_once_and_carried_out(carried_out):
    study, folder, outcome = carried_out
    assert not outcome.failed
    kinds = Counter(outcome.plan.nodes[key]["cell"].kind for key in outcome.done)
    assert (kinds["swap"], kinds["subspace"], kinds["reconstruct"], kinds["tune"]) == (2 * 12, 1, 4, 4 + 3)
    assert kinds["probe"] == 2 * (3 * 4 + 3 * 16)
    assert not dc.run(study, folder / "store").done


def test_a_study_that_asks_for_nothing_further_has_the_same_cells_as_before(carried_out):
    study, _, outcome = carried_out
    plain = dc.plan(replace(study, measures=(), subspace=None, swap=False))
    kinds = ("train", "evaluate")
    assert set(plain) == {key for key, cell in outcome.plan.nodes(data="cell") if cell.kind in kinds}


def test_similarity_has_every_measure_for_which_the_study_collected_what_it_needs(carried_out):
    _, folder, _ = carried_out
    found = command(folder, "similarity", "--composition", STACK)
    assert set(MEASURES) <= set(found["measures"])
    for name in MEASURES:
        one = found["measures"][name]
        low, high = (end if end is not None else np.inf * sign for end, sign in zip(one["range"], (-1, 1), strict=True))
        assert low - 1e-6 <= np.min(one["matrix"]) <= np.max(one["matrix"]) <= high + 1e-6
    assert {"delta_cosine", "prompt_cosine"} & set(found["measures"]) == {"prompt_cosine"}
    [window] = found["measures"]["neuron_overlap"]["windows"]  # of a backbone of few layers
    assert np.allclose(window["matrix"], found["measures"]["neuron_overlap"]["matrix"])


def test_similarity_says_how_a_study_comes_by_what_is_lacking(carried_out, tmp_path):
    study, _, _ = carried_out
    dc.run(replace(study, measures=(), subspace=None, swap=False, tasks=("mood", "tone")), tmp_path / "store")
    lacking = command(tmp_path, "similarity", "--composition", STACK)["lacking"]
    assert "a study collects them for the measures that it names under `measures`" in lacking["task2vec"]
    assert set(MEASURES) <= set(lacking)


def test_arrays_of_a_store_are_those_that_the_model_gives(carried_out):
    study, folder, _ = carried_out
    store = open_store(folder / "store")
    deltas = stored_deltas(api.records(store), store.folder)[STACK]
    backbone = api.load_backbone(study.backbone.model)
    loaded = api.load_delta(store.folder(deltas.trained["mood", 0]))
    assert np.array_equal(deltas.read("activations", 0)["mood"], probes.activations(backbone, loaded).numpy())
    answers = deltas.read("predictions", 0)["tone"]
    assert set(answers.labels) == {"good", "bad"}
    assert len(answers.by_source) == 4


def test_what_a_source_gives_a_target_stands_in_the_row_of_the_source_and_the_column_of_the_target(carried_out):
    study, folder, _ = carried_out
    store = open_store(folder / "store")
    found = command(folder, "similarity", "--composition", STACK, "--measure", "logme")["measures"]["logme"]
    matrix, tasks = np.array(found["matrix"]), found["tasks"]
    cells = [
        r for r in store.records("probe") if r["spec"]["array"] == "features" and r["spec"]["composition"] == STACK
    ]
    assert len(cells) == len(tasks) ** 2
    for one in cells:
        s, t = tasks.index(one["spec"]["source"]), tasks.index(one["spec"]["target"])
        files = store.folder(one["key"])
        labels = np.array(json.loads((files / LABELS).read_text()))
        expected = transferability.log_maximum_evidence(load_file(files / FILE)["features"], labels)
        assert matrix[s, t] == pytest.approx(expected, rel=1e-9)
    assert not np.allclose(matrix, matrix.T, atol=1e-6)
    backbone, deltas = (
        api.load_backbone(study.backbone.model),
        stored_deltas(api.records(store), store.folder)[STACK],
    )
    [spec] = [one["spec"] for one in cells if (one["spec"]["source"], one["spec"]["target"]) == ("hue", "tone")]
    read = reader_as_planned(backbone, TaskData.of(spec), spec["target"], Sources.of(study).own_tasks)
    own = api.load_delta(store.folder(deltas.trained["hue", 0]))
    stored = deltas.read("features", 0)
    kept = stored["tone"].by_source[list(stored).index("hue")]
    assert np.allclose(kept, probes.features(read, own, spec["split"]), atol=1e-5)


def test_subspace_reads_the_six_readouts(carried_out):
    _, folder, _ = carried_out
    found = command(folder, "subspace", "--composition", "prompt(length=2)")
    [one] = found["readouts"]
    assert (one["way"], one["seen"]) == ("autoencoder", ["mood", "tone", "hue"])
    tasks = {name: sorted(of["tasks"]) if of else None for name, of in one["readouts"].items()}
    assert tasks == {
        "reconstruction_seen": ["hue", "mood", "tone"],
        "reconstruction_unseen": ["wit"],
        "tuning_same_data": ["hue", "mood", "tone"],
        "tuning_new_data": ["hue", "mood", "tone"],
        "tuning_unseen_in_category": ["wit"],
        "tuning_unseen_out_of_category": None,
    }


def test_a_prompt_tuned_in_the_subspace_has_as_many_parameters_as_that_has_dimensions(carried_out):
    _, folder, _ = carried_out
    tuned = [record for record in dc.records(folder / "store") if record["kind"] == "tune"]
    assert {record["result"]["parameters"] for record in tuned} == {1}
    assert all(record["result"]["history"][-1]["step"] == 4 for record in tuned)


@pytest.mark.parametrize("width", [[], ["--sketch", 1000]])
def test_every_delta_can_be_compared_with_every_other(carried_out, tmp_path, width):
    _, folder, _ = carried_out
    found = command(folder, "similarity", "--all", "--composition", STACK, "--k", 2, *width, "--out", tmp_path)
    assert found["deltas"] == 4
    exact = command(folder, "similarity", "--composition", STACK, "--measure", "weight_cosine")
    table = exact["measures"]["weight_cosine"]
    for name, near in found["neighbours"].items():
        own = [table["tasks"].index(one.partition(",")[0]) for one in (name, *near)]
        assert len(near) == 2
        assert list(near.values()) == pytest.approx([table["matrix"][own[0]][k] for k in own[1:]], abs=0.02)
    assert (tmp_path / "neighbours.graphml").is_file()
    with pytest.raises(BadInput, match=r"k = 4 is not a valid number of neighbours \(expected 1 to 3 for 4 deltas\)"):
        command(folder, "similarity", "--all", "--composition", STACK, "--k", 4)


def test_intrinsic_dimensions_are_read_where_there_are_too_few_tasks_for_a_common_subspace(tmp_path):
    study = replace(make(tmp_path, tasks=("mood",)), compositions=("full", "intrinsic(d=2)"), transfer=False)
    dc.run(study, tmp_path / "store")
    found = command(tmp_path, "subspace")
    assert "needs at least 4 tasks" in found["error"]
    [one] = found["intrinsic_dimension"]
    assert one["tasks"]["mood"]["seeds"] == [0, 1]
    assert one["projection"] == "sketch"


def test_transfer_says_what_each_part_of_the_stack_brings(carried_out):
    _, folder, _ = carried_out
    found = command(folder, "transfer", "--composition", STACK, "--permutations", 9)
    assert [(one["part"], one["method"]) for one in found["swaps"]] == [
        ("0.0.", "prompt(length=2)"),
        ("0.1.", "lora(rank=2)"),
    ]
    assert found["initialisation"] is None


def test_transfer_says_the_score_and_the_steps_that_a_start_from_another_task_saved(tmp_path):
    recipe = Recipe(steps=12, batch=8, evaluate_every=3, limit=32, learning_rates={"full": 3e-3})
    changes = {"compositions": ("full",), "seeds": (0, 1), "start_from": ("mood",), "training": recipe}
    dc.run(make(tmp_path, **changes), tmp_path / "store")
    records = list(open_store(tmp_path / "store").records())
    runs = {
        (r["spec"]["seed"], r["spec"]["task"], bool(r["spec"]["start"])): r for r in records if r["kind"] == "train"
    }
    read = {
        (r["spec"]["seed"], bool(r["spec"].get("start"))): r["result"]["score"]
        for r in records
        if r["kind"] == "evaluate" and (r["spec"]["source"], r["spec"]["target"]) == ("tone", "tone")
    }
    lift, on_test, steps, saved = [], [], [], []
    for seed in (0, 1):
        own, started = runs[seed, "tone", False]["result"], runs[seed, "tone", True]["result"]
        best = max(row["score"] for row in own["history"])
        assert best == own["dev"]
        first = [min((r["step"] for r in one["history"] if r["score"] >= best), default=None) for one in (own, started)]
        lift.append(started["dev"] - best)
        on_test.append(read[seed, True] - read[seed, False])
        steps.append(first[1])
        saved.append(None if first[1] is None or not first[0] else 1 - first[1] / first[0])
    known = [share for share in saved if share is not None]
    assert any(lift)
    assert any(known)
    found = command(tmp_path, "transfer", "--permutations", 9)["initialisation"]
    assert (found["sources"], found["targets"], found["seeds"], found["failed"]) == (["mood"], ["tone"], [0, 1], 0)
    for name, values in (("lift", lift), ("lift_on_test", on_test), ("steps", steps), ("saved", saved)):
        assert found[name] == [[[None if x is None else pytest.approx(x)]] for x in values]
        assert found[f"mean_{name}"] == pytest.approx(np.mean([x for x in values if x is not None]))
    assert found["reached"] == np.mean([step is not None for step in steps])
    said = CliRunner().invoke(app, ["transfer", str(tmp_path / "store"), "--permutations", "9"]).output
    assert (
        f"initialised from mood: lift {np.mean(lift):.3f} on development data, own score reached by "
        f"{found['reached']:.0%}, steps saved {np.mean(known):.3f}"
    ) in " ".join(said.split())


def test_the_diagonal_of_a_swap_is_the_own_delta_and_its_effect_is_zero_where_nothing_was_swapped(carried_out):
    _, folder, _ = carried_out
    records = api.records(folder / "store")
    matrix = dc.transfer_matrix(folder / "store", STACK)
    swaps = swap_matrices(records, STACK, api.categories_of(records))
    for one in swaps.values():
        assert np.array_equal(one.own, matrix.selected(one.sources, one.targets).own)
    same = {("0.0.", STACK): replace(matrix, chance=matrix.chance - 0.4)}
    [effect] = swap_effects(same, {STACK: replace(matrix, chance=matrix.chance - 0.4)}, STACK)
    assert effect["minus_stack"]["value"] == 0
    assert effect["minus_alone"]["value"] == 0


def test_wrong_measures_and_subspaces_of_a_study_are_named(carried_out, tmp_path):
    study, _, _ = carried_out
    for changes, said in (
        ({"measures": ("task3vec",)}, "no measure 'task3vec'; did you mean 'task2vec'"),
        ({"subspace": SubspaceChoice("bitfit", 1)}, "no composition of the study for its subspace 'bitfit'"),
        ({"subspace": SubspaceChoice(STACK, 1, seen=("moon",))}, "no task of the study for its subspace 'moon'"),
    ):
        with pytest.raises(BadInput, match=said):
            dc.plan(replace(study, **changes))
    (tmp_path / "a.yaml").write_text("name: a\ntasks: [x]\ncompositions: [lora]\nsubspace: {composition: lora}\n")
    with pytest.raises(BadInput, match=r"subspace.dimensions is missing"):
        dc.Study.read(tmp_path / "a.yaml")
