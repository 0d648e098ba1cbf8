"""A study says how inputs are put and candidates ranked, and so do the keys of its cells, but for defaults."""

from __future__ import annotations

from dataclasses import replace

import pytest
from chats import saved
from picostudy import make

import deltacompose as dc
from deltacompose.errors import BadInput
from deltacompose.store.store import open_store
from deltacompose.study import BackboneChoice, Study


@pytest.fixture
def study(tmp_path):
    small = make(tmp_path, transfer=False, seeds=(0,))
    folder = str(saved("chatml", tmp_path / "chatml"))
    return replace(small, backbone=BackboneChoice(model=folder), training=replace(small.training, limit=160))


def chatting(study, system=None):
    return replace(study, backbone=replace(study.backbone, chat=True, system=system))


def test_defaults_leave_the_keys_as_they_are(study):
    specs = [cell.spec for _, cell in dc.plan(study).nodes(data="cell")]
    assert not any({"chat", "ranking"} & set(spec) for spec in specs)
    said = replace(study, ranking="sum", backbone=replace(study.backbone, chat=False))
    assert set(dc.plan(said)) == set(dc.plan(study))


def test_chat_system_and_ranking_give_other_cells(study):
    variants = [study, chatting(study), chatting(study, "Be brief."), replace(study, ranking="pmi")]
    keys = [set(dc.plan(variant)) for variant in variants]
    assert all(not first & second for k, first in enumerate(keys) for second in keys[k + 1 :])


def test_a_task_with_a_rule_of_its_own_keeps_it(study):
    own = {name: rows | {"ranking": "bytes"} for name, rows in study.own_tasks.items()}
    prints = {
        rule: {cell.spec["data"] for _, cell in dc.plan(replace(study, own_tasks=own, ranking=rule)).nodes(data="cell")}
        for rule in ("sum", "mean")
    }
    assert prints["sum"] == prints["mean"]


@pytest.mark.parametrize("ranking", ["sum", "bytes"])
def test_a_chat_study_runs_and_its_deltas_know_how_they_were_read(study, tmp_path, ranking):
    whole = replace(chatting(study, "Be brief."), ranking=ranking)
    dc.run(whole, tmp_path / "store")
    store = open_store(tmp_path / "store")
    assert not list(store.records(state="failed"))
    [record] = [r for r in store.records() if r["kind"] == "train" and r["spec"]["task"] == "mood"]
    assert record["spec"]["chat"] == {"system": "Be brief."}
    delta = dc.load_delta(store.folder(record["key"]))
    assert delta.record["reading"]["chat"] == {"system": "Be brief."}
    assert not store.verify()


def test_the_setting_is_written_and_read(study, tmp_path):
    whole = replace(chatting(study, "Be brief."), ranking="mean")
    whole.write(tmp_path / "study.yaml")
    assert Study.read(tmp_path / "study.yaml") == whole


def test_misuse_fails_before_anything_runs(study, tmp_path):
    with pytest.raises(BadInput, match="a system prompt is part of a chat; set `chat: true` too"):
        BackboneChoice(model="x", system="Be brief.")
    refusing = replace(chatting(study, "Be brief."), backbone=replace(
        chatting(study, "Be brief.").backbone, model=str(saved("gemma", tmp_path / "gemma"))
    ))  # fmt: skip
    with pytest.raises(BadInput, match="refuses a system prompt"):
        dc.run(refusing, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    with pytest.raises(BadInput, match="has no chat template"):
        dc.plan(chatting(make(tmp_path, "llama")))
