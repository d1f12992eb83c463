"""The same numbers saved in every layout are read as the same canonical tensors and the same model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.peers.modules import make_torchvision_importable
from clipfast.checkpoint import load_checkpoint
from clipfast.config import ARCHITECTURES, PreprocessConfig
from tests.checkpoint.archives import tiny_weights, torch_bytes
from tests.weights import (
    LAYOUTS,
    RESNET_LAYOUTS,
    SAYS_ITS_CONFIG,
    hf_config,
    is_half_in_openai,
    load_arguments,
    open_clip_config,
    random_weights,
    reduced,
    round_like_openai,
    save_as,
    tiny,
    tiny_resnet,
    to_custom_text,
    to_hf,
)

CASES = [("vit", layout) for layout in LAYOUTS] + [("resnet", layout) for layout in RESNET_LAYOUTS]
CONFIGS = {"vit": tiny(), "resnet": tiny_resnet()}


@pytest.fixture(scope="module")
def weights():
    return {name: round_like_openai(random_weights(config)) for name, config in CONFIGS.items()}


def _save_with_config(layout: str, weights, config, folder: Path) -> Path:
    """The saved file, with open_clip's config beside it where the layout does not say its own."""
    path = save_as(layout, weights, config, folder)
    if layout not in SAYS_ITS_CONFIG:
        (folder / "open_clip_config.json").write_text(json.dumps(open_clip_config(config)))
    return path


@pytest.mark.parametrize(("family", "layout"), CASES, ids=[f"{f}-{layout}" for f, layout in CASES])
def test_canonical_tensors_and_config(tmp_path, weights, family, layout):
    config, expected = CONFIGS[family], weights[family]
    checkpoint = load_checkpoint(_save_with_config(layout, expected, config, tmp_path / "saved"))
    assert replace(checkpoint.config, name=config.name) == config
    canonical = {name for name in expected if not name.endswith("num_batches_tracked")}
    assert checkpoint.tensors.keys() == canonical
    for name in canonical:
        half = layout == "openai_jit" and is_half_in_openai(name)
        tensor = checkpoint.tensors[name]
        assert tensor.dtype == (torch.float16 if half else torch.float32), name
        assert torch.equal(tensor.float(), expected[name]), name
    assert checkpoint.tensors["logit_scale"].shape == ()


def test_the_fingerprint_is_of_the_weights_not_of_the_file(tmp_path, weights):
    found = {
        layout: load_checkpoint(
            _save_with_config(layout, weights["vit"], tiny(), tmp_path / layout)
        ).fingerprint
        for layout in LAYOUTS
        if layout != "openai_jit"  # other dtypes are other weights
    }
    assert len(set(found.values())) == 1, found
    assert all(len(value) == 64 for value in found.values())
    other = tiny_weights(ln_final__bias=torch.zeros(64))
    path = _save_with_config("state_dict", round_like_openai(other), tiny(), tmp_path / "other")
    assert load_checkpoint(path).fingerprint not in found.values()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("layout", ["state_dict", "open_clip_safetensors", "hf", "hf_bin"])
def test_stored_dtypes_are_kept(tmp_path, weights, dtype, layout):
    stored = {name: tensor.to(dtype) for name, tensor in weights["vit"].items()}
    checkpoint = load_checkpoint(_save_with_config(layout, stored, tiny(), tmp_path))
    for name, tensor in checkpoint.tensors.items():
        assert tensor.dtype == dtype
        assert torch.equal(tensor, stored[name]), name


@pytest.mark.parametrize(
    "layout", ["legacy", "protocol_4", "parameters", "transposed_views", "no_checksums"]
)
def test_other_ways_of_torch_save(tmp_path, weights, layout):
    stored = dict(weights["vit"])
    options = {}
    if layout == "legacy":
        options = {"_use_new_zipfile_serialization": False}
    elif layout == "protocol_4":
        options = {"pickle_protocol": 4}
    elif layout == "parameters":
        stored = {name: torch.nn.Parameter(tensor) for name, tensor in stored.items()}
    elif layout == "transposed_views":
        stored["visual.proj"] = stored["visual.proj"].t().contiguous().t()
        stored["text_projection"] = stored["text_projection"].repeat(2, 1)[64:]
    with _checksums(layout != "no_checksums"):
        (tmp_path / "model.pt").write_bytes(torch_bytes(stored, **options))
    (tmp_path / "open_clip_config.json").write_text(json.dumps(open_clip_config(tiny())))
    checkpoint = load_checkpoint(tmp_path)
    for name, tensor in checkpoint.tensors.items():
        assert torch.equal(tensor, weights["vit"][name]), name


@contextmanager
def _checksums(enabled: bool) -> Iterator[None]:
    torch.serialization.set_crc32_options(enabled)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(True)


def test_buffers_that_published_files_carry_are_dropped(tmp_path, weights):
    for folder, extra in (
        ("hf", {"text_model.embeddings.position_ids": torch.arange(77)[None],
                "vision_model.embeddings.position_ids": torch.arange(17)[None]}),
        ("openai", {"input_resolution": torch.tensor(64), "context_length": torch.tensor(77),
                    "vocab_size": torch.tensor(49408), "attn_mask": torch.zeros(77, 77)}),
    ):  # fmt: skip
        (tmp_path / folder).mkdir()
        if folder == "hf":
            stored, config, name = to_hf(weights["vit"]), hf_config(tiny()), "config.json"
        else:
            stored, config, name = weights["vit"], open_clip_config(tiny()), "open_clip_config.json"
        save_file(stored | extra, tmp_path / folder / "model.safetensors")
        (tmp_path / folder / name).write_text(json.dumps(config))
        assert load_checkpoint(tmp_path / folder).tensors.keys() == weights["vit"].keys()


def test_a_logit_scale_of_one_element_becomes_a_scalar(tmp_path, weights):
    stored = weights["vit"] | {"logit_scale": torch.tensor([math.log(100.0)])}
    checkpoint = load_checkpoint(save_as("open_clip_directory", stored, tiny(), tmp_path))
    assert checkpoint.tensors["logit_scale"].shape == ()
    assert math.exp(checkpoint.tensors["logit_scale"]) == pytest.approx(100.0, rel=1e-6)


def test_long_clip_positions_come_from_both_tables(tmp_path):
    config = reduced(tiny(), context_length=248)
    weights = random_weights(config)
    kept, trained = weights["positional_embedding"], torch.randn(248, 64)
    save_as(
        "open_clip_directory", weights | {"positional_embedding_res": trained}, config, tmp_path
    )
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.config.text.context_length == 248
    assert torch.equal(
        checkpoint.tensors["positional_embedding"], torch.cat([kept[:20], trained[20:]])
    )


@pytest.mark.parametrize("layout", ["open_clip_directory", "hf"])
def test_longer_context_comes_from_the_shape(tmp_path, layout):
    config = reduced(tiny(), context_length=248)
    checkpoint = load_checkpoint(save_as(layout, random_weights(config), config, tmp_path))
    assert checkpoint.config.text.context_length == 248
    assert checkpoint.tensors["positional_embedding"].shape == (248, 64)


def _is_small(name: str) -> bool:
    return name.startswith("ViT-B") or name in ("RN50", "RN101")


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if _is_small(name)])
@pytest.mark.parametrize("layout", ["openai_jit", "open_clip_safetensors"])
def test_published_widths_at_reduced_depth(tmp_path, name, layout):
    activation = "quick_gelu" if layout == "openai_jit" or name.startswith("RN") else "gelu"
    config = reduced(ARCHITECTURES[name], layers=1).with_activation(activation)
    path = save_as(layout, random_weights(config), config, tmp_path)
    assert load_checkpoint(path, **load_arguments(layout, config)).config == config


_LARGE = [
    (name, layout)
    for name in ARCHITECTURES
    for layout in ("openai_jit", "custom_text", "hf_sharded")
    if not _is_small(name)
    and not (name.startswith("RN") and layout == "hf_sharded")  # transformers has no ResNet
    and not (
        layout == "openai_jit" and ARCHITECTURES[name].vision.width in (1280, 1408, 1664)
    )  # heads of 64
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layout"), _LARGE)
def test_published_large_widths_at_reduced_depth(tmp_path, name, layout):
    config = reduced(ARCHITECTURES[name], layers=1)
    if layout == "openai_jit" or name.startswith("RN") or name == "ViT-L-14-336":
        config = config.with_activation("quick_gelu")
    elif (
        name == "ViT-H-14-378"
    ):  # its one release, which a bare file is taken to be like, squashes images
        config = replace(config, preprocess=replace(config.preprocess, resize_mode="squash"))
    weights = random_weights(config)
    path = save_as(layout, weights, config, tmp_path)
    if layout == "hf_sharded":
        config = replace(config, preprocess=PreprocessConfig())
    checkpoint = load_checkpoint(path, **load_arguments(layout, config))
    assert replace(checkpoint.config, name=name) == config
    for part in (
        "visual.positional_embedding",
        "transformer.resblocks.0.attn.in_proj_weight",
        "text_projection",
    ):
        if part in weights:
            assert torch.equal(
                checkpoint.tensors[part], weights[part].to(checkpoint.tensors[part].dtype)
            )


def test_the_names_are_those_of_transformers_own_model():
    make_torchvision_importable()
    transformers = pytest.importorskip("transformers")
    model = transformers.CLIPModel(transformers.CLIPConfig(**hf_config(tiny())))
    assert model.load_state_dict(to_hf(tiny_weights()), strict=False).missing_keys == []
    assert model.state_dict().keys() - {"logit_scale"} <= to_hf(tiny_weights()).keys()
    fields = model.config.to_dict()
    assert fields["vision_config"]["num_attention_heads"] == tiny().vision.heads


def test_transformers_reads_and_writes_what_we_read(tmp_path, weights):
    make_torchvision_importable()
    transformers = pytest.importorskip("transformers")
    model = transformers.CLIPModel(transformers.CLIPConfig(**hf_config(tiny("gelu"))))
    model.load_state_dict(to_hf(weights["vit"]))
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="5MB")
    assert (tmp_path / "shards" / "model.safetensors.index.json").exists()
    for folder in ("whole", "shards"):
        checkpoint = load_checkpoint(tmp_path / folder)
        assert replace(checkpoint.config, name="tiny") == tiny("gelu")
        for name, tensor in checkpoint.tensors.items():
            assert torch.equal(tensor, weights["vit"][name]), name


def test_custom_text_names_differ_from_built_in_ones_only_in_the_text_tower():
    custom = to_custom_text(tiny_weights())
    assert custom.keys() & tiny_weights().keys() == {
        name for name in tiny_weights() if name.startswith("visual.") or name == "logit_scale"
    }


def test_preprocessing_of_the_sidecar_is_taken(tmp_path):
    pixels = PreprocessConfig((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", "squash")
    config = replace(tiny(), preprocess=pixels)
    assert (
        load_checkpoint(
            save_as("open_clip_directory", tiny_weights(), config, tmp_path)
        ).config.preprocess
        == pixels
    )
