"""The CLIP towers: wiring only. Every number is computed by an operation of `ops.Ops`."""

from clipfast.model.resnet import encode_resnet
from clipfast.model.text import TextRows, encode_text, text_tokens
from clipfast.model.vision import encode_vision, vision_tokens

__all__ = [
    "TextRows",
    "encode_resnet",
    "encode_text",
    "encode_vision",
    "text_tokens",
    "vision_tokens",
]
