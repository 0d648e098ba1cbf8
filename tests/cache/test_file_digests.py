"""Digests of files: remembered where they are large, and computed again as soon as a file differs."""

from __future__ import annotations

import json
import os

import pytest

from deltacompose.cache import file_digests
from deltacompose.errors import BadInput


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DELTACOMPOSE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(file_digests, "LARGE", 1)
    monkeypatch.setattr(file_digests, "_remembered", {})
    monkeypatch.setattr(file_digests, "SETTLED", -1.0)
    return tmp_path / "cache" / "digests"


@pytest.fixture
def counted(monkeypatch):
    """How often a file was read."""
    calls, read = [], file_digests._digest
    monkeypatch.setattr(file_digests, "_digest", lambda path: calls.append(path) or read(path))
    return calls


def test_a_large_file_is_read_once_also_by_other_processes(tmp_path, counted, monkeypatch):
    path = tmp_path / "weights"
    path.write_text("abc")
    first = file_digests.file_digest(path)
    assert file_digests.file_digest(path) == first
    monkeypatch.setattr(file_digests, "_remembered", {})  # as in another process
    assert file_digests.file_digest(path) == first
    assert len(counted) == 1


def test_a_file_whose_content_and_old_time_were_put_back_under_its_name_is_read_again(tmp_path, counted):
    path = tmp_path / "weights"
    path.write_text("abc")
    first, times = file_digests.file_digest(path), path.stat()
    path.write_text("abd")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert file_digests.file_digest(path) != first
    assert len(counted) == 2


def test_a_file_that_was_just_written_is_not_remembered(tmp_path, counted, monkeypatch):
    monkeypatch.setattr(file_digests, "SETTLED", 60.0)
    path = tmp_path / "weights"
    path.write_text("abc")
    assert file_digests.file_digest(path) == file_digests.file_digest(path)
    assert len(counted) == 2


def test_a_damaged_or_unwritable_cache_only_costs_time(tmp_path, cache, counted, monkeypatch):
    path = tmp_path / "weights"
    path.write_text("abc")
    first = file_digests.file_digest(path)
    for content in ("{", "[]", json.dumps({"state": 1, "digest": 2})):
        next(cache.glob("*.json")).write_text(content)
        monkeypatch.setattr(file_digests, "_remembered", {})
        assert file_digests.file_digest(path) == first
    monkeypatch.setattr(file_digests, "_remembered", {})
    monkeypatch.setenv("DELTACOMPOSE_CACHE", "/proc/none")
    assert file_digests.file_digest(path) == first


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x02\0\0\0\0\0\0\0[]"])
def test_weights_that_are_not_safetensors_are_refused_with_one_sentence(tmp_path, content):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(BadInput, match=r"the model in .* cannot be read"):
        file_digests.files_of(tmp_path)
