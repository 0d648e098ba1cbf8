"""The hostile pico models find what the kind ones let through: other sizes, scaled embeddings, dropout."""

from __future__ import annotations

import pytest
from checks import broken_shape

from deltacompose.backbone import Backbone
from deltacompose.backbone.pico import pico_backbone
from deltacompose.backbone.pico_hostile import HOSTILE
from deltacompose.checks import METHOD_CHECKS, Broken, check_method
from deltacompose.checks.backbones import OnModel, prompts_are_tokens
from deltacompose.checks.subject import Subject
from deltacompose.errors import BadInput

CHECKS = {check.name: check for check in METHOD_CHECKS}


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        (
            "every_weight_learns",
            broken_shape.TwoLayers(),
            "not depend on '0.0.encoder.2.ffn.scale'; nothing reads",
        ),
        ("fitting_shapes", broken_shape.WidthSixteen(), "its OutputEdit at encoder.0.ffn fails: RuntimeError"),
    ],
)
def test_a_method_for_one_size_alone_fails_on_a_model_of_another(name, method, message):
    with pytest.raises(Broken, match=message):
        CHECKS[name](Subject(method, "hostile-bert"))


def test_a_method_for_square_matrices_alone_fails_where_they_are_not():
    with pytest.raises(Broken, match="cannot be checked: RuntimeError"):
        CHECKS["low_rank_factors"](Subject(broken_shape.Square(), "hostile-t5"))


@pytest.mark.parametrize("family", HOSTILE)
def test_prompts_of_embeddings_are_their_tokens_on_every_hostile_model(family):
    backbone = pico_backbone(family)
    prompts_are_tokens(OnModel(backbone.table, backbone.model))


@pytest.mark.parametrize("family", ["hostile-marian", "hostile-gemma3"])
def test_prompts_in_another_unit_than_the_models_fail(family, monkeypatch):
    backbone = pico_backbone(family)
    monkeypatch.setattr(Backbone, "embed", lambda self, stream, ids: self.embeddings(stream)[ids])
    with pytest.raises(Broken, match=r"gives another output than those tokens, by .* the model scales its embeddings"):
        prompts_are_tokens(OnModel(backbone.table, backbone.model))


def test_a_hostile_model_ships_settings_that_interfere():
    settings = pico_backbone("hostile-marian").model.generation_config
    assert settings.forced_bos_token_id == 70
    assert settings.eos_token_id == [2, 60, 61]
    assert pico_backbone("hostile-bert").model.config.hidden_dropout_prob == 0.1


def test_an_unknown_pico_model_is_refused_with_the_nearest_name():
    with pytest.raises(BadInput, match="no pico model 'hostile-brt'; did you mean 'hostile-bert'"):
        check_method(broken_shape.TwoLayers(), backbones=("hostile-brt",))
