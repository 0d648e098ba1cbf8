"""An edit works in the precision of its own module, also where a model keeps some modules in float32."""

from __future__ import annotations

import pytest
import torch
from picofamilies import backbone_of, model, read
from torch import Tensor, nn

from deltacompose.attach import attach, attached
from deltacompose.backbone.backbone import Backbone
from deltacompose.method.weights import generator, init_weights

METHODS = (
    "adapter(bottleneck=4)",
    "adapter(bottleneck=4, places=('ffn', 'attention'))",
    "compacter",
    "parallel_adapter(bottleneck=4)",
    "lora(rank=2, places=('ffn.down', 'ffn.up'))",
    "lora(rank=2, dora=True, places=('ffn.down', 'ffn.up'))",
    "ia3",
    "bitfit",
    "norm",
    "last_layers(n=1)",
    "prompt(length=2) + prefix(length=2)",
)


def mixed(dtype: torch.dtype) -> Backbone:
    """T5 in half precision with its last projections in float32, as transformers keeps them."""
    made = model("t5").to(dtype)
    for path, module in made.named_modules():
        if path.endswith(".wo"):
            module.float()
    return backbone_of(made)


def trained(of: Backbone, text: str, seed: int) -> dict[str, Tensor]:
    drawn = init_weights(of, read(text), seed)
    return {n: x + 0.05 * torch.randn(x.shape, generator=generator(seed, "noise", n)) for n, x in drawn.items()}


def logits(of: Backbone, rows: int = 2) -> Tensor:
    ids = torch.tensor([[5, 50, 60, 70], [80, 90, 100, 110]])[:rows]
    with torch.no_grad():
        found: Tensor = of.model(input_ids=ids, decoder_input_ids=ids[:, :3], use_cache=False).logits
    return found.float()


@pytest.mark.parametrize("text", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_kind_of_edit_acts_beside_modules_in_float32_alone_and_in_a_bank(dtype, text):
    of = mixed(dtype)
    untouched, ts = logits(of), [trained(of, text, k) for k in range(2)]
    attachment = attach(of, read(text))
    try:
        attachment.put(ts)
        bank = logits(of)
        attachment.put(ts[0])
        alone = logits(of, 1)
    finally:
        attachment.detach()
    torch.testing.assert_close(bank[:1], alone, rtol=0.05, atol=0.05 * float(untouched.abs().max()))
    assert not torch.equal(bank, untouched)


def test_at_a_module_in_float32_a_delta_is_not_rounded():
    of, exact = mixed(torch.float16), backbone_of(model("t5"))
    text = "lora(rank=2, places=('ffn.down',))"
    place = of.place("encoder.0.ffn.down")
    seen: dict[str, Tensor] = {}

    def note(module: nn.Module, args: tuple[Tensor, ...], y: Tensor) -> None:
        seen.update(x=args[0].detach(), y=y.detach())

    t = trained(exact, text, 0)
    with attached(of, read(text), t):
        of.module(place).register_forward_hook(note)
        logits(of)
    up, down = (t[f"0.0.{place.name}.{name}"] for name in ("up", "down"))
    change = seen["y"] - seen["x"] @ of.module(place).weight.mT
    scale = change.norm() / (seen["x"] @ down.mT @ up.mT).norm()
    torch.testing.assert_close(change / scale, seen["x"] @ down.mT @ up.mT, rtol=1e-4, atol=1e-5)


def test_a_model_of_one_precision_takes_tensors_that_are_cast_once():
    of = backbone_of(model("t5").half())
    attachment = attach(of, read("lora"))
    try:
        attachment.put(trained(of, "lora", 0))
        assert {x.dtype for x in attachment.bound_tensors.tensors.values()} == {torch.float16}
    finally:
        attachment.detach()
