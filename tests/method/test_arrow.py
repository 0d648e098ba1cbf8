"""Arrow: routing per token and place over the LoRAs of a library."""

import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from deltacompose_plugins import LoRA
from deltacompose_plugins.methods.reparameterization.arrow import Arrow, leading_direction, routing
from safetensors.torch import load_file, save_file

import deltacompose as dc
from deltacompose.backbone.pico import pico_backbone
from deltacompose.checks import parametrize_with_checks
from deltacompose.checks.batches import batch, forward
from deltacompose.composition import composition, parse
from deltacompose.delta.delta import Delta
from deltacompose.errors import BadInput
from deltacompose.library.library import Library
from deltacompose.method.weights import init_constants, init_weights

FAMILIES = ("bert", "t5", "gpt2")


def lora(backbone, seed=0, method=None):
    """A LoRA as if trained."""
    method = method or LoRA(rank=2 + seed % 2)
    source = torch.Generator().manual_seed(seed)
    weights = {n: 0.2 * torch.randn(x.shape, generator=source) for n, x in init_weights(backbone, method).items()}
    made = {"name": backbone.name, "family": backbone.family, "fingerprint": backbone.fingerprint}
    return Delta(composition(method), weights, {}, made, {}, {"task": f"task {seed}", "seed": seed})


def library_of(folder, backbone, deltas):
    library = Library.create(str(folder), deltas[0].backbone)
    return library, [library.add(delta) for delta in deltas]


@pytest.fixture(scope="module")
def backbone():
    return pico_backbone("bert")


@pytest.fixture
def library(tmp_path, backbone):
    return library_of(tmp_path, backbone, [lora(backbone, seed) for seed in range(3)])[0]


def output(backbone, method, weights=None, constants=None):
    weights = init_weights(backbone, method) if weights is None else weights
    with dc.attached(backbone, method, weights, constants) as _, torch.no_grad():
        return forward(backbone, batch(backbone, seed=0))


# What it computes


def test_with_one_lora_it_is_that_delta(tmp_path, backbone):
    delta = lora(backbone)
    library_of(tmp_path, backbone, [delta])
    expected = output(backbone, delta.expression, delta.weights)
    found = output(backbone, Arrow.of(tmp_path))
    assert torch.allclose(found, expected, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(found, output(backbone, LoRA()), atol=1e-3)


@pytest.mark.parametrize("top", [1, 2, 3, 9])
def test_it_is_the_formula_token_by_token_in_double_precision(top):
    source = torch.Generator().manual_seed(top)
    draw = lambda *shape: torch.randn(shape, generator=source, dtype=torch.float64)
    ups, downs, input, frozen = draw(4, 5, 2), draw(4, 2, 6), draw(2, 3, 6), draw(2, 3, 5)
    place, temperature, scale = "encoder.0.attention.query", 0.7, draw(1)
    directions = torch.stack([leading_direction(b, a) for b, a in zip(ups, downs, strict=True)])
    t = {f"{place}.up": ups, f"{place}.down": downs, f"{place}.direction": directions, f"{place}.scale": scale}
    found = Arrow(top=top, temperature=temperature)._routed(place, t, input, frozen)
    for row in range(2):
        for token in range(3):
            x = input[row, token]
            changes = [b @ a for b, a in zip(ups, downs, strict=True)]
            votes = [abs(float(torch.linalg.svd(change)[2][0] @ x)) for change in changes]
            chosen = sorted(range(4), key=lambda k: -votes[k])[:top]
            shares = torch.softmax(torch.tensor([votes[k] / temperature for k in chosen], dtype=torch.float64), 0)
            expected = frozen[row, token] + scale * sum(
                share * (changes[k] @ x) for k, share in zip(chosen, shares, strict=True)
            )
            assert torch.allclose(found[row, token], expected, atol=1e-12, rtol=1e-12)


def test_the_direction_is_the_leading_right_singular_vector_of_the_product_whatever_its_factors():
    source = torch.Generator().manual_seed(0)
    up, down, gauge = (torch.randn(shape, generator=source, dtype=torch.float64) for shape in ((7, 3), (3, 5), (3, 3)))
    expected = torch.linalg.svd(up @ down)[2][0]
    for b, a in ((up, down), (up @ gauge.inverse(), gauge @ down)):
        assert abs(float(leading_direction(b, a) @ expected)) == pytest.approx(1, abs=1e-12)
    assert not leading_direction(torch.zeros(7, 3), down.float()).any()


def test_the_sign_of_a_direction_does_not_matter():
    source = torch.Generator().manual_seed(0)
    input, directions = torch.randn(4, 6, generator=source), torch.randn(5, 6, generator=source)
    signs = torch.tensor([1.0, -1, 1, -1, -1])[:, None]
    assert torch.equal(routing(input, directions, 2, 1.0), routing(input, signs * directions, 2, 1.0))


def test_so_many_experts_act_on_a_token_as_top_says():
    source = torch.Generator().manual_seed(0)
    weights = routing(torch.randn(50, 6, generator=source), torch.randn(5, 6, generator=source), 2, 1.0)
    assert (weights > 0).sum(-1).tolist() == [2] * 50
    assert torch.allclose(weights.sum(-1), torch.ones(50))


# As any method


@pytest.mark.parametrize("family", FAMILIES)
def test_the_experts_are_constants_of_a_saved_delta_which_needs_the_library_no_more(family, tmp_path):
    backbone = pico_backbone(family)
    library_of(tmp_path / "library", backbone, [lora(backbone, seed) for seed in range(3)])
    method = Arrow.of(tmp_path / "library", top=2)
    made = {"name": backbone.name, "family": backbone.family, "fingerprint": backbone.fingerprint}
    delta = Delta(composition(method), init_weights(backbone, method), init_constants(backbone, method), made)
    before = output(backbone, method)
    delta.save(tmp_path / "delta")
    shutil.rmtree(tmp_path / "library")
    again = dc.load_delta(tmp_path / "delta")
    assert again.expression == composition(method)
    with again.attached(backbone), torch.no_grad():
        assert torch.equal(forward(backbone, batch(backbone, seed=0)), before)


def test_it_composes(library, backbone):
    text = f"{Arrow.of(library.place)} + bitfit >> adapter(bottleneck=2)"
    expression = dc.parse(text)
    assert str(expression) == text
    assert not torch.equal(output(backbone, expression), output(backbone, dc.parse("bitfit")))


FOLDER = tempfile.TemporaryDirectory()


def experts(family, top=2):
    """A router over three LoRAs of a pico backbone, which must exist when the checks are listed."""
    backbone, folder = pico_backbone(family), Path(FOLDER.name, family)
    library_of(folder, backbone, [lora(backbone, seed) for seed in range(3)])
    return Arrow.of(folder, top=top)


def same_names(mark):
    """The parameters with names that are the same in every process: without the temporary folder."""
    names, parameters = mark.args
    renamed = [pytest.param(*p.values, marks=p.marks, id=p.id.replace(FOLDER.name, "")) for p in parameters]
    return pytest.mark.parametrize(names, renamed)


def keeps_the_contract(family):
    @same_names(parametrize_with_checks([experts(family)], backbones=(family,)))
    def test(method, check):
        check(method)

    return test


test_it_keeps_the_contract_on_an_encoder = keeps_the_contract("bert")
test_it_keeps_the_contract_on_an_encoder_decoder = keeps_the_contract("t5")
test_it_keeps_the_contract_on_a_decoder = keeps_the_contract("gpt2")


# Content and misuse


def test_its_text_names_the_content_of_the_library(library, backbone):
    method = Arrow.of(library.place)
    assert parse(str(method), dc.methods()) == composition(method)
    library.add(lora(backbone, 7))
    with pytest.raises(BadInput, match=r"the 4 LoRAs .* have sha256='[0-9a-f]{64}', and the setting is '[0-9a-f]{64}'"):
        init_constants(backbone, method)
    assert Arrow.of(library.place).sha256 != method.sha256


def test_named_experts_stay_the_same_when_the_library_grows(library, backbone):
    names = library.names()[:2]
    method = Arrow.of(library.place, only=names)
    before = init_constants(backbone, method)
    library.add(lora(backbone, 7))
    after = init_constants(backbone, method)
    assert all(torch.equal(x, after[n]) for n, x in before.items())
    assert next(iter(after.values())).shape[0] == 2


def test_a_copy_of_a_library_has_the_same_content(library, tmp_path_factory):
    copy = tmp_path_factory.mktemp("copies") / "copy"
    shutil.copytree(library.place, copy)
    assert Arrow.of(copy).sha256 == Arrow.of(library.place).sha256


def test_tensors_that_were_exchanged_are_refused(library, backbone):
    method = Arrow.of(library.place)
    path = Path(library.place, "deltas", library.names()[0], "delta.safetensors")
    save_file({n: x + 1 for n, x in load_file(path).items()}, path)
    with pytest.raises(BadInput, match="is not the file"):
        init_constants(backbone, method)


def test_a_library_of_another_backbone_is_refused(library):
    with pytest.raises(BadInput, match="was trained on"):
        init_constants(pico_backbone("bert", seed=1), Arrow.of(library.place))


def test_deltas_that_are_no_lora_are_no_experts(library, backbone):
    method = Arrow.of(library.place)
    other = Delta(dc.parse("bitfit"), init_weights(backbone, dc.parse("bitfit")), {}, lora(backbone).backbone)
    name = library.add(other, task="other")
    assert Arrow.of(library.place) == method
    with pytest.raises(BadInput, match="is a delta of 'bitfit'; expected a single lora"):
        Arrow.of(library.place, only=[name])


def test_experts_at_other_places_are_refused(library, backbone):
    library.add(lora(backbone, 5, LoRA(places=("ffn.up",))))
    with pytest.raises(BadInput, match="act at the same places"):
        Arrow.of(library.place)


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc", "", "a..b"])
def test_names_that_are_paths_are_refused(name, library):
    with pytest.raises(BadInput, match="not a valid name"):
        Arrow.of(library.place, only=[name])


@pytest.mark.parametrize(
    ("place", "message"),
    [("", "not the folder"), ("/dev/zero", "not the folder"), ("memory://x", "is a URL"), ("s3://x/y", "is a URL")],
)
def test_a_library_in_an_expression_is_a_local_folder(place, message):
    with pytest.raises(BadInput, match=message):
        Arrow.of(place)
    with pytest.raises(BadInput, match=message):
        init_constants(pico_backbone("bert"), dc.parse(f"arrow(library={place!r}, sha256='x')"))


def test_an_incomplete_delta_is_no_expert_unless_it_is_named(library, backbone):
    name = library.add(lora(backbone, 9))
    Path(library.place, "deltas", name, "card.json").unlink()
    assert init_constants(backbone, Arrow.of(library.place))["0.0.encoder.0.attention.query.direction"].shape[0] == 3
    with pytest.raises(BadInput, match="is not complete"):
        Arrow.of(library.place, only=[name])
