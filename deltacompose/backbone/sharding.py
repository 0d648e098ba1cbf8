"""A backbone whose layers are dealt out over several processes: each holds a share of every layer's weights.

FSDP2 of PyTorch (Zhao et al. 2023, arXiv 2304.11277) gathers a layer before it is needed, in the forward pass and again
in the backward pass, and drops it afterwards, so that several GPUs hold a backbone which none of them could hold alone.
The pass is the same to the bit; so are gradients, except those of an encoder-decoder's encoder, whose layers' parts are
summed in another order. Parts outside the layers (embeddings, last norm, head) are replicated on each process.
"""

from __future__ import annotations

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from deltacompose.backbone.backbone import Backbone
from deltacompose.errors import BadInput


def shard(backbone: Backbone) -> None:
    """Deals out a backbone's layers, whole on the CPU so far, over the processes of this process's group, for good.

    All processes must do this at one time; and from then on every pass, of a layer or of all, is made by all of them,
    for each needs the others' shares. Of a process without a group the backbone stays whole.

    Raises:
        BadInput: its layers cannot be distinguished, or it reads no tokens.
    """
    layers = [backbone.module(place) for place in backbone.places("layer")]
    if backbone.kind == "denoiser" or len(set(layers)) < len(layers):
        what = "is a denoiser" if backbone.kind == "denoiser" else "has layers that share one module"
        raise BadInput(f"{backbone.name} {what} and cannot be sharded; spread it over the GPUs by device='auto'")
    if not distributed.is_initialized():
        return
    if backbone.mixes_padding:
        raise BadInput(
            f"cannot shard {backbone.name} because padding changes its states: texts are read one length at a time, "
            "and all processes must make the same passes; take one process"
        )
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    model = backbone.model
    _ = backbone.fingerprint, backbone.content  # read once, while the weights are whole
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params={x for x in model.parameters() if not isinstance(x, DTensor)})
    model.to(device)
    with torch.no_grad():  # the first pass must be of the whole model, which FSDP2 then takes for the root of its parts
        backbone.read(torch.zeros(1, 1, dtype=torch.int64, device=device))
