"""Config files beside weights: what they mean, as their own libraries read them, and what they may not say."""

from __future__ import annotations

import copy
import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.peers.modules import make_torchvision_importable
from clipfast.checkpoint import load_checkpoint
from clipfast.checkpoint.hf_config import read_hf_config, read_hf_preprocessor
from clipfast.checkpoint.open_clip_config import read_open_clip_config
from clipfast.config import ARCHITECTURES, PreprocessConfig
from clipfast.errors import CheckpointError
from tests.checkpoint.archives import save_tiny, tiny_weights
from tests.weights import hf_config, open_clip_config, save_as, tiny


def _write(path: Path, data) -> Path:
    path.write_text(json.dumps(data))
    return path


def _changed(config, key: str, value):
    """A copy with the dotted key set."""
    config = copy.deepcopy(config)
    *path, leaf = key.split(".")
    section = config
    for part in path:
        section = section[part]
    section[leaf] = value
    return config


OPEN_CLIP_REFUSALS = {
    "model_cfg.multimodal_cfg": ({}, "CoCa"),
    "model_cfg.init_logit_bias": (-10, "SigLIP"),
    "model_cfg.vision_cfg.timm_model_name": ("vit_base_patch16_siglip_224", "timm_model_name is 'vit_base"),
    "model_cfg.vision_cfg.attentional_pool": (True, "attentional_pool is True"),
    "model_cfg.vision_cfg.no_ln_pre": (True, "no_ln_pre is True"),
    "model_cfg.vision_cfg.pool_type": ("avg", "pool_type is 'avg'"),
    "model_cfg.vision_cfg.ls_init_value": (0.1, "ls_init_value is 0.1"),
    "model_cfg.vision_cfg.pos_embed_type": ("sin_cos_2d", "pos_embed_type"),
    "model_cfg.vision_cfg.act_kwargs": ({"approximate": "tanh"}, "act_kwargs"),
    "model_cfg.vision_cfg.input_patchnorm": (True, "not a setting that clipfast knows"),
    "model_cfg.text_cfg.hf_model_name": ("xlm-roberta-base", "hf_model_name is 'xlm-roberta-base'"),
    "model_cfg.text_cfg.hf_tokenizer_name": ("bert-base-uncased", "hf_tokenizer_name"),
    "model_cfg.text_cfg.no_causal_mask": (True, "no_causal_mask is True"),
    "model_cfg.text_cfg.embed_cls": (True, "embed_cls is True"),
    "model_cfg.text_cfg.pool_type": ("last", "pool_type is 'last'"),
    "model_cfg.text_cfg.proj_type": ("none", "proj_type is 'none'"),
    "model_cfg.text_cfg.heads": ("8", "a positive integer"),
    "model_cfg.text_cfg.mlp_ratio": (-4, "a positive number"),
    "model_cfg.text_cfg": ([1], "expected an object"),
    "model_cfg.quick_gelu": ("yes", "true or false"),
    "model_cfg.embed_dim": (33, "embed_dim 32, expected 33"),
    "model_cfg.vision_cfg.layers": (3, "vision.layers 2, expected 3"),
    "model_cfg.vision_cfg.image_size": (96, "vision.image_size 64, expected 96"),
    "model_cfg.text_cfg.context_length": (76, "text.context_length 77, expected 76"),
    "preprocess_cfg.mean": ([0.5, 0.5], "three numbers"),
    "preprocess_cfg.std": ([0, 1, 1], "three numbers"),
    "preprocess_cfg.interpolation": ("lanczos", "bicubic or bilinear"),
    "preprocess_cfg.resize_mode": ("longest", "shortest or squash"),
}  # fmt: skip


@pytest.mark.parametrize("key", OPEN_CLIP_REFUSALS)
def test_open_clip_configs_that_are_not_plain_clip(tmp_path, key):
    value, match = OPEN_CLIP_REFUSALS[key]
    save_tiny(tmp_path)
    _write(tmp_path / "open_clip_config.json", _changed(open_clip_config(tiny()), key, value))
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(tmp_path)


def test_heads_that_do_not_divide_the_width(tmp_path):
    save_tiny(tmp_path)
    config = _changed(open_clip_config(tiny()), "model_cfg.text_cfg.heads", 5)
    _write(tmp_path / "open_clip_config.json", config)
    with pytest.raises(CheckpointError, match="says 5 text heads, which do not divide width 64"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_layer_norm_epsilon(tmp_path, eps):
    save_tiny(tmp_path)
    config = open_clip_config(tiny())
    for tower in ("vision_cfg", "text_cfg"):
        config["model_cfg"][tower]["norm_kwargs"] = {"eps": eps}
    _write(tmp_path / "open_clip_config.json", config)
    loaded = load_checkpoint(tmp_path).config
    assert (loaded.vision.layer_norm_eps, loaded.text.layer_norm_eps) == (eps, eps)


def test_every_architecture_of_ours_is_what_open_clip_says(tmp_path):
    """The model configs of the installed open_clip, read as sidecars, against ARCHITECTURES."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None:
        pytest.skip("open_clip_torch is not installed")
    configs = Path(spec.origin).parent / "model_configs"
    for name, ours in ARCHITECTURES.items():
        model_cfg = json.loads((configs / f"{name}.json").read_text())
        declared = read_open_clip_config(
            _write(tmp_path / "open_clip_config.json", {"model_cfg": model_cfg})
        )
        assert (declared.vision_heads, declared.text_heads) == (
            ours.vision.heads,
            ours.text.heads,
        ), name
        assert declared.sizes["embed_dim"] == ours.embed_dim
        for prefix, tower in (("vision", ours.vision), ("text", ours.text)):
            stated = {k.split(".")[1]: v for k, v in declared.sizes.items() if k.startswith(prefix)}
            assert stated == {key: getattr(tower, key) for key in stated}, name


HF_REFUSALS = {
    "model_type": ("siglip", "model_type is 'siglip'"),
    "text_config.hidden_act": (
        "gelu_new",
        "hidden_act is 'gelu_new', expected 'gelu' or 'quick_gelu'",
    ),
    "vision_config.hidden_act": ("gelu_pytorch_tanh", "vision_config.hidden_act"),
    "text_config.eos_token_id": (1, "eos_token_id is 1, expected 49407"),
    "vision_config.num_attention_heads": (3, "3 vision heads, which do not divide"),
    "vision_config.hidden_size": (256, "vision.width 128, expected 256"),
    "projection_dim": (64, "embed_dim 32, expected 64"),
    "text_config.layer_norm_eps": ("small", "a positive number"),
}


@pytest.mark.parametrize("key", HF_REFUSALS)
def test_hugging_face_configs_that_are_not_clip(tmp_path, key):
    value, match = HF_REFUSALS[key]
    save_as("hf", tiny_weights(), tiny(), tmp_path)
    _write(tmp_path / "config.json", _changed(hf_config(tiny()), key, value))
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(tmp_path)


def test_the_legacy_end_of_text_token_is_the_real_one(tmp_path):
    """transformers pools at the largest id when the config says 2, and CLIP's largest id is 49407."""
    save_as("hf", tiny_weights(), tiny(), tmp_path)
    _write(tmp_path / "config.json", hf_config(tiny(), eos_token_id=2))
    assert load_checkpoint(tmp_path).config.text.eot_id == 49407


def test_what_a_hugging_face_config_leaves_out_is_transformers_default(tmp_path):
    declared = read_hf_config(_write(tmp_path / "config.json", {"model_type": "clip"}))
    assert declared.sizes["vision.patch_size"] == 32
    assert (declared.vision_heads, declared.text_heads) == (12, 8)
    assert (declared.vision_activation, declared.text_activation) == ("quick_gelu", "quick_gelu")


def test_towers_may_differ_in_activation_and_epsilon(tmp_path):
    config = hf_config(tiny())
    config["vision_config"] |= {"hidden_act": "gelu", "layer_norm_eps": 1e-6}
    save_as("hf", tiny_weights(), tiny(), tmp_path)
    _write(tmp_path / "config.json", config)
    loaded = load_checkpoint(tmp_path).config
    assert (loaded.vision.activation, loaded.text.activation) == ("gelu", "quick_gelu")
    assert (loaded.vision.layer_norm_eps, loaded.text.layer_norm_eps) == (1e-6, 1e-5)


def test_early_configs_repeat_the_towers_under_another_key(tmp_path):
    config = hf_config(tiny("gelu"))
    config["text_config_dict"], config["vision_config_dict"] = (
        config["text_config"],
        config["vision_config"],
    )
    config["text_config"] = config["vision_config"] = {"hidden_act": "quick_gelu"}
    declared = read_hf_config(_write(tmp_path / "config.json", config))
    assert (declared.vision_activation, declared.text_activation) == ("gelu", "gelu")
    assert declared.sizes["text.width"] == 64


SHORTEST = {
    "crop_size": 64,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "resample": 3,
    "size": 64,
}
CURRENT = SHORTEST | {"crop_size": {"height": 64, "width": 64}, "size": {"shortest_edge": 64}}
SQUASH = CURRENT | {
    "size": {"height": 64, "width": 64},
    "resample": 2,
    "image_mean": [0.5, 0.5, 0.5],
}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SHORTEST, PreprocessConfig()),
        (CURRENT, PreprocessConfig()),
        (SQUASH, PreprocessConfig(mean=(0.5, 0.5, 0.5), interpolation="bilinear", resize_mode="squash")),
        (SQUASH | {"do_center_crop": False, "resample": 3}, PreprocessConfig((0.5, 0.5, 0.5), resize_mode="squash")),
    ],
    ids=["early", "current", "squash", "squash_without_crop"],
)  # fmt: skip
@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
def test_hugging_face_preprocessing(tmp_path, config, expected, file):
    save_as("hf", tiny_weights(), tiny(), tmp_path)
    data = {"image_processor": config} if file.startswith("processor") else config
    _write(tmp_path / file, data)
    assert load_checkpoint(tmp_path).config == replace(
        tiny(), name=tmp_path.stem, preprocess=expected
    )


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"resample": 1}, "resample is 1, expected 3"),
        ({"resample": {"a": 1}}, "resample is"),
        ({"do_resize": False}, "do_resize is False, expected true"),
        ({"do_normalize": False}, "do_normalize is False"),
        ({"rescale_factor": 1.0}, "expected 1/255"),
        ({"crop_size": 56}, "crop_size is 56, expected a centre crop to the resized side, 64"),
        ({"do_center_crop": False}, "a centre crop"),
        ({"size": {"height": 64, "width": 32}}, "expected a square"),
        ({"size": 96, "crop_size": 96}, "vision.image_size 64, expected 96"),
        ({"image_std": [0.2, 0.2, 0.0]}, "three numbers"),
        ({"image_mean": [104.0, 117.0, 123.0]}, "three numbers in units of"),
    ],
)
def test_preprocessing_that_is_not_ours(tmp_path, change, match):
    save_as("hf", tiny_weights(), tiny(), tmp_path)
    _write(tmp_path / "preprocessor_config.json", SHORTEST | change)
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(tmp_path)


def test_a_processor_config_of_something_else_is_left_alone(tmp_path):
    save_as("hf", tiny_weights(), tiny(), tmp_path)
    _write(tmp_path / "processor_config.json", {"processor_class": "CLIPProcessor"})
    assert load_checkpoint(tmp_path).config.preprocess == PreprocessConfig()


def test_transformers_own_processor_is_read(tmp_path):
    make_torchvision_importable()
    transformers = pytest.importorskip("transformers")
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
    )
    processor.save_pretrained(tmp_path)
    declared = read_hf_preprocessor(tmp_path / "preprocessor_config.json")
    assert declared.preprocess == PreprocessConfig()
    assert declared.sizes == {"vision.image_size": 64}
