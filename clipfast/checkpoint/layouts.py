"""From a file's tensor names to the canonical (OpenAI) ones: one ordered table of rules per layout.

Canonical names: `visual.*`, `transformer.*`, `token_embedding.weight`, `positional_embedding`, `ln_final.*`,
`text_projection` [T, E], `visual.proj` [W, E], `logit_scale` (0-d, log scale). Every rule makes a view; a canonical
tensor that a file stores in parts (query, key and value apart) is concatenated when it is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from clipfast.checkpoint.families import refuse_unsupported_family
from clipfast.errors import CheckpointError

Tensor = torch.Tensor
_LONG_CLIP_KEPT = (
    20  # Long-CLIP keeps the first 20 positions of CLIP and trains the rest (arXiv:2403.15378, 3.2)
)


def _whole(tensor: Tensor) -> Tensor:
    return tensor


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.t() if tensor.ndim == 2 else tensor


def _scalar(tensor: Tensor) -> Tensor:
    return tensor.reshape(()) if tensor.numel() == 1 else tensor


def _kept_positions(tensor: Tensor) -> Tensor:
    return tensor[:_LONG_CLIP_KEPT]


def _trained_positions(tensor: Tensor) -> Tensor:
    return tensor[_LONG_CLIP_KEPT:]


@dataclass(frozen=True)
class Rule:
    """Source names that match `pattern` fill `canonical` (a regex template), as its part number `part` of `parts`."""

    pattern: str
    canonical: str
    view: Callable[[Tensor], Tensor] = _whole
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Layout:
    """Names of one publisher. vision, text: what the names of each tower begin with (regexes)."""

    name: str
    vision: str
    text: str
    rules: tuple[Rule, ...]


OPENAI_LAYOUT = "OpenAI"
HF_LAYOUT = "Hugging Face CLIPModel"
_IGNORED = re.compile(
    r"(input_resolution|context_length|vocab_size|(.*\.)?attn_mask|.*\.num_batches_tracked|.*\.position_ids)"
)
_PROJECTION = Rule(r"(text\.)?text_projection\.weight", "text_projection", _transposed)
_LOGIT_SCALE = Rule(r"logit_scale", "logit_scale", _scalar)
_LONG_CLIP = (
    Rule(r"positional_embedding", "positional_embedding", _kept_positions, 0, 2),
    Rule(r"positional_embedding_res", "positional_embedding", _trained_positions, 1, 2),
)
_BUILT_IN = (_LOGIT_SCALE, _PROJECTION, Rule(r"(.*)", r"\1"))


def _hf_encoder(tower: str, canonical: str) -> tuple[Rule, ...]:
    """Rules for the blocks of one transformers encoder."""
    source = rf"{tower}\.encoder\.layers\.(\d+)\."
    block = rf"{canonical}transformer.resblocks.\1."
    projections = tuple(
        Rule(
            rf"{source}self_attn\.{letter}_proj\.(weight|bias)",
            rf"{block}attn.in_proj_\2",
            _whole,
            part,
            3,
        )
        for part, letter in enumerate("qkv")
    )
    return (
        *projections,
        Rule(rf"{source}self_attn\.out_proj\.(weight|bias)", rf"{block}attn.out_proj.\2"),
        Rule(rf"{source}layer_norm([12])\.(weight|bias)", rf"{block}ln_\2.\3"),
        Rule(rf"{source}mlp\.fc1\.(weight|bias)", rf"{block}mlp.c_fc.\2"),
        Rule(rf"{source}mlp\.fc2\.(weight|bias)", rf"{block}mlp.c_proj.\2"),
    )


_LAYOUTS = (
    Layout("OpenAI with Long-CLIP's positions", r"visual\.", r"positional_embedding_res$", (*_LONG_CLIP, *_BUILT_IN)),
    Layout(OPENAI_LAYOUT, r"visual\.", r"(transformer\.|token_embedding\.)", _BUILT_IN),
    Layout(
        "open_clip custom text",
        r"visual\.",
        r"text\.(transformer\.resblocks|token_embedding)\.",
        (
            _LOGIT_SCALE,
            _PROJECTION,
            Rule(r"text\.((?:token_embedding|transformer|ln_final)\..*)", r"\1"),
            Rule(r"text\.(positional_embedding|text_projection)", r"\1"),
            Rule(r"(visual\..*)", r"\1"),
        ),
    ),
    Layout(
        HF_LAYOUT,
        r"vision_model\.",
        r"text_model\.",
        (
            _LOGIT_SCALE,
            *_hf_encoder("vision_model", "visual."),
            *_hf_encoder("text_model", ""),
            Rule(r"vision_model\.embeddings\.class_embedding", "visual.class_embedding"),
            Rule(r"vision_model\.embeddings\.patch_embedding\.weight", "visual.conv1.weight"),
            Rule(r"vision_model\.embeddings\.position_embedding\.weight", "visual.positional_embedding"),
            Rule(r"vision_model\.pre_layrnorm\.(weight|bias)", r"visual.ln_pre.\1"),  # their spelling
            Rule(r"vision_model\.post_layernorm\.(weight|bias)", r"visual.ln_post.\1"),
            Rule(r"visual_projection\.weight", "visual.proj", _transposed),
            Rule(r"text_model\.embeddings\.token_embedding\.weight", "token_embedding.weight"),
            Rule(r"text_model\.embeddings\.position_embedding\.weight", "positional_embedding"),
            Rule(r"text_model\.final_layer_norm\.(weight|bias)", r"ln_final.\1"),
            Rule(r"text_projection\.weight", "text_projection", _transposed),
        ),
    ),
)  # fmt: skip


class CanonicalTensors(Mapping[str, Tensor]):
    """Canonical name -> tensor in its stored dtype: a memory-mapped view, or the concatenation of its parts.

    A concatenation is made anew at each access and kept by nobody, so that nothing is held twice.
    """

    def __init__(self, parts: Mapping[str, tuple[Tensor, ...]]) -> None:
        self._parts = parts

    def __getitem__(self, name: str) -> Tensor:
        parts = self._parts[name]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def parts(self, name: str) -> tuple[Tensor, ...]:
        """The stored tensors, in order along the first axis."""
        return self._parts[name]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, without reading any."""
        return {name: _joined_shape(parts) for name, parts in self._parts.items()}


def _joined_shape(parts: tuple[Tensor, ...]) -> tuple[int, ...]:
    if len(parts) == 1:
        return tuple(parts[0].shape)
    return (sum(part.shape[0] for part in parts), *parts[0].shape[1:])


def identify_layout(names: list[str]) -> Layout:
    """The layout that these tensor names follow.

    Raises: CheckpointError, without a file name, for a family that is known and not supported, for one tower
        alone, or for names that no layout has.
    """
    refuse_unsupported_family(names)
    towers: set[str] = set()
    for layout in _LAYOUTS:
        found = [
            tower
            for tower, pattern in (("image", layout.vision), ("text", layout.text))
            if any(re.match(pattern, name) for name in names)
        ]
        if len(found) == 2:
            return layout
        towers.update(found)
    if len(towers) == 1:
        raise CheckpointError(f"holds the {towers.pop()} tower alone, expected both towers of CLIP")
    shown = ", ".join(sorted(names)[:8])
    raise CheckpointError(f"unknown layout: {len(names)} tensors, the first are {shown}")


def canonical_tensors(tensors: Mapping[str, Tensor], layout: Layout) -> CanonicalTensors:
    """The tensors under canonical names.

    Raises: CheckpointError, without a file name, listing names that no rule has (unexpected), canonical tensors
        that are filled twice, and parts that are absent or do not fit together.
    """
    rules = [(re.compile(rule.pattern), rule) for rule in layout.rules]
    filled: dict[str, dict[int, tuple[str, Tensor]]] = {}
    part_counts: dict[str, int] = {}
    problems: list[str] = []
    for name, tensor in tensors.items():
        if _IGNORED.fullmatch(name):
            continue
        match, rule = next(
            ((m, rule) for pattern, rule in rules if (m := pattern.fullmatch(name))), (None, None)
        )
        if match is None or rule is None:
            problems.append(f"unexpected {name}")
            continue
        canonical = match.expand(rule.canonical)
        parts = filled.setdefault(canonical, {})
        if rule.part in parts:
            problems.append(f"{parts[rule.part][0]} and {name} both fill {canonical}")
        parts[rule.part] = (name, rule.view(tensor))
        part_counts[canonical] = rule.parts
    problems += _part_problems(filled, part_counts)
    if problems:
        raise CheckpointError(f"({layout.name} layout) {summary(problems)}")
    return CanonicalTensors(
        {name: tuple(parts[i][1] for i in sorted(parts)) for name, parts in filled.items()}
    )


def _part_problems(
    filled: Mapping[str, Mapping[int, tuple[str, Tensor]]], part_counts: Mapping[str, int]
) -> Iterator[str]:
    for canonical, parts in filled.items():
        present = [name for name, _ in parts.values()]
        if len(parts) != part_counts[canonical]:
            yield f"{canonical} has {len(parts)} of its {part_counts[canonical]} parts (only {', '.join(present)})"
        elif len(parts) > 1:
            kinds = {(tensor.dtype, tensor.shape[1:], tensor.ndim) for _, tensor in parts.values()}
            if len(kinds) != 1 or 0 in {tensor.ndim for _, tensor in parts.values()}:
                yield f"{', '.join(present)} differ in shape or dtype"


def summary(problems: list[str], limit: int = 12) -> str:
    """The first problems in one line, and how many more there are."""
    rest = len(problems) - limit
    return "; ".join(problems[:limit]) + (f"; and {rest} more" if rest > 0 else "")
