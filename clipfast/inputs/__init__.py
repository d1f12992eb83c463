"""Images and texts to what the towers read: exact pixels and exact token ids."""

from clipfast.inputs.batches import PixelBatch, image_batches
from clipfast.inputs.decode import EXACT, Decode, DecodeOptions
from clipfast.inputs.preprocess import preprocess_image
from clipfast.inputs.resize import resize_crop
from clipfast.inputs.tokenizer import PackedTexts, Tokenizer, load_tokenizer

__all__ = [
    "EXACT",
    "Decode",
    "DecodeOptions",
    "PackedTexts",
    "PixelBatch",
    "Tokenizer",
    "image_batches",
    "load_tokenizer",
    "preprocess_image",
    "resize_crop",
]
