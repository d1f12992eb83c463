"""Names, paths, directories and hub repositories find their file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants
from safetensors.torch import save_file

from clipfast.checkpoint import load_checkpoint, source
from clipfast.checkpoint.pretrained import find_release
from clipfast.checkpoint.source import locate
from clipfast.config import ARCHITECTURES
from clipfast.errors import CheckpointError
from tests.checkpoint.archives import save_tiny, tiny_weights
from tests.checkpoint.hub_server import COMMIT, hub_of
from tests.weights import hf_config, open_clip_config, random_weights, reduced, save_as, tiny, to_hf


def _touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).write_bytes(b"")


PREFERENCE = [
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_pytorch_model.bin",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
]


@pytest.mark.parametrize("first", range(len(PREFERENCE)))
def test_the_preference_among_files_of_a_directory(tmp_path, first):
    _touch(tmp_path, *PREFERENCE[first:], "other.safetensors")
    assert locate(tmp_path).weights.name == PREFERENCE[first]
    assert locate(str(tmp_path)) == locate(tmp_path)


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.pth", "a.bin"])
def test_a_lone_file_of_any_name(tmp_path, name):
    _touch(tmp_path, name, "readme.md")
    assert locate(tmp_path).weights == tmp_path / name


def test_safetensors_before_torch_among_lone_files(tmp_path):
    _touch(tmp_path, "a.safetensors", "a.pt")
    assert locate(tmp_path).weights.name == "a.safetensors"


def test_several_files_of_one_kind_ask_for_one(tmp_path):
    _touch(tmp_path, "epoch_1.pt", "epoch_2.pt")
    with pytest.raises(
        CheckpointError, match=r"2 weight files, name one of them: epoch_1\.pt, epoch_2\.pt"
    ):
        locate(tmp_path)


def test_a_directory_without_weights(tmp_path):
    with pytest.raises(
        CheckpointError, match="no weight file in it, expected one of open_clip_model"
    ):
        locate(tmp_path)


def test_timms_image_tower_is_passed_over(tmp_path):
    """timm's repositories hold an image tower as model.safetensors beside open_clip's file."""
    _touch(tmp_path, "model.safetensors", "open_clip_pytorch_model.bin")
    (tmp_path / "config.json").write_text(
        json.dumps({"architecture": "resnet50_clip", "pretrained_cfg": {}})
    )
    assert locate(tmp_path).weights.name == "open_clip_pytorch_model.bin"


def test_a_directory_of_both_layouts_reads_open_clips_with_its_config(tmp_path):
    save_as("hf", tiny_weights(), tiny("gelu"), tmp_path)
    save_tiny(tmp_path)
    checkpoint = load_checkpoint(tmp_path)
    assert checkpoint.config.text.activation == "quick_gelu"
    assert checkpoint.source == str(tmp_path)
    direct = load_checkpoint(tmp_path / "model.safetensors")
    assert direct.config.text.activation == "gelu"
    assert direct.fingerprint == checkpoint.fingerprint


def test_demo_is_a_directory_of_the_package(tmp_path, monkeypatch):
    save_tiny(tmp_path)
    monkeypatch.setattr(source, "DEMO_DIRECTORY", tmp_path)
    assert load_checkpoint("demo").source == "demo"


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("ViT-B-32", "is an architecture, not weights; name a release: ViT-B-32/openai, "),
        ("ViT-B-32-quickgelu", "is an architecture"),
        ("ViT-B/23", "did you mean 'ViT-B/32'"),
        (
            "no such thing at all",
            r"no published name, no path and no hf-hub:organisation/name \(clipfast",
        ),
        ("hf-hub:name", "expected hf-hub:organisation/name"),
        (
            "ViT-B-16-SigLIP/webli",
            "ViT-B-16-SigLIP/webli: SigLIP is recognised but not supported yet",
        ),
        ("coca_ViT-L-14/laion2b_s13b_b90k", "CoCa is recognised"),
        ("EVA02-B-16/merged2b_s8b_b131k", "EVA-CLIP is recognised"),
        ("MobileCLIP-S1/datacompdr", "MobileCLIP is recognised"),
    ],
)
def test_names_that_lead_nowhere(name, match):
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(name)


def test_a_published_name_wins_over_a_directory_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tiny(tmp_path / "ViT-B" / "33")
    assert load_checkpoint("ViT-B/33").source == "ViT-B/33"
    (tmp_path / "ViT-B" / "32").mkdir()
    assert find_release("ViT-B/32") is not None
    with pytest.raises(CheckpointError, match="no weight file"):
        load_checkpoint("./ViT-B/32")


def test_the_reference_packages_download_is_used_when_intact(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(tmp_path))
    archive = tmp_path / ".cache" / "clip" / "ViT-B-32.pt"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"weights")
    release = find_release("ViT-B/32")
    assert source._reference_archive(release) is None
    assert "sha256 differs" in caplog.text
    intact = replace(release, openai_sha256=hashlib.sha256(b"weights").hexdigest())
    assert source._reference_archive(intact) == archive
    assert source._reference_archive(replace(intact, openai_sha256=None)) is None
    archive.unlink()
    assert source._reference_archive(intact) is None


@pytest.fixture(scope="module")
def repositories(tmp_path_factory):
    """Two repositories: transformers' layout in shards, and timm's with open_clip's file of a ViT-B/32."""
    folder = tmp_path_factory.mktemp("hub")
    save_as("hf_sharded", tiny_weights(), tiny("gelu"), folder / "sharded")
    config = reduced(ARCHITECTURES["ViT-B-32"], layers=1)
    save_as("open_clip_bin", random_weights(config), config, folder / "timm")
    (folder / "timm" / "config.json").write_text(json.dumps({"pretrained_cfg": {}}))
    (folder / "timm" / "model.safetensors").write_bytes(b"an image tower")
    (folder / "empty").mkdir()
    return {
        "org/tiny": folder / "sharded",
        "org/empty": folder / "empty",
        "timm/vit_base_patch32_clip_224.openai": folder / "timm",
    }


@pytest.fixture
def use_hub(tmp_path, monkeypatch):
    """Point huggingface_hub, which read its environment when it was imported, at an endpoint and an empty cache."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE
    path = template.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path))

    def use(endpoint: str, *, offline: bool = False) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + path)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)

    return use


def test_the_hub_is_asked_once_then_the_cache_serves(repositories, use_hub):
    names = ["hf-hub:org/tiny", f"hf-hub:org/tiny@{COMMIT}", "ViT-B/32", "ViT-B-32/openai"]

    def load_all() -> list[tuple[str, str, str]]:
        loaded = [load_checkpoint(name) for name in names]
        return [(c.source, c.config.text.activation, c.fingerprint) for c in loaded]

    with hub_of(repositories) as (endpoint, requests):
        use_hub(endpoint)
        loaded = load_all()
        assert [name for name, _, _ in loaded] == names
        assert [activation for _, activation, _ in loaded] == [
            "gelu",
            "gelu",
            "quick_gelu",
            "quick_gelu",
        ]
        assert len({fingerprint for _, _, fingerprint in loaded}) == 2
        downloads = [request for request in requests if request.startswith("GET")]
        assert not [
            request
            for request in downloads
            if "timm/" in request and "model.safetensors" in request
        ]
        assert len([request for request in downloads if "model-00002-of-00003" in request]) == 1
        requests.clear()
        assert load_all() == loaded
        assert requests == []
    use_hub(endpoint, offline=True)
    assert load_all() == loaded


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("hf-hub:org/absent", "hf-hub:org/absent: no such repository or revision"),
        ("hf-hub:org/tiny@v9", "hf-hub:org/tiny: no such repository or revision"),
        ("hf-hub:org/empty", "hf-hub:org/empty: holds no weight file that clipfast reads"),
    ],
)
def test_what_the_hub_does_not_have(repositories, use_hub, name, match):
    with hub_of(repositories) as (endpoint, _):
        use_hub(endpoint)
        with pytest.raises(CheckpointError, match=match):
            load_checkpoint(name)


@pytest.mark.parametrize(
    "offline", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["offline", "no_route"]
)
def test_without_hub_and_cache_the_error_says_how_to_get_the_weights(use_hub, offline):
    use_hub("http://127.0.0.1:9", offline=offline)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint("RN50")
    message = str(caught.value)
    assert (
        "hf-hub:timm/resnet50_clip.openai: not in the local cache, and the hub cannot be reached"
        in message
    )
    assert "run `hf download timm/resnet50_clip.openai`" in message


def test_the_reference_packages_download_serves_without_a_hub(tmp_path, use_hub, monkeypatch):
    use_hub("http://127.0.0.1:9", offline=True)
    config = reduced(ARCHITECTURES["ViT-B-32"], layers=1).with_activation("quick_gelu")
    archive = save_as("openai_jit", random_weights(config), config, tmp_path / ".cache" / "clip")
    intact = replace(
        find_release("ViT-B/32"), openai_sha256=hashlib.sha256(archive.read_bytes()).hexdigest()
    )
    monkeypatch.setattr(source, "find_release", lambda name: intact)
    assert load_checkpoint("ViT-B/32").config == config


def test_sidecars_beside_a_single_file(tmp_path):
    """A file given by its path is described by the config of its own layout in the same folder."""
    save_file(to_hf(tiny_weights()), tmp_path / "hf.safetensors")
    save_file(tiny_weights(), tmp_path / "oc.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(hf_config(tiny("gelu"))))
    with pytest.raises(CheckpointError, match="do not tell"):
        load_checkpoint(tmp_path / "oc.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps(open_clip_config(tiny())))
    assert load_checkpoint(tmp_path / "hf.safetensors").config.text.activation == "gelu"
    assert load_checkpoint(tmp_path / "oc.safetensors").config.text.activation == "quick_gelu"
    (tmp_path / "config.json").unlink()
    assert load_checkpoint(tmp_path / "hf.safetensors").config.text.activation == "quick_gelu"
