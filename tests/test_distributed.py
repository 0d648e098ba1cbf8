"""Several processes that train one delta: what they make of shared batches is what one makes of the whole ones."""

from __future__ import annotations

from dataclasses import replace

import forkedranks
import picostudy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import deltacompose as dc
from deltacompose.attach import attach
from deltacompose.backbone.pico import pico_backbone
from deltacompose.distributed import ProcessGroup
from deltacompose.errors import BadInput
from deltacompose.scoring import reader
from deltacompose.store import open_store
from deltacompose.study import Study
from deltacompose.study.recipe import Recipe
from deltacompose.task import Example, Task
from deltacompose.training import train
from deltacompose.training.learner import Job, Learner

EXPRESSION = "prompt(length=2) + lora(rank=2) + bitfit"
ROWS = tuple(Example(str(k), f"row {k} " * (1 + k % 3), ("a", "b")[k % 2]) for k in range(12))
TEXTS = tuple(Example(str(k), f"row {k}", "word " * (1 + k % 4)) for k in range(12))
CHOICE = Task("c", "made", "choice", "accuracy", lambda split: ROWS, verbalizer={"a": "low", "b": "very high"})
SPOKEN = Task("g", "made", "generation", "exact_match", lambda split: TEXTS)


@given(st.lists(st.integers(), max_size=20), st.integers(1, 5))
def test_shares_are_the_whole_and_nothing_twice(rows, size):
    shares = [ProcessGroup(rank, size).share(range(len(rows))) for rank in range(size)]
    assert sorted(i for share in shares for i in share) == list(range(len(rows)))


@pytest.mark.parametrize(
    ("family", "head", "task"),
    [
        ("bert", None, CHOICE),
        ("roberta", "mlm", CHOICE),
        ("t5", None, CHOICE),
        ("t5", None, SPOKEN),
        ("llama", None, SPOKEN),
    ],
)
def test_gradients_of_shares_add_up_to_that_of_the_batch(family, head, task):
    backbone = pico_backbone(family, head=head)
    job = Job(dc.parse(EXPRESSION), reader(backbone, task), 0, Recipe(steps=2, batch=5))

    def gradient(processes):
        learner = Learner(backbone, replace(job, processes=processes))
        attachment = attach(backbone, job.expression)
        attachment.put(learner.tensors())
        loss = job.reader.loss(learner.batch(), 1).sum() * learner.portion
        found = torch.autograd.grad(loss, list(learner.weights.values()), materialize_grads=True)
        attachment.detach()
        return torch.cat([x.flatten() for x in found])

    whole = gradient(ProcessGroup())
    assert whole.norm() > 0
    for size in (2, 3):
        parts = [gradient(ProcessGroup(rank, size)) for rank in range(size)]
        torch.testing.assert_close(sum(parts), whole, rtol=1e-4, atol=1e-6)


def test_alone_nothing_is_exchanged():
    alone = ProcessGroup()
    x = torch.ones(2)
    assert alone.summed([x, None]) == [x, None]
    assert alone.gathered({"a": 1}, torch.device("cpu")) == [{"a": 1}]


def deltas(study, place):
    outcome = dc.run(study, place)
    assert not outcome.failed, outcome.failed
    found = [one for one in dc.records(place) if one["kind"] == "train"]
    return [(one["result"], dc.load_delta(open_store(place).folder(one["key"]))) for one in found]


def on_cpu(study):
    """The study where a machine's GPUs, which may be fewer than the processes, do not matter."""
    return replace(study, backbone=replace(study.backbone, device="cpu"))


def test_two_processes_train_what_one_does(tmp_path):
    """Without BitFit: the gradient of a key's bias is zero but for rounding, which Adam makes steps of."""
    text = "prompt(length=2) + lora(rank=2) + adapter(bottleneck=2)"
    study = on_cpu(picostudy.make(tmp_path, tasks=("mood",), seeds=(0,), transfer=False, compositions=(text,)))
    [(alone, one)] = deltas(study, tmp_path / "alone")
    with forkedranks.in_place_of_torchrun():
        [(together, two)] = deltas(replace(study, processes=2), tmp_path / "together")
    assert one.weights.keys() == two.weights.keys()
    for name, tensor in one.weights.items():
        torch.testing.assert_close(two.weights[name], tensor, rtol=1e-3, atol=1e-5)
    assert [row["score"] for row in alone["history"]] == [row["score"] for row in together["history"]]
    assert abs(alone["tokens"] - together["tokens"]) < 0.5 * alone["tokens"]
    losses = [[row["loss"] for row in found["history"][1:]] for found in (alone, together)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_what_goes_wrong_in_several_processes_is_told_as_in_one(tmp_path):
    recipe = Recipe(steps=4, batch=4, evaluate_every=2, limit=32, learning_rates={"lora": 1e30}, clip=1e30)
    study = picostudy.make(tmp_path, tasks=("mood",), seeds=(0,), transfer=False, compositions=("lora",), processes=2)
    with forkedranks.in_place_of_torchrun():
        outcome = dc.run(on_cpu(replace(study, training=recipe)), tmp_path / "store")
    [reason] = outcome.failed.values()
    assert reason.startswith("Diverged: lora on mood, seed 0")


def test_more_processes_than_rows_of_a_batch_are_refused():
    job = Job(
        dc.parse("bitfit"),
        reader(pico_backbone("bert"), CHOICE),
        0,
        Recipe(steps=2, batch=2),
        processes=ProcessGroup(0, 3),
    )
    with pytest.raises(BadInput, match="3 processes are to share batches of 2 rows; give a larger batch or fewer"):
        train(job.reader.backbone, [job])


def test_a_number_of_processes_is_written_in_the_study_and_in_its_training_cells(tmp_path):
    study = picostudy.make(tmp_path, tasks=("mood",))
    two = replace(study, processes=2)
    two.write(tmp_path / "two.yaml")
    assert "processes: 2" in (tmp_path / "two.yaml").read_text()
    asked = {cell.kind: cell.spec.get("processes") for _, cell in dc.plan(two).nodes(data="cell")}
    assert asked == {"train": 2, "evaluate": None}
    assert set(dc.plan(replace(study, processes=1))) == set(dc.plan(study))
    (tmp_path / "none.yaml").write_text("name: a\ntasks: [t]\ncompositions: [lora]\nprocesses: 0\n")
    with pytest.raises(BadInput, match="processes: 0: input should be greater than or equal to 1"):
        Study.read(tmp_path / "none.yaml")
