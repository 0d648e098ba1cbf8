"""A dask scheduler that others can reach needs TLS; the clusters that the engine starts listen on 127.0.0.1 alone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from deltacompose_plugins.engines.cluster import dask
from deltacompose_plugins.engines.security import check_address, security

from deltacompose.errors import BadInput

PATIENCE = 600.0
PAGE = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text(encoding="utf-8")
FILES = {"tls_ca_file": "ca.pem", "tls_cert": "cert.pem", "tls_key": "key.pem"}


def certificates(folder):
    """The files that the commands of the page make, as options of the engine."""
    (text,) = (block for block in re.findall(r"^```bash\n(.*?)^```$", PAGE, re.S | re.M) if "openssl" in block)
    subprocess.run(["bash", "-ec", text.replace("/shared", str(folder))], check=True, capture_output=True)
    return {option: str(folder / "tls" / name) for option, name in FILES.items()}


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """A scheduler with TLS and a worker, started as the page says, on loopback: its file and the certificates."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("secured")
    options = certificates(folder)
    words = [word for name in FILES for word in (f"--{name.replace('_', '-')}", options[name])]
    shared = [*words, "--scheduler-file", str(folder / "file"), "--no-dashboard"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    quiet = {"env": environment, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--host", "tls://127.0.0.1"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny"]
    worker += ["--protocol", "tls", "--interface", "lo", *shared]
    started = [subprocess.Popen([*scheduler, *shared], **quiet)]
    until = time.monotonic() + PATIENCE
    while not ((folder / "file").exists() and (folder / "file").stat().st_size) and time.monotonic() < until:
        time.sleep(0.02)
    started.append(subprocess.Popen([*worker, "--local-directory", str(folder)], **quiet))
    yield folder / "file", options
    for process in started:
        process.kill()
        process.wait()


def test_calls_are_answered_over_tls_with_the_certificates_of_the_page(secured):
    file, options = secured
    assert '"tls://127.0.0.1:' in file.read_text()
    executor = dask({"scheduler_file": str(file), "wait": PATIENCE, **options})
    try:
        spec = {"store": "/nowhere", "cells": [], "options": {}}
        error = executor.submit("deltacompose.cells.carry_out:carry_out", spec).exception(PATIENCE)
        assert "does not see the store /nowhere" in str(error)
        workers = executor._client.scheduler_info()["workers"]
        assert [address.startswith("tls://127.0.0.1:") for address in workers] == [True]
    finally:
        executor.close()


def test_a_certificate_of_another_authority_and_none_at_all_are_refused(secured, tmp_path):
    file, _ = secured
    with pytest.raises(BadInput, match="no dask scheduler answers at tls://127"):
        dask({"scheduler_file": str(file), "wait": PATIENCE, **certificates(tmp_path)})
    with pytest.raises(
        BadInput, match=r"the dask scheduler at tls://127.0.0.1:\d+ has TLS; give tls_ca_file, tls_cert"
    ):
        dask({"scheduler_file": str(file), "wait": PATIENCE})


def test_a_local_cluster_listens_on_loopback_alone():
    executor = dask({"workers": 1})
    try:
        info = executor._client.scheduler_info()
        addresses = [info["address"], *info["workers"], *(one["nanny"] for one in info["workers"].values())]
        assert {address.rpartition(":")[0] for address in addresses} == {"tcp://127.0.0.1"}
        listening = [listener.listen_address for listener in executor._cluster.scheduler.listeners]
        assert {address.rpartition(":")[0] for address in listening} == {"tcp://127.0.0.1"}
    finally:
        executor.close()


@pytest.mark.parametrize(
    "address", ["tcp://192.0.2.7:8786", "192.0.2.7:8786", "tcp://[2001:db8::1]:8786", "ws://192.0.2.7:1"]
)
def test_an_open_scheduler_on_another_machine_is_refused_unless_it_is_accepted(address):
    with pytest.raises(BadInput, match=r"on another machine and has no TLS: whoever reaches its port runs code there"):
        check_address(address, {})
    check_address(address, {"insecure": True})


@pytest.mark.parametrize(
    "address",
    ["tcp://127.0.0.1:8786", "tcp://localhost:1", "tcp://[::1]:8786", "inproc://10.0.0.1/1"],
)
def test_loopback_and_tls_are_accepted(address):
    check_address(address, {"tls_cert": "cert.pem"} if address.startswith("tls") else {})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"tls_cert": "cert.pem"},
            "TLS needs tls_ca_file, .* the engine dask got no tls_ca_file and no tls_key",
        ),
        (dict.fromkeys(FILES, "/nowhere.pem"), "tls_ca_file '/nowhere.pem' is not a file"),
    ],
)
def test_certificates_that_are_lacking_are_named(options, message):
    with pytest.raises(BadInput, match=message):
        security(options)


def test_certificates_for_an_address_without_tls_or_a_local_cluster_are_refused():
    with pytest.raises(BadInput, match="has no TLS and certificates are given; write tls://127"):
        check_address("tcp://127.0.0.1:8786", {"tls_cert": "cert.pem"})
    with pytest.raises(BadInput, match="tls_cert are of a running dask scheduler"):
        dask({"tls_cert": "cert.pem"})
