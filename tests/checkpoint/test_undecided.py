"""What tensors cannot tell is declared, or asked for by name: never guessed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from safetensors.torch import save_file

from clipfast.checkpoint import load_checkpoint
from clipfast.config import ARCHITECTURES
from clipfast.errors import CheckpointError, ConfigurationError
from tests.checkpoint.archives import tiny_weights
from tests.weights import (
    random_weights,
    reduced,
    round_like_openai,
    save_as,
    tiny,
    to_custom_text,
)


def _save(tensors, folder: Path) -> Path:
    path = folder / "weights.safetensors"
    save_file(tensors, path)
    return path


def _refused(path: Path, *matches: str, **arguments: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, **arguments)
    message = str(caught.value)
    assert str(path) in message
    for match in matches:
        assert re.search(match, message), f"{match!r} is not in {message!r}"


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Files of published widths without any config beside them."""
    folder = tmp_path_factory.mktemp("bare")
    paths = {}
    for name in ("ViT-B-32", "ViT-L-14", "ViT-B-16-plus-240"):
        config = reduced(ARCHITECTURES[name], layers=1)
        paths[name] = save_as(
            "open_clip_safetensors", random_weights(config), config, folder / name
        )
    return paths


def test_a_bare_file_asks_for_what_it_does_not_tell(bare):
    _refused(
        bare["ViT-B-32"],
        "do not tell the number of attention heads and activation",
        "architecture='ViT-B-32', activation='gelu' .or 'quick_gelu'.",
        "ViT-B-32/openai",
    )


def test_an_architecture_alone_leaves_the_activation_open_where_its_releases_differ(bare):
    _refused(bare["ViT-B-32"], "do not tell the activation", architecture="ViT-B-32")
    config = load_checkpoint(bare["ViT-B-16-plus-240"], architecture="ViT-B-16-plus-240").config
    assert config.text.activation == "gelu"  # as each of its releases


@pytest.mark.parametrize(
    ("arguments", "activation"),
    [
        ({"architecture": "ViT-B-32", "activation": "gelu"}, "gelu"),
        ({"architecture": "ViT-B/32", "activation": "quick_gelu"}, "quick_gelu"),
        ({"architecture": "ViT-B-32-quickgelu"}, "quick_gelu"),
        ({"architecture": "ViT-B/32-quickgelu"}, "quick_gelu"),
        ({"architecture": "ViT-B-32/openai"}, "quick_gelu"),
        ({"architecture": "ViT-B-32/laion2b-s34b-b79k"}, "gelu"),
        ({"architecture": "ViT-B-32/openai", "activation": "gelu"}, "gelu"),
        ({"activation": "gelu"}, "gelu"),
    ],
)
def test_what_the_caller_passes_decides(bare, arguments, activation):
    config = load_checkpoint(bare["ViT-B-32"], **arguments).config
    assert config == reduced(ARCHITECTURES["ViT-B-32"], layers=1).with_activation(activation)


def test_preprocessing_that_releases_do_not_share_is_asked_for(bare):
    _refused(
        bare["ViT-L-14"],
        "do not tell the preprocessing",
        "ViT-L-14/laion2b_s32b_b82k",
        architecture="ViT-L-14",
        activation="gelu",
    )
    half = load_checkpoint(bare["ViT-L-14"], architecture="ViT-L-14/laion2b_s32b_b82k").config
    assert half.preprocess.mean == (0.5, 0.5, 0.5)
    openai = load_checkpoint(bare["ViT-L-14"], architecture="ViT-L-14-quickgelu").config
    assert openai.preprocess.mean[0] == 0.48145466
    assert openai.vision.activation == openai.text.activation == "quick_gelu"


def test_an_architecture_of_other_widths_is_refused(bare):
    _refused(
        bare["ViT-B-32"],
        "do not have the sizes of architecture='ViT-L-14'",
        "vision.width 768, expected 1024",
        "vision.patch_size 32, expected 14",
        architecture="ViT-L-14",
        activation="gelu",
    )
    _refused(
        bare["ViT-B-32"],
        "vision.patch_size 32, expected absent|vision.width 768",
        architecture="RN50",
    )


def test_widths_of_no_published_architecture_ask_for_a_config(tmp_path):
    path = save_as("open_clip_safetensors", tiny_weights(), tiny(), tmp_path)
    _refused(
        path,
        "no published architecture has these sizes",
        r"open_clip_config\.json",
        activation="gelu",
    )


@pytest.mark.parametrize(
    "name", ["ViT-B-33", "", "openai", "ViT-B-32/none", "ViT-B-16-SigLIP/webli"]
)
def test_unknown_architectures(bare, name):
    with pytest.raises(ConfigurationError, match="is not known, expected one of RN50"):
        load_checkpoint(bare["ViT-B-32"], architecture=name)


def test_unknown_activations(bare):
    with pytest.raises(ConfigurationError, match="expected 'gelu' or 'quick_gelu'"):
        load_checkpoint(bare["ViT-B-32"], activation="relu")


def test_a_config_and_an_architecture_that_disagree(tmp_path):
    config = reduced(ARCHITECTURES["ViT-B-32"], layers=1)
    path = save_as("open_clip_directory", random_weights(config), config, tmp_path)
    with pytest.raises(
        CheckpointError, match="disagree about vision_activation: gelu and quick_gelu"
    ):
        load_checkpoint(path, architecture="ViT-B-32-quickgelu")
    assert load_checkpoint(path, architecture="ViT-B-32").config == config
    quick = load_checkpoint(path, activation="quick_gelu").config
    assert quick == config.with_activation("quick_gelu")


def test_an_openai_archive_is_quickgelu_and_the_log_says_so(tmp_path, caplog):
    path = save_as("openai_jit", round_like_openai(tiny_weights()), tiny("gelu"), tmp_path)
    with caplog.at_level("INFO", logger="clipfast"):
        config = load_checkpoint(path).config
    assert config.vision.activation == config.text.activation == "quick_gelu"
    assert (config.vision.heads, config.text.heads) == (2, 1)
    assert (
        "OpenAI's TorchScript archive: QuickGELU, heads of width 64 (2 image, 1 text)"
        in caplog.text
    )


def test_custom_text_without_a_config_is_as_ambiguous(tmp_path):
    _refused(
        _save(to_custom_text(tiny_weights()), tmp_path), "do not tell the number of attention heads"
    )
