"""Training data: drawn scenes as pixels, and captions as packed tokens of a small vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from clipfast.demo.captions import compose_caption
from clipfast.demo.digits import Handwriting
from clipfast.demo.scenes import DIGITS, SHAPES, Scene, draw_scene, sample_scene
from clipfast.inputs.tokenizer import load_tokenizer
from clipfast.model import TextRows

DIGIT_SHARE = 0.35


@dataclass(frozen=True)
class Drawn:
    """scenes: B of them. pixels: (B, 3, R, R) uint8."""

    scenes: list[Scene]
    pixels: torch.Tensor


class Vocabulary:
    """The tokens that captions use, so that training touches only their rows of the token embedding.

    tokens: (V',) int64 token ids, ascending; a token's row is its place among them.
    """

    def __init__(self, seed: int, captions: int = 30_000) -> None:
        """Takes a sample of captions that holds every word many times over."""
        rng = np.random.default_rng([seed, 1])
        texts = {compose_caption(sample(rng), rng).text for _ in range(captions)}
        self._tokenizer = load_tokenizer()
        self.tokens = torch.from_numpy(np.unique(self._tokenizer.pack(sorted(texts)).ids)).long()

    def pack(self, texts: Sequence[str]) -> TextRows:
        """The texts as packed rows, their ids counted in this vocabulary."""
        packed = self._tokenizer.pack(texts)
        cu_seqlens = torch.from_numpy(packed.cu_seqlens)
        ids = torch.from_numpy(packed.ids).long()
        rows = torch.searchsorted(self.tokens, ids)
        assert torch.equal(self.tokens[rows], ids), "a caption has a token that the sample had not"
        starts = cu_seqlens[:-1].repeat_interleave(cu_seqlens.diff())
        positions = torch.arange(len(ids), dtype=torch.int32) - starts
        return TextRows(ids=rows.int(), positions=positions, cu_seqlens=cu_seqlens)


class SceneBatches:
    """Batch i is a function of the stream and i alone, whichever thread draws it."""

    def __init__(
        self,
        handwriting: Handwriting,
        variety: Callable[[int], float],
        *,
        stream: int,
        size: int,
        image_size: int,
    ) -> None:
        """variety: how varied the scenes of batch i are, as `sample_scene` takes it."""
        self.handwriting, self.variety = handwriting, variety
        self.stream, self.size, self.image_size = stream, size, image_size

    def __call__(self, index: int) -> Drawn:
        rng = np.random.default_rng([self.stream, index])
        scenes = [sample(rng, self.variety(index)) for _ in range(self.size)]
        pixels = np.stack([self._draw(scene, rng) for scene in scenes])
        return Drawn(scenes, torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous())

    def prefetch(self, count: int, ahead: int = 3) -> Iterator[Drawn]:
        """Batches 0 to count - 1 in order, drawn by a thread `ahead` of their use."""
        with ThreadPoolExecutor(max_workers=1) as drawing:
            pending = [drawing.submit(self, i) for i in range(min(ahead, count))]
            for i in range(count):
                if i + ahead < count:
                    pending.append(drawing.submit(self, i + ahead))
                yield pending.pop(0).result()

    def _draw(self, scene: Scene, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
        glyph = None
        if scene.kind == "digit":
            written = np.flatnonzero(self.handwriting.labels == DIGITS.index(scene.subject))
            glyph = self.handwriting.glyphs[rng.choice(written)]
        return np.asarray(draw_scene(scene, rng, self.image_size, glyph))


def sample(rng: np.random.Generator, variety: float = 1.0) -> Scene:
    """A scene as training draws it: a digit or a shape, never of an unseen pair."""
    subjects = DIGITS if rng.random() < DIGIT_SHARE else SHAPES
    subject = subjects[int(rng.integers(len(subjects)))]
    return sample_scene(rng, subject, unseen_pairs=False, variety=variety)
