"""How fast a machine computes: measured once, remembered, and corrected by stored cells."""

from __future__ import annotations

import pytest
import torch

from deltacompose.cells import calibration
from deltacompose.cells.calibration import (
    Calibration,
    Speed,
    TokenTime,
    _solved,
    _token_of_depths,
    calibrated,
    speeds,
)
from deltacompose.planning import flops
from deltacompose.planning.flops import DeltaShape, Lengths, Shape, StackShape

SHAPE = Shape(1000, "decoder", {"decoder": StackShape(1000, 4, 16, 64, 4, 64)}, 100, 10)
LENGTHS = {"a": Lengths(20, 32, 2, 2, 2), "b": Lengths(10, 16, 5, longest=8)}


def test_rate_and_overhead_are_those_that_explain_a_narrow_and_a_wide_pass():
    true = Speed(rate=1e9, overhead=1e-3)
    passes = {
        width: (operations, true.seconds(operations, calibration.LAYERS))
        for width, operations in ((calibration.NARROW, 1e6), (calibration.WIDE, 1e9))
    }
    found = _solved(passes)
    assert (found.rate, found.overhead) == (pytest.approx(1e9), pytest.approx(1e-3))


def test_a_machine_is_measured_once_for_a_data_type(monkeypatch, tmp_path):
    monkeypatch.setenv("DELTACOMPOSE_CACHE", str(tmp_path))
    calls = []

    def measured(machine, dtype, device):
        calls.append(dtype)
        speed = {"rate": 1e9, "overhead": 1e-3}
        return {"machine": machine, "train": speed, "evaluate": speed}

    token = TokenTime(2e-3, 1e-4)
    monkeypatch.setattr(calibration, "_measured", measured)
    monkeypatch.setattr(calibration, "_token_time", lambda dtype, device: token)
    first = calibrated("float32")
    assert calibrated("float32") == first == Calibration(first.machine, Speed(1e9, 1e-3), Speed(1e9, 1e-3), token)
    calibrated("nf4")
    calibrated("bfloat16")
    assert calls == ["float32", "bfloat16"], "a quantised backbone computes in bfloat16"
    assert "GFLOP/s" in str(first)


def test_a_measurement_gives_positive_numbers_and_leaves_threads_and_random_state(monkeypatch, tmp_path):
    monkeypatch.setenv("DELTACOMPOSE_CACHE", str(tmp_path))
    monkeypatch.setattr(calibration, "WIDE", 256)
    before, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    try:
        found = calibrated()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert torch.equal(torch.get_rng_state(), state)
    assert min(found.train.rate, found.evaluate.rate) > 1e6
    assert min(found.train.overhead, found.evaluate.overhead) >= 0
    assert found.token.seconds(6) > 1e-5


def test_the_time_of_a_token_is_the_one_that_explains_a_shallow_and_a_deep_model():
    found = _token_of_depths({depth: 3e-3 + depth * 5e-4 for depth in (2, 6)})
    assert (found.fixed, found.layer) == (pytest.approx(3e-3), pytest.approx(5e-4))
    assert _token_of_depths({2: 4e-3, 6: 3e-3}) == TokenTime(4e-3, 0.0), "noise does not make a layer free of time"


def test_the_development_examples_of_a_training_count_with_the_tokens_that_they_generate():
    calm = Speed(1e9, 0.0)
    known = Calibration("m", calm, calm, TokenTime(1e-3, 1e-4))
    lengths = {"b": LENGTHS["b"]}
    step = flops.training(SHAPE, lengths["b"], DeltaShape(), 8)
    look = flops.evaluation(SHAPE, lengths["b"], DeltaShape(), 32)
    seconds = step / 1e9 + look / 1e9 + 8 * (1e-3 + 4 * 1e-4)  # 32 examples a step, eight tokens, four layers
    found = speeds(known, SHAPE, lengths, 8, looks={"b": 32.0})["train"]
    assert found == pytest.approx((step + look) / seconds)
    assert found < speeds(known, SHAPE, lengths, 8)["train"] / 2


def test_overhead_counts_less_in_a_bank_and_more_where_text_is_generated_token_by_token():
    slow = Calibration("m", Speed(1e9, 1e-3), Speed(1e9, 1e-3), TokenTime(5e-3, 1e-3))
    one, eight = (speeds(slow, SHAPE, LENGTHS, 8, bank)["train"] for bank in (1, 8))
    assert one < eight < 1e9
    ranked, generated = (speeds(slow, SHAPE, {n: LENGTHS[n]}, 8)["evaluate"] for n in ("a", "b"))
    assert generated < ranked


def test_without_overhead_the_speed_is_the_rate():
    fast = Calibration("m", Speed(2e9, 0.0), Speed(3e9, 0.0), TokenTime(0.0, 0.0))
    assert speeds(fast, SHAPE, LENGTHS, 8) == pytest.approx({"train": 2e9, "evaluate": 3e9})


@pytest.mark.parametrize(("seconds", "calls", "time"), [((9.0, 1.0), 1, 9.0), ((1.0, 0.5, 0.25, 0.125), 4, 0.125)])
def test_a_call_that_takes_long_is_not_repeated(monkeypatch, seconds, calls, time):
    clock, done = [0.0], []

    def act():
        clock[0] += seconds[len(done)]
        done.append(act)

    monkeypatch.setattr(calibration.time, "process_time", lambda: clock[0])
    assert calibration.timed(act, "cpu") == time
    assert len(done) == calls


def test_a_processor_without_bfloat16_passes_fewer_rows(monkeypatch):
    rows = []
    monkeypatch.setattr(calibration, "timed", lambda act, device: rows.append(act.args[1]) or float(len(rows)))
    for able, expected in ((True, calibration.ROWS), (False, 1)):
        monkeypatch.setattr(calibration.machine, "multiplies_bfloat16", lambda device, answer=able: answer)
        calibration._measured("a processor", "bfloat16", "cpu")
        assert set(rows) == {expected}
        rows.clear()
