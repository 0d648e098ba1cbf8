"""The studies for a GPU machine, on pico models and few rows that lie where the hub's cache has the real ones: planned
as they stand by the command, without a network, and carried out when they are cut down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import datasets
import hubrows as hub
import pytest
import yaml
from deltacompose_plugins.tasks import descriptions, task
from hubrows import CASES
from huggingface_hub import constants

import deltacompose as dc
from deltacompose import cli, plugins
from deltacompose.backbone.pico import pico, pico_tokenizer
from deltacompose.cells import loaded
from deltacompose.store import open_store
from deltacompose.study import Rows, Study
from deltacompose.study.recipe import Recipe
from deltacompose.task.description import PARQUET
from deltacompose.task.sources import own_splits

STUDIES = Path(__file__).parents[2] / "studies"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def in_the_models_cache(home, name, family):
    """A pico model where `huggingface_hub` keeps the model of that name."""
    place = home / "hub" / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(COMMIT)
    for part in (pico(family), pico_tokenizer(family)):
        part.save_pretrained(place / "snapshots" / COMMIT)


def in_the_data_cache(home, source, names, size=60):
    """Few rows of each task where `datasets` keeps the hub's data sets: its own loader puts them there, from folders in
    the hub's format, and only the owner's name is missing then."""
    for path in dict.fromkeys(descriptions("hub")[name]["path"] for name in names):
        owner, _, short = path.rpartition("/")
        configs = {}
        for name in (one for one in names if descriptions("hub")[one]["path"] == path):
            data = task(name).read.row.data
            configs[data.config or "default"] = rows_of(source / path, name, data, size)
        card = {"configs": [{"config_name": config, "data_files": files} for config, files in configs.items()]}
        (source / path / "README.md").write_text(f"---\n{yaml.safe_dump(card)}---\n")
        for config in configs:
            datasets.load_dataset(str(source / path), config, cache_dir=str(home / "datasets"))
        made = home / "datasets" / short.replace("-", "_")
        made = made if made.exists() else home / "datasets" / short
        made.rename(home / "datasets" / f"{owner}___{made.name}")


def rows_of(folder, name, data, size):
    """Writes the splits of a task as parquet, and gives them as a data set's card names them."""
    files = []
    for split in own_splits("of/hub", data).values():
        file = Path(data.config or "default") / f"{split}.parquet"
        (folder / file.parent).mkdir(parents=True, exist_ok=True)
        hub.copy(name, split, size).to_parquet(folder / file)
        files.append({"split": split, "path": str(file)})
    return files


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """What `HF_HOME` names on a node without a network after `deltacompose prefetch`."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
        datasets.disable_progress_bars()
        home, source = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("source")
        names = set()
        for name, family in CASES.items():
            study = Study.read(STUDIES / f"{name}.yaml")
            in_the_models_cache(home, study.backbone.model, family)
            names |= set(study.tasks)
        in_the_data_cache(home, source, sorted(names))
        return home


@pytest.fixture
def typed(home, monkeypatch, capsys):
    """Types a command on such a node, and gives what it says as JSON; afterwards nothing of it is remembered."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)

    def type_(*words):
        monkeypatch.setattr(sys, "argv", ["deltacompose", *map(str, words), "--json"])
        cli.main()
        return json.loads(capsys.readouterr().out)

    forget()
    yield type_
    forget()


def forget():
    loaded.forget()
    for kept in (plugins.loaded,):
        kept.cache_clear()


def expected(study):
    """How many cells a study asks for, counted by hand: stages trained, and what is evaluated of each delta."""
    stages = {
        str(dc.parse(text).until(k + 1)) for text in study.compositions for k in range(len(dc.parse(text).stages))
    }
    tasks, seeds = len(study.tasks), len(study.seeds)
    of_each = (tasks if study.transfer else 1) + 1  # its targets, and a random delta of its norms
    deltas = len(study.compositions) * tasks * seeds
    return {"train": len(stages) * tasks * seeds, "evaluate": tasks + deltas * of_each}


@pytest.mark.parametrize("name", CASES)
def test_the_study_file_begins_with_its_question_and_names_tasks_of_the_hub(name):
    text = (STUDIES / f"{name}.yaml").read_text()
    study = Study.read(STUDIES / f"{name}.yaml")
    comment = " ".join(line[1:].strip() for line in text.partition("\nname:")[0].splitlines())
    assert "?" in comment
    assert set(study.tasks) <= set(descriptions("hub"))
    assert [str(dc.parse(one)) for one in study.compositions] == list(study.compositions)
    assert study.backbone.dtype in ("bfloat16", "nf4")


def test_the_glue_study_has_the_papers_compositions():
    texts = set(Study.read(STUDIES / "t5_base_glue.yaml").compositions)
    parts = ["prompt", "bitfit", "adapter"]
    assert {*parts, "prompt + bitfit", "prompt + adapter", "bitfit + adapter", " + ".join(parts)} <= texts
    assert {f"{a} >> {b} >> {c}" for a in parts for b in parts for c in parts if len({a, b, c}) == 3} <= texts


def test_the_transfer_study_has_a_dozen_tasks_of_several_categories_and_recomputes_activations():
    study = Study.read(STUDIES / "llama_transfer.yaml")
    categories = [descriptions("hub")[name]["category"] for name in study.tasks]
    assert len(categories) == 12
    assert {categories.count(one) for one in categories} == {3}
    assert study.transfer
    assert study.training.checkpointing


@pytest.mark.parametrize("name", CASES)
def test_the_study_is_planned_as_it_stands_from_the_hubs_cache(name, typed):
    facts = typed("run", STUDIES / f"{name}.yaml", "--dry-run")
    assert {row["kind"]: row["cells"] for row in facts["kinds"]} == expected(Study.read(STUDIES / f"{name}.yaml"))
    assert facts["stored"] == 0
    assert facts["seconds"] > 0
    assert facts["memory"] > 0


def test_hf_home_is_all_that_a_node_without_a_network_must_be_told(home):
    line = [sys.executable, "-c", "from deltacompose.cli import main; main()", "plan", "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    line.append(str(STUDIES / "llama_transfer.yaml"))
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=1800, check=False, cwd=home)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["cells"] == sum(expected(Study.read(line[-1])).values())


def test_prefetch_finds_all_of_a_study_in_the_cache(home, typed):
    rows = typed("prefetch", STUDIES / "llama_transfer.yaml")
    assert {row["state"] for row in rows} == {"cached"}
    assert all(row["cache"].startswith(str(home)) for row in rows)
    assert len(rows) == 13


@pytest.mark.parametrize("name", CASES)
def test_the_study_cut_down_is_carried_out(name, typed, tmp_path):
    whole = Study.read(STUDIES / f"{name}.yaml")
    few = [text for text in whole.compositions if text in FEW]
    assert few
    recipe = Recipe(**{**vars(whole.training), "steps": 2, "batch": 2, "evaluate_every": 2, "limit": 64})
    cut = replace(
        whole, tasks=(whole.tasks[0], *whole.tasks[3:5]), compositions=tuple(few), seeds=(0,), training=recipe
    )
    replace(cut, rows=Rows(8, 4, 4)).write(tmp_path / "cut.yaml")
    told = typed("run", tmp_path / "cut.yaml", "--store", tmp_path / "store", "--engine", "inprocess")
    assert (told["failed"], told["blocked"]) == ({}, {})
    assert told["done"] == sum(expected(cut).values())
    records = list(open_store(tmp_path / "store").records())
    assert {one["spec"]["dtype"] for one in records} == {"bfloat16"}
    assert all(-1 <= one["result"]["score"] <= 1 for one in records if one["kind"] == "evaluate")


FEW = ("lora", "prompt + bitfit + adapter", "adapter >> bitfit", "prompt + lora")


def test_the_hubs_parquet_copy_is_read_from_the_cache(home, typed):
    name = "ethics_commonsense"
    data = task(name).read.row.data
    assert data.revision == PARQUET
    place = home / "hub" / f"datasets--{descriptions('hub')[name]['path'].replace('/', '--')}"
    (place / "refs" / PARQUET).parent.mkdir(parents=True)
    (place / "refs" / PARQUET).write_text(COMMIT)
    for split in own_splits("of/hub", data).values():
        folder = place / "snapshots" / COMMIT / data.config / split
        folder.mkdir(parents=True)
        hub.copy(name, split, 30).to_parquet(folder / "0000.parquet")
    rows = typed("tasks", name, "ethics_justice", "--verify")
    assert [(row["name"], row["state"]) for row in rows] == [(name, "verified"), ("ethics_justice", "unreachable")]
    assert "`deltacompose prefetch`" in rows[1]["reason"]
    assert str(home / "hub") in rows[1]["reason"]
