"""The table of releases is open_clip's, and says what the published weights need."""

from __future__ import annotations

import importlib.util
import json

import pytest

from clipfast.checkpoint import available_models
from clipfast.checkpoint.extract_pretrained import extract, read_table
from clipfast.checkpoint.pretrained import DATA_FILE, find_release, releases
from clipfast.config import ARCHITECTURES, OPENAI_MEAN, PreprocessConfig

NINE = [
    "RN50",
    "RN101",
    "RN50x4",
    "RN50x16",
    "RN50x64",
    "ViT-B/32",
    "ViT-B/16",
    "ViT-L/14",
    "ViT-L/14@336px",
]


def test_the_table_is_what_the_installed_open_clip_says():
    if importlib.util.find_spec("open_clip") is None:
        pytest.skip("open_clip_torch is not installed")
    assert extract(read_table()) == json.loads(DATA_FILE.read_text())


def test_the_nine_published_names_come_first():
    assert available_models()[:9] == NINE
    for name in NINE:
        release = find_release(name)
        assert release is not None
        assert (release.tag, release.activation, release.preprocess) == (
            "openai",
            "quick_gelu",
            PreprocessConfig(),
        )
        assert release.hub.startswith("timm/")
        assert release.model in ARCHITECTURES
        assert len(release.openai_sha256) == 64


def test_every_available_model_is_a_supported_release():
    for name in available_models():
        release = find_release(name)
        assert release is not None, name
        assert release.family is None
        assert release.model in ARCHITECTURES
    assert len(available_models()) == len(set(available_models())) == 79


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("RN50/yfcc15m", "quick_gelu"),
        ("ViT-B-32/laion400m_e32", "quick_gelu"),
        ("ViT-B-16/laion400m_e32", "gelu"),
        ("ViT-L-14/dfn2b", "quick_gelu"),
        ("ViT-L-14/dfn2b_s39b", "gelu"),
        ("ViT-H-14/metaclip_altogether", "gelu"),
        ("ViT-H-14/metaclip_fullcc", "quick_gelu"),
        ("ViT-bigG-14/laion2b_s39b_b160k", "gelu"),
        ("ViT-B-32-quickgelu/openai", "quick_gelu"),
        ("ViT-B-32/LAION2B-s34b-b79k", "gelu"),
    ],
)
def test_activation_of_a_release(name, activation):
    assert find_release(name).activation == activation


def test_the_27_quickgelu_releases():
    quick = [release for release in releases() if release.activation == "quick_gelu"]
    assert len(quick) == 27
    assert [release.name for release in quick if release.family] == [
        "ViT-H-14-worldwide/metaclip2_worldwide"
    ]


def test_preprocessing_that_differs_from_openais():
    assert find_release("ViT-L-14/laion2b_s32b_b82k").preprocess.mean == (0.5, 0.5, 0.5)
    assert find_release("ViT-L-14/laion400m_e32").preprocess.mean == OPENAI_MEAN
    assert find_release("ViT-H-14/dfn5b").preprocess.resize_mode == "squash"
    siglip = find_release("ViT-B-16-SigLIP/webli")
    assert (siglip.family, siglip.preprocess.resize_mode) == ("SigLIP", "squash")


@pytest.mark.parametrize(
    "name", ["ViT-B-32", "ViT-B/33", "ViT-B-32/nothing", "ViT-B-32-quickgelu/laion2b_e16", "", "/"]
)
def test_names_that_are_no_release(name):
    assert find_release(name) is None
