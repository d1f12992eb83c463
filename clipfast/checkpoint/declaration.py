"""What is said about a model beside its tensors: by a config file, a release, the caller, or the kind of file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipfast.config import Activation, PreprocessConfig
from clipfast.errors import CheckpointError

MAX_JSON_BYTES = 64 * 1024 * 1024
CLIP_VOCABULARY = 49408
CLIP_EOT = 49407


@dataclass(frozen=True)
class Declaration:
    """Facts that tensors cannot tell, with the words that name where they come from; None where nothing is said.

    sizes: facts that the tensors do tell ("vision.width", "text.layers", ...) and must agree with.
    """

    origin: str
    vision_heads: int | None = None
    text_heads: int | None = None
    vision_activation: Activation | None = None
    text_activation: Activation | None = None
    vision_eps: float | None = None
    text_eps: float | None = None
    preprocess: PreprocessConfig | None = None
    sizes: Mapping[str, Any] = field(default_factory=dict)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises: CheckpointError when it is unreadable, too large, or not an object."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(f"{path}: larger than {MAX_JSON_BYTES} bytes, not a config")
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({str(error)[:200]})") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return data


class ConfigSection:
    """One object of a config file, read with types and defaults; errors name the file and the key."""

    def __init__(self, path: Path, data: Mapping[str, Any], name: str = "") -> None:
        self.path = path
        self.data = data
        self.name = name

    def section(self, key: str) -> ConfigSection:
        value = self.data.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.error(key, value, "an object")
        return ConfigSection(self.path, value, f"{self.name}{key}.")

    def _value(self, key: str, default: Any) -> Any:
        value = self.data.get(key)
        return default if value is None else value

    def integer(self, key: str, default: int) -> int:
        value = self._value(key, default)
        if isinstance(value, (list, tuple)) and len(set(value)) == 1:  # a square as [side, side]
            value = value[0]
        if type(value) is not int or not 0 < value < 2**31:
            raise self.error(key, value, "a positive integer")
        return value

    def number(self, key: str, default: float) -> float:
        value = self._value(key, default)
        if type(value) not in (int, float) or not 0 < value < 1e9:
            raise self.error(key, value, "a positive number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._value(key, default)
        if type(value) is not bool:
            raise self.error(key, value, "true or false")
        return value

    def triple(
        self, key: str, default: tuple[float, float, float], *, positive: bool = False
    ) -> tuple[float, float, float]:
        value = self.data.get(key)
        if value is None:
            return default
        numbers = [n for n in value if type(n) in (int, float)] if isinstance(value, list) else []
        low = 1e-6 if positive else 0.0
        if len(numbers) != 3 or not all(low <= n <= 1.0 for n in numbers):
            raise self.error(key, value, "three numbers in units of [0, 1] pixels")
        return float(numbers[0]), float(numbers[1]), float(numbers[2])

    def error(self, key: str, value: Any, expected: str) -> CheckpointError:
        got = repr(value)[:100]
        return CheckpointError(f"{self.path}: {self.name}{key} is {got}, expected {expected}")
