"""What holds for all tests, wherever they run.

Laws are tried on the same examples in every run, however busy the machine is. Ctrl-C is heard also where the shell that
started the tests in the background had it ignored: what they start would inherit that. Listings, plans and digests are
remembered in a folder of the run, not in the user's.
"""

import atexit
import gc
import os
import shutil
import signal
import tempfile

from hypothesis import settings

if "DELTACOMPOSE_CACHE" not in os.environ:  # the processes that the first one starts find it set
    os.environ["DELTACOMPOSE_CACHE"] = tempfile.mkdtemp(prefix="deltacompose-cache-")
    atexit.register(shutil.rmtree, os.environ["DELTACOMPOSE_CACHE"], ignore_errors=True)

settings.register_profile("same", max_examples=40, derandomize=True, deadline=None, database=None)
settings.load_profile("same")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

gc.disable()  # until all is collected: importing makes many objects and no garbage

LONGEST = (
    "method/test_hostile_methods.py",
    "method/test_methods.py",
    "engine/test_driver.py",
    "backbone/test_sharding.py",
    "checks/test_suite.py",
    "figures/test_sizes.py",
    "test_docs.py",
    "cli/test_cli.py",
    "backbone/test_families.py",
    "engine/test_engines_equal.py",
    "cli/test_torch_free.py",
    "planning/test_large_plans.py",
    "delta/test_peft_export.py",
    "training/test_loop.py",
    "cells/test_carry_out.py",
    "method/test_peft.py",
    "studies/test_interval_coverage.py",
    "analysis/interaction/test_order.py",
    "engine/test_scaling.py",
    "engine/test_real_cells.py",
    "cli/test_exchange.py",
    "figures/test_every_figure.py",
    "figures/test_figures.py",
    "studies/test_hub_studies.py",
    "test_distributed.py",
    "plugins/test_example.py",
    "store/test_store.py",
    "studies/test_studies.py",
    "test_hostile_inputs.py",
    "analysis/recommendation/test_recommendation.py",
)
"""The files whose tests take longest, in the order in which they begin: begun last, one would keep one process busy
while the others have nothing left (files are handed out whole, see `--dist loadfile` in the Makefile)."""


def pytest_collection_modifyitems(items):
    """Puts the tests of the longest files first; all others keep their order."""
    names = [f"tests/{name}" for name in LONGEST]
    order = {name: rank for rank, name in enumerate(names)}
    items.sort(key=lambda item: order.get(item.nodeid.partition("::")[0], len(order)))


def pytest_collection_finish(session):
    """Leaves what is imported and collected out of garbage collection: each full one would look at all of it."""
    gc.collect()
    gc.freeze()
    gc.enable()
