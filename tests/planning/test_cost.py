"""What a plan says that it will cost, against what torch counts, what is kept, and what stored cells have taken."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import networkx as nx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from torch.utils.flop_counter import FlopCounterMode

from deltacompose import api
from deltacompose.api import cost_of
from deltacompose.backbone.pico import pico_backbone
from deltacompose.cells.shapes import delta_shape, lengths_of, shape_of
from deltacompose.cells.study_facts import facts, sample
from deltacompose.planning import flops
from deltacompose.planning.cost import CALIBRATED, CORRECTED, STORED, cost
from deltacompose.planning.flops import DeltaShape, Lengths, Memory
from deltacompose.scoring import reader
from deltacompose.store import open_store
from deltacompose.study import BackboneChoice, Cell, Study
from deltacompose.study.config import Rows, SubspaceChoice
from deltacompose.study.new_tasks import ReuseChoice
from deltacompose.study.recipe import Recipe
from deltacompose.task import Task
from deltacompose.task.examples import Example
from deltacompose.training import train
from deltacompose.training.learner import Job

ROWS = tuple(Example(str(i), f"some words {i} " * (1 + i % 4), ("a", "b")[i % 2]) for i in range(32))
TEXTS = tuple(Example(one.id, one.input, f"the answer {one.id}") for one in ROWS)
CHOICE = Task("choice", "mood", "choice", "accuracy", lambda split: ROWS, verbalizer={"a": "bright", "b": "grim or so"})
GENERATION = Task("generation", "mood", "generation", "exact_match", lambda split: TEXTS)
FAMILIES = ("bert", "distilbert", "t5", "t5-gated", "bart", "gpt2", "llama", "gpt-neox", "opt")


def tasks_of(family):
    return (CHOICE,) if pico_backbone(family).kind == "encoder" else (CHOICE, GENERATION)


def bound(family, head=None):
    backbone = pico_backbone(family, head=head)
    backbone.model.set_attn_implementation("eager")  # torch's counter knows no fused attention on a CPU
    return backbone


def one_batch(read):
    """The first sixteen rows as one batch, and their lengths when all are padded to the longest."""
    rows = read.rows("train")[:16]
    needed = [read.lengths(row) for row in rows]
    longest = (max(a for a, _ in needed), max(b for _, b in needed))
    known = vars(lengths_of(read, 16)) | {"padded": float(longest[0]), "input": float(longest[0])}
    known["answer"] = float(max(len(row.answer) for row in rows))
    return rows, read.batch("train", range(16), longest), Lengths(**known)


CASES = [(family, task) for family in FAMILIES for task in tasks_of(family)]


@pytest.mark.parametrize(("family", "task"), CASES, ids=lambda one: getattr(one, "name", one))
def test_operations_are_those_that_torch_counts(family, task):
    read = reader(bound(family), task)
    rows, batch, lengths = one_batch(read)
    shape = shape_of(read.backbone)
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        read.loss(batch, 1)
    learnt = flops.training(shape, lengths, DeltaShape(), 16) / 2
    assert 0.85 < counted.get_total_flops() / learnt < 1.1
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        read.scores(rows) if task is CHOICE else read.generate(rows, int(lengths.longest))
    asked = flops.evaluation(shape, lengths, DeltaShape(), 16, 16)
    assert 0.8 < counted.get_total_flops() / asked < 1.1


@pytest.mark.parametrize("family", ["bert", "t5", "llama"])
def test_soft_prompts_are_counted_as_tokens_that_pass_the_layers(family):
    read = reader(bound(family), CHOICE)
    _, batch, lengths = one_batch(read)
    expression = api.parse("prompt(length=20)")
    delta = delta_shape(read.backbone, expression)
    assert 20 in delta.prompts.values()
    weights = api.init_weights(read.backbone, expression)
    counted = FlopCounterMode(display=False)
    with api.attached(read.backbone, expression, weights), torch.no_grad(), counted:
        read.loss(batch, 1)
    assert 0.85 < 2 * counted.get_total_flops() / flops.training(shape_of(read.backbone), lengths, delta, 16) < 1.1


def test_a_method_that_changes_whole_matrices_pays_for_their_gradients():
    backbone = pico_backbone("bert")
    assert delta_shape(backbone, api.parse("lora")).dense == 0
    assert delta_shape(backbone, api.parse("bitfit")).dense == 0
    whole = delta_shape(backbone, api.parse("full"))
    assert whole.dense > 2 * 16 * 64
    shape, lengths = shape_of(backbone), Lengths(20, 32, 2, 2, 2)
    assert flops.training(shape, lengths, whole, 4) > flops.training(shape, lengths, DeltaShape(), 4)


def test_trained_parameters_are_those_of_the_last_stage():
    backbone = pico_backbone("bert")
    alone, after = (delta_shape(backbone, api.parse(text)) for text in ("bitfit", "lora >> bitfit"))
    assert alone.trained == after.trained == sum(x.numel() for x in api.init_weights(backbone, "bitfit").values())


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_are_no_more_than_estimated_and_not_far_less(family):
    backbone = pico_backbone(family)
    read = reader(backbone, tasks_of(family)[-1])
    _, batch, lengths = one_batch(read)
    own = {x.untyped_storage().data_ptr() for x in backbone.model.parameters()}
    kept, alive = {}, []

    def keep(x):
        if x.untyped_storage().data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            alive.append(x)  # or its address would be given out again
        return x

    leaf = torch.zeros((), requires_grad=True)
    embedding = backbone.module(backbone.stream(backbone.streams[0]).embedding)
    handle = embedding.register_forward_hook(lambda module, args, output: output + leaf)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        read.loss(batch, 1)
    handle.remove()
    estimate = flops.memory(shape_of(backbone), lengths, DeltaShape(), 16, Memory(0.0, 4.0))
    assert 0.3 < sum(kept.values()) / estimate < 1.1


lengths = st.builds(
    Lengths,
    input=st.floats(1, 200),
    padded=st.floats(1, 200),
    answer=st.floats(1, 9),
    candidates=st.sampled_from([0.0, 2.0, 9.0]),
    candidate=st.floats(1, 5),
    longest=st.floats(1, 9),
)
SHAPES = {kind: shape_of(pico_backbone(kind)) for kind in ("bert", "llama", "t5")}


@given(lengths, st.sampled_from(sorted(SHAPES)), st.integers(1, 32))
def test_more_of_anything_costs_more(one, family, batch):
    shape = SHAPES[family]
    more = Lengths(**(vars(one) | {"input": one.input + 1, "padded": one.padded + 1}))
    delta = DeltaShape(100, {next(iter(shape.stacks)): 5})
    assert flops.training(shape, more, DeltaShape(), batch) > flops.training(shape, one, DeltaShape(), batch)
    assert flops.training(shape, one, delta, batch) > flops.training(shape, one, DeltaShape(), batch)
    assert flops.training(shape, one, DeltaShape(), batch, True) > flops.training(shape, one, DeltaShape(), batch)
    assert flops.evaluation(shape, more, DeltaShape(), batch) > flops.evaluation(shape, one, DeltaShape(), batch)
    for how in (Memory(4.0, 2.0), Memory(2.0, 4.0)):
        assert flops.memory(shape, one, delta, batch, Memory(4.0, 4.0)) > flops.memory(shape, one, delta, batch, how)
    banked, alone = (flops.memory(shape, one, delta, batch, Memory(bank=bank)) for bank in (4, 1))
    assert banked > alone


# What a plan makes of it


def training(seed, amount):
    return Cell("train", {"seed": seed}, cost=amount)


def planned(*cells):
    plan = nx.DiGraph()
    plan.add_nodes_from((cell.key, {"cell": cell}) for cell in cells)
    plan.add_edges_from((parent, cell.key) for cell in cells for parent in cell.parents)
    return plan


def no_speed():
    raise AssertionError("a speed was asked for, and stored cells have shown it")


def test_seconds_come_from_the_stored_cells_of_a_kind(tmp_path):
    cells = [training(seed, 100.0 * (seed + 1)) for seed in range(3)]
    store = open_store(tmp_path)
    store.add(cells[0], {}, seconds=5.0)
    found = cost(planned(*cells), store, no_speed)
    assert found.total("seconds") == pytest.approx((200 + 300) / 20)
    assert [(row["cells"], row["stored"], row["to_run"], row["basis"]) for row in found.kinds] == [(3, 1, 2, STORED)]


def test_without_stored_cells_seconds_come_from_the_calibration():
    first = training(0, 100.0)
    second = Cell("evaluate", {}, (first.key,), cost=30.0)
    found = cost(planned(first, second), None, lambda: {"train": 10.0, "evaluate": 30.0})
    assert (found.seconds, found.total("seconds"), found.kinds[0]["basis"]) == (11.0, 11.0, CALIBRATED)


def test_stored_cells_of_one_kind_correct_the_calibrated_speed_of_the_others(tmp_path):
    stored, other = training(0, 100.0), training(1, 100.0)
    asked = Cell("evaluate", {}, (other.key,), cost=30.0)
    store = open_store(tmp_path)
    store.add(stored, {}, seconds=20.0)  # 5 a second, where the calibration says 10
    estimate = cost(planned(stored, other, asked), store, lambda: {"train": 10.0, "evaluate": 30.0})
    rows = {row["kind"]: (row["seconds"], row["basis"]) for row in estimate.kinds}
    assert rows == {"train": (20.0, STORED), "evaluate": (2.0, CORRECTED)}


def test_workers_share_the_work_but_not_a_chain_of_cells():
    first, other = training(0, 100.0), training(1, 60.0)
    second = Cell("train", {"seed": 0, "stage": 1}, (first.key,), cost=100.0)
    speeds = {"train": 10.0}
    found = {n: cost(planned(first, second, other), None, lambda: speeds, n).seconds for n in (1, 2, 8)}
    assert found == {1: 26.0, 2: 20.0, 8: 20.0}


def test_what_is_stored_costs_nothing(tmp_path):
    cell, store = training(0, 100.0), open_store(tmp_path)
    store.add(cell, {}, seconds=5.0)
    assert cost(planned(cell), store, no_speed).seconds == 0.0


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Two tasks of very different lengths on a pico BERT."""
    from deltacompose.backbone.pico import pico, pico_tokenizer

    folder = tmp_path_factory.mktemp("cost")
    pico("bert").save_pretrained(folder / "bert")
    pico_tokenizer("bert").save_pretrained(folder / "bert")
    own = {}
    for name, words in (("short", 1), ("long", 12)):
        rows = [
            {"split": split, "input": f"{split} {k} " + "word " * words, "target": ("no", "yes")[k % 2]}
            for split, count in (("train", 40), ("val", 10), ("test", 20))
            for k in range(count)
        ]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        own[name] = {
            "path": f"{name}.jsonl",
            "data": {"split": "split"},
            "columns": {"input": "input", "target": "target"},
            "category": "c",
            "metric": "accuracy",
            "verbalizer": {"no": "no", "yes": "yes"},
        }
    return Study(
        name="cost",
        tasks=("short", "long"),
        compositions=("bitfit", "prompt(length=30)"),
        backbone=BackboneChoice(model=str(folder / "bert")),
        training=Recipe(steps=6, batch=8, evaluate_every=3, limit=128),
        own_tasks=own,
        folder=str(folder),
    )


def test_a_study_costs_what_its_tasks_steps_and_prompts_ask_for(study):
    from deltacompose import api

    cells = [cell for _, cell in api.plan(study).nodes(data="cell")]
    costs = {(c.spec["composition"], c.spec["task"]): c.cost for c in cells if c.kind == "train"}
    assert costs["bitfit", "short"] < costs["bitfit", "long"] < costs["prompt(length=30)", "long"]
    twice = Study(**(vars(study) | {"training": Recipe(steps=12, batch=8, evaluate_every=6, limit=128)}))
    doubled = {
        (c.spec["composition"], c.spec["task"]): c.cost
        for _, c in api.plan(twice).nodes(data="cell")
        if c.kind == "train"
    }
    assert all(1.5 * costs[name] < doubled[name] < 2 * costs[name] for name in costs)


def test_the_costs_of_a_study_need_nothing_stored(study, tmp_path):
    found = cost_of(study, None, workers=2)
    assert {row["basis"] for row in found.kinds} == {CALIBRATED}
    assert found.seconds > 0
    assert found.memory > 4 * facts(study).shape.total


def test_costs_rank_trainings_as_their_seconds_do(study):
    """Compares orders, of seconds of this process's own work, which other processes do not lengthen much."""
    backbone = api.load_backbone(study.backbone.model, device="cpu")
    long = reader(backbone, sample(study, "long").task, study.training.limit)
    shape, known = shape_of(long.backbone), lengths_of(long, 8)
    costs, seconds = [], []
    for steps in (2, 8, 32, 128):
        recipe = Recipe(steps=steps, batch=8, evaluate_every=steps, limit=128)
        costs.append(steps * flops.training(shape, known, DeltaShape(), 8))
        started = time.process_time()
        train(long.backbone, [Job(api.parse("bitfit"), long, 0, recipe)])
        seconds.append(time.process_time() - started)
    assert spearmanr(costs, seconds).statistic > 0.7


def costs_of(study, kind, **changes):
    """The costs of a study's cells of a kind, by the array of probes, else by source."""
    cells = [cell for _, cell in api.plan(replace(study, **changes)).nodes(data="cell") if cell.kind == kind]
    return {cell.spec.get("array", cell.spec.get("source")): cell.cost for cell in cells}


def with_subspace(study, way):
    chosen = SubspaceChoice("prompt(length=30)", dimensions=2, way=way, steps=50)
    return replace(study, compositions=("prompt(length=30)",), subspace=chosen)


def test_principal_components_run_no_pass_and_an_autoencoder_a_batch_of_each_task_per_step(study):
    [components] = costs_of(with_subspace(study, "pca"), "subspace").values()
    [learned] = costs_of(with_subspace(study, "autoencoder"), "subspace").values()
    known = facts(study)
    delta = known.deltas["prompt(length=30)"]
    passes = 50 * sum(flops.training(known.shape, task.lengths, delta, 8) for task in known.tasks.values())
    assert 0 < components < min(costs_of(study, "evaluate").values()) / 100
    assert passes < learned < 3 * passes


@pytest.mark.parametrize("kind", ["subspace", "probe"])
def test_what_reads_training_rows_costs_the_same_with_other_development_rows(study, kind):
    asked = replace(with_subspace(study, "autoencoder"), measures=("gradient_cosine",))
    few, many = (costs_of(asked, kind, rows=Rows(val=count)) for count in (2, 10))
    assert few == many
    assert all(few.values())


def test_gradients_of_examples_cost_a_pass_of_each_forward_and_backward(study):
    asked = replace(study, tasks=("long",), compositions=("bitfit",), measures=("gradient_cosine",))
    known = facts(asked)
    alone = flops.training(known.shape, known.tasks["long"].lengths, known.deltas["bitfit"], 1)
    assert costs_of(asked, "probe") == {"gradients": pytest.approx(32 * alone)}


def test_tuning_in_a_subspace_costs_a_training_and_its_score(study):
    asked = with_subspace(study, "pca")
    cells = [cell for _, cell in api.plan(asked).nodes(data="cell")]
    trained = {cell.spec["task"]: cell.cost for cell in cells if cell.kind == "train"}
    scored = {c.spec["task" if "task" in c.spec else "target"]: c.cost for c in cells if c.kind == "reconstruct"}
    tuned = {cell.spec["target"]: cell.cost for cell in cells if cell.kind == "tune"}
    assert tuned == {task: pytest.approx(trained[task] + scored[task]) for task in trained}


def test_few_shot_training_is_not_taken_for_training_on_all_development_rows(study):
    new = {**study.own_tasks, "other": study.own_tasks["short"] | {"category": "d"}}
    asked = replace(study, compositions=("bitfit",), held_out=("other",), own_tasks=new)
    asked = replace(asked, reuse=ReuseChoice(ways=("nothing",), shots=(1,)))
    cells = [c for _, c in api.plan(asked).nodes(data="cell") if c.kind == "train"]
    few = [cell.cost for cell in cells if cell.spec["task"] == "other"]
    whole = [cell.cost for cell in cells if cell.spec["task"] == "short"]
    assert max(few) < min(whole) / 3
