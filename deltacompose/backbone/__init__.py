"""Pretrained models as named places: loading, tables for unknown families, test models.

`backbone` is the model with its places, `slices` a place within a fused matrix, `module_paths` finds a module by its
path. `loading` finds and reads a model with `pretrained`, `gguf_files`, `quantization`, `sharding` and, for
diffusers, `diffusion`; `skeleton` is one without weights. `content` is the digest of a model. `infer_table`, `settle`
and `derived_tables` derive a table, `table_checks` checks one, `trace` and `quiet` watch a pass. `input_embeddings`,
`padding`, `languages` and `chat` answer how a model reads its input; `overview` prints places. The test models are
`pico`, `pico_families`, `pico_hostile` and `pico_diffusion`.
"""

import warnings
from typing import Any

from deltacompose.backbone.backbone import Backbone, FusedPart, Place, Stream, bind

__all__ = ["Backbone", "FusedPart", "Place", "Stream", "bind"]


def __getattr__(name: str) -> Any:
    if name != "Part":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("deltacompose.backbone.Part is FusedPart now", DeprecationWarning, stacklevel=2)
    return FusedPart
