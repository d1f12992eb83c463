"""What 8-bit precisions cost one model on its user's own images and texts, kept beside the weights.

`Model.calibrate` measures it; `load(precision="auto")` then takes the first 8-bit precision that costs little enough.
The file names the weights by their fingerprint: of other weights in the same place it says nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from clipfast.checkpoint import Checkpoint
from clipfast.errors import ConfigurationError

# The fastest first.
EIGHT_BIT = ("fp8", "int8")
LEAST_COSINE = 0.999

# Precision -> {"images": ..., "texts": ...}: the lowest cosine of its rows to those of fp32.
Cosines = Mapping[str, Mapping[str, float]]


def store(checkpoint: Checkpoint, cosines: Cosines) -> Path:
    """Keep what was measured. Returns the file.

    Raises:
        ConfigurationError: the weights are no file, or their folder cannot be written to.
    """
    path = _path(checkpoint)
    if path is None:
        raise ConfigurationError(
            f"{checkpoint.source} is no file that a calibration could lie beside"
        )
    content = {"fingerprint": checkpoint.fingerprint, "lowest_cosines_to_fp32": cosines}
    try:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"cannot write {path} ({error.strerror}): copy the weights to a folder of yours and load them from there"
        ) from error
    return path


def calibrated(checkpoint: Checkpoint, served: Callable[[str], bool]) -> str | None:
    """The fastest 8-bit precision that is served here and was measured to be good enough, or None.

    Args:
        served: whether a precision can be loaded on this device.
    Raises:
        ConfigurationError: the file beside the weights is not what `store` wrote.
    """
    path = _path(checkpoint)
    if path is None or not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        cosines: Cosines = content["lowest_cosines_to_fp32"]
        good = [
            name for name in EIGHT_BIT if min(cosines.get(name, {"": 0.0}).values()) >= LEAST_COSINE
        ]
        same = content["fingerprint"] == checkpoint.fingerprint if good else False
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{path} is damaged ({error}): delete it, or calibrate the model again"
        ) from error
    return next((name for name in good if same and served(name)), None)


def _path(checkpoint: Checkpoint) -> Path | None:
    weights = checkpoint.weights
    return None if weights is None else weights.with_name(f"{weights.name}.calibration.json")
