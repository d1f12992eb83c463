"""Writes pretrained.json from the table of releases in an installed open_clip_torch (MIT licence).

    python -m clipfast.checkpoint.extract_pretrained

A development tool: facts that tensors cannot tell (activation, preprocessing) and where each release is kept.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from clipfast.checkpoint.pretrained import DATA_FILE
from clipfast.config import ARCHITECTURES, OPENAI_MEAN, OPENAI_STD

# A model name that is no plain CLIP architecture, and its family's name; the first match holds.
_FAMILIES = (
    (r"nllb", "NLLB-CLIP"),
    (r"SigLIP", "SigLIP"),
    (r"CLIPA", "CLIPA"),
    (r"EVA0", "EVA-CLIP"),
    (r"MobileCLIP", "MobileCLIP"),
    (r"PE-Core", "Perception Encoder"),
    (r"worldwide", "MetaCLIP 2"),
    (r"ViTamin", "ViTamin"),
    (r"convnext", "CLIP ConvNeXt"),
    (r"coca", "CoCa"),
    (r"roberta", "CLIP with a RoBERTa text tower"),
)
_DEFAULTS: dict[str, Any] = {
    "mean": list(OPENAI_MEAN),
    "std": list(OPENAI_STD),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
    "quick_gelu": False,
}


def extract(table: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Releases of open_clip's `_PRETRAINED`, without its -quickgelu aliases; defaults are left out."""
    releases = []
    for model, tags in table.items():
        if model.endswith("-quickgelu"):
            continue
        for tag, entry in tags.items():
            release: dict[str, Any] = {
                "model": model,
                "tag": tag,
                "hub": entry["hf_hub"].rstrip("/"),
            }
            if model not in ARCHITECTURES:
                release["family"] = next(
                    name for pattern, name in _FAMILIES if re.search(pattern, model)
                )
            checksum = re.search(r"openaipublic.*/([0-9a-f]{64})/", entry["url"])
            if checksum:
                release["openai_sha256"] = checksum[1]
            stated = json.loads(json.dumps(dict(entry)))
            release |= {
                k: stated[k] for k in _DEFAULTS if stated.get(k, _DEFAULTS[k]) != _DEFAULTS[k]
            }
            releases.append(release)
    return releases


def read_table() -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """open_clip's table, from the one module that holds it: the package itself would import torchvision."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(
            "open_clip_torch is not installed: pip install open_clip_torch --no-deps"
        )
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_open_clip(name)}
    package = ModuleType("open_clip")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["open_clip"] = package
    try:
        table = importlib.import_module("open_clip.pretrained")
    finally:
        for name in [name for name in sys.modules if _is_open_clip(name)]:
            del sys.modules[name]
        sys.modules.update(hidden)
    return table._PRETRAINED  # type: ignore[no-any-return]  # noqa: SLF001 (no public view of it)


def _is_open_clip(module: str) -> bool:
    return module == "open_clip" or module.startswith("open_clip.")


def main() -> int:
    lines = ",\n".join(json.dumps(release) for release in extract(read_table()))
    DATA_FILE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
