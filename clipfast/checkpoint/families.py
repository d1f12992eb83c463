"""Model families that are recognised by their tensor names and not supported: an error with a name, not a riddle."""

from __future__ import annotations

import re

from clipfast.errors import CheckpointError

# Ordered: the first pattern that matches any tensor name decides.
_UNSUPPORTED = (
    ("SigLIP (sigmoid loss)", r"logit_bias$|vision_model\.head\.probe$|params/img/"),
    ("MobileCLIP", r"image_encoder\.model\.|visual\.trunk\..*(reparam_conv|conv_kxk|token_mixer)"),
    (
        "EVA-CLIP (EVA01, EVA02)",
        r"visual\.(trunk\..*(fc1_g|fc1_x|w12|q_bias|attn\.q_proj|rope)|blocks\.\d+\.)",
    ),
    ("CoCa", r"text_decoder\.|visual\.attn_pool\."),
    ("CLIP with an image tower from timm (ConvNeXt, ViTamin, ...)", r"visual\.trunk\."),
    (
        "CLIP with a Hugging Face text tower",
        r"text\.(transformer\.(encoder|embeddings|layers|block|shared)|proj)\.",
    ),
    ("Chinese-CLIP or AltCLIP (BERT text tower)", r"bert\.|text_model\.(roberta|bert)\."),
    ("BLIP or ALBEF", r"(visual_encoder|text_encoder)\."),
    ("CLIP with LayerScale", r".*\.ls_[12]\.gamma$"),
    ("CLIP with query-key normalisation", r".*\.attn\.ln_[qk]\."),
    ("CLIP with extra norms in its blocks (NormFormer)", r".*\.(attn\.ln_out|ln_attn|mlp\.ln)\."),
)


def refuse_unsupported_family(names: list[str]) -> None:
    """Raise CheckpointError naming the family when the tensor names are those of one that cannot be loaded yet."""
    for family, pattern in _UNSUPPORTED:
        compiled = re.compile(pattern)
        example = next((name for name in names if compiled.match(name)), None)
        if example is not None:
            raise unsupported_family(family, f"it has the tensor {example}")


def unsupported_family(family: str, evidence: str) -> CheckpointError:
    """The error for a model that is recognised and cannot be loaded."""
    return CheckpointError(
        f"{family} is recognised but not supported yet ({evidence}); plain CLIP is: OpenAI, open_clip and "
        "Hugging Face CLIPModel weights with ViT or ResNet image towers"
    )
