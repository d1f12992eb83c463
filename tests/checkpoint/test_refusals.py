"""What cannot be loaded says why: the file, what was found, what was expected, what to pass."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from clipfast.checkpoint import load_checkpoint
from clipfast.checkpoint.verify import is_finite
from clipfast.errors import CheckpointError
from tests.checkpoint.archives import save_tiny, tiny_weights
from tests.weights import (
    hf_config,
    open_clip_config,
    tiny,
    to_hf,
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


BLOCK = "visual__transformer__resblocks__1"


def test_missing_tensors_are_listed_with_their_shape(tmp_path):
    changes = {f"{BLOCK}__ln_1__weight": None, f"{BLOCK}__attn__in_proj_bias": None}
    _refused(
        save_tiny(tmp_path, **changes),
        r"missing visual\.transformer\.resblocks\.1\.ln_1\.weight \(128,\)",
        r"missing visual\.transformer\.resblocks\.1\.attn\.in_proj_bias \(384,\)",
    )


@pytest.mark.parametrize(
    "name",
    [
        "visual.conv1.weight",
        "visual.positional_embedding",
        "token_embedding.weight",
        "text_projection",
        "positional_embedding",
        "logit_scale",
        "ln_final.bias",
    ],
)
def test_a_missing_tensor_is_named(tmp_path, name):
    _refused(save_tiny(tmp_path, **{name.replace(".", "__"): None}), rf"missing {re.escape(name)}")


def test_unexpected_tensors_are_listed(tmp_path):
    _refused(
        save_tiny(tmp_path, adapter__weight=torch.ones(3, 4)),
        r"unexpected adapter\.weight \(3, 4\)",
    )
    hf = to_hf(tiny_weights()) | {"text_model.prompt": torch.ones(3)}
    _refused(_save(hf, tmp_path), r"unexpected text_model\.prompt")


def test_mismatched_tensors_are_listed_with_both_shapes(tmp_path):
    _refused(
        save_tiny(tmp_path, **{f"{BLOCK}__mlp__c_fc__weight": torch.ones(512, 64)}),
        r"mismatched visual\.transformer\.resblocks\.1\.mlp\.c_fc\.weight: shape \(512, 64\), expected \(512, 128\)",
    )


def test_transposed_names_are_mismatches(tmp_path):
    weights = tiny_weights()
    swapped = {}
    for name, tensor in weights.items():
        other = (
            name.replace("c_fc.weight", "c_proj.weight")
            if "c_fc" in name
            else name.replace("c_proj.weight", "c_fc.weight")
        )
        swapped[other] = tensor
    (tmp_path / "open_clip_config.json").write_text(json.dumps(open_clip_config(tiny())))
    _refused(_save(swapped, tmp_path), "mlp_width|mismatched")


@pytest.mark.parametrize(
    ("name", "tensor", "match"),
    [
        ("visual.conv1.weight", torch.ones(128, 3), "expected 4 dimensions"),
        ("visual.positional_embedding", torch.ones(13, 128), "13 rows, expected a square number plus one"),
        ("token_embedding.weight", torch.ones(0, 64), "expected 2 dimensions"),
        ("logit_scale", torch.ones(2), r"mismatched logit_scale: shape \(2,\), expected \(\)"),
        ("ln_final.weight", torch.ones(64, 1), r"mismatched ln_final\.weight: shape \(64, 1\)"),
    ],
)  # fmt: skip
def test_misshapen_tensors(tmp_path, name, tensor, match):
    _refused(save_tiny(tmp_path, **{name.replace(".", "__"): tensor}), match)


def test_hugging_face_parts_that_do_not_fit(tmp_path):
    hf = to_hf(tiny_weights())
    key = "vision_model.encoder.layers.0.self_attn.k_proj.weight"
    (tmp_path / "config.json").write_text(json.dumps(hf_config(tiny())))
    without = {name: tensor for name, tensor in hf.items() if name != key}
    _refused(_save(without, tmp_path), "in_proj_weight has 2 of its 3 parts", r"q_proj\.weight")
    _refused(_save(hf | {key: torch.ones(128, 64)}, tmp_path), "differ in shape or dtype")
    _refused(_save(hf | {key: torch.ones(128, 128).half()}, tmp_path), "differ in shape or dtype")


def test_a_tensor_that_two_names_fill(tmp_path):
    both = tiny_weights() | {"text_projection.weight": torch.ones(32, 64)}
    _refused(_save(both, tmp_path), "both fill text_projection")


def test_long_lists_are_cut(tmp_path):
    weights = tiny_weights() | {f"extra.{i}": torch.ones(1) for i in range(40)}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(open_clip_config(tiny())))
    _refused(_save(weights, tmp_path), "and 28 more")


def test_unknown_layouts_show_the_keys(tmp_path):
    _refused(
        _save({"encoder.weight": torch.ones(2), "decoder.weight": torch.ones(2)}, tmp_path),
        "unknown layout: 2 tensors",
        r"decoder\.weight, encoder\.weight",
    )


@pytest.mark.parametrize(
    ("prefix", "match"),
    [("text_model.", "the text tower"), ("vision_model.", "the image tower"), ("visual.", "the image tower")],
)  # fmt: skip
def test_one_tower_alone(tmp_path, prefix, match):
    weights = tiny_weights() if prefix == "visual." else to_hf(tiny_weights())
    _refused(
        _save({k: v for k, v in weights.items() if k.startswith(prefix)}, tmp_path),
        f"{match} alone",
    )


# One telling tensor of each family that is recognised and not supported.
FAMILIES = {
    "visual.trunk.attn_pool.latent": "timm",
    "logit_bias": "SigLIP",
    "vision_model.head.probe": "SigLIP",
    "visual.trunk.blocks.0.mlp.fc1_g.weight": "EVA-CLIP",
    "visual.blocks.0.attn.q_bias": "EVA-CLIP",
    "image_encoder.model.conv_stem.0.weight": "MobileCLIP",
    "visual.trunk.stem.0.conv_kxk.0.conv.weight": "MobileCLIP",
    "visual.attn_pool.query": "CoCa",
    "text_decoder.resblocks.0.ln_1.weight": "CoCa",
    "visual.trunk.stages.0.blocks.0.conv_dw.weight": "timm",
    "text.transformer.encoder.layer.0.attention.self.query.weight": "Hugging Face text tower",
    "bert.embeddings.word_embeddings.weight": "Chinese-CLIP",
    "text_encoder.embeddings.word_embeddings.weight": "BLIP",
    "visual.transformer.resblocks.0.ls_1.gamma": "LayerScale",
    "transformer.resblocks.0.attn.ln_q.weight": "query-key normalisation",
    "visual.transformer.resblocks.0.ln_attn.weight": "NormFormer",
}


@pytest.mark.parametrize("name", FAMILIES)
def test_unsupported_families_are_named(tmp_path, name):
    path = _save(tiny_weights() | {name: torch.ones(2)}, tmp_path)
    _refused(path, FAMILIES[name], "recognised but not supported yet", re.escape(name))


@pytest.mark.parametrize("vocabulary", [32000, 901629 // 100, 49409])
def test_other_vocabularies_are_refused(tmp_path, vocabulary):
    path = save_tiny(tmp_path, token_embedding__weight=torch.zeros(vocabulary, 64))
    _refused(path, f"a vocabulary of {vocabulary}", "49408")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("position", [0, 70_000, -1])
def test_non_finite_weights_are_refused(tmp_path, value, dtype, position):
    tensor = torch.ones(49408 * 64, dtype=dtype)
    tensor[position] = value
    path = save_tiny(tmp_path, token_embedding__weight=tensor.reshape(49408, 64))
    _refused(path, r"NaN or infinite weights in token_embedding\.weight")


def test_is_finite_agrees_with_torch_on_halves():
    """One pattern of float16 and bfloat16 in 37, and all those around infinity, one at a time."""
    around = [
        mask + sign + i
        for mask in (0x7C00, 0x7F80)
        for sign in (0, -0x8000)
        for i in (-2, -1, 0, 1, 2)
    ]
    patterns = torch.tensor([*range(-(2**15), 2**15, 37), *around, 0x7FFF, -1]).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        values = patterns.view(dtype)
        assert [is_finite(v) for v in values.split(1)] == values.isfinite().tolist()
    for dtype in (torch.float32, torch.float64):
        limits = torch.finfo(dtype)
        extremes = torch.tensor(
            [0.0, -0.0, limits.max, limits.min, limits.smallest_normal, limits.tiny / 2],
            dtype=dtype,
        )
        assert is_finite(extremes)
        assert is_finite(-extremes)
        for bad in (math.nan, math.inf, -math.inf):
            assert not is_finite(torch.tensor([1.0, bad, 2.0], dtype=dtype))
            assert not is_finite(torch.full((3, 4), bad, dtype=dtype).t())


@pytest.mark.parametrize("scale", [100.0, math.log(201), math.log(0.0009), -100.0])
def test_a_logit_scale_that_is_no_log_is_refused(tmp_path, scale):
    _refused(
        save_tiny(tmp_path, logit_scale=torch.tensor(scale)), "logit_scale is", "the log of a scale"
    )


def test_integer_weights_are_refused(tmp_path):
    quantised = torch.ones(512, 128, dtype=torch.int8)
    path = save_tiny(tmp_path, **{f"{BLOCK}__mlp__c_fc__weight": quantised})
    _refused(path, "expected floating-point weights", r"c_fc\.weight is torch\.int8")
