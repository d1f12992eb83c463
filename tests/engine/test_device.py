"""The engine over a device layer on the CPU: rows, order, memory and failures as a GPU would meet them."""

from __future__ import annotations

import gc
import random
from dataclasses import replace
from functools import cache
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from clipfast.backends.reference import REFERENCE
from clipfast.backends.resize_reference import resize_crop
from clipfast.checkpoint.folds import fold
from clipfast.config import ARCHITECTURES
from clipfast.device import HostLayer, HostMemoryError, images
from clipfast.device.images import UNRESIZED_BYTES
from clipfast.encoder import TowerEncoder
from clipfast.engine import Engine
from clipfast.errors import DeviceMemoryError, InputError, UnsupportedError
from clipfast.inputs import load_tokenizer, preprocess_image
from clipfast.inputs.packing import TextBatch
from tests.engine.engines import encode_images, encode_texts, tiny_engine
from tests.random_weights import random_weights, tiny_resnet
from tests.tolerances import TOWER_FLOAT32

LATE = [(), ("copy", "back"), ("compute",), ("copy", "compute", "back")]


class Crowded(TowerEncoder):
    """The reference towers on a device that holds so many images, and so many rows of text, at once."""

    def __init__(self, images: int, text_rows: int) -> None:
        plain = tiny_engine(torch.float32).encoder
        assert isinstance(plain, TowerEncoder)
        super().__init__(plain.config, plain.parameters, plain.ops, plain.device)
        self.images, self.text_rows_at_once = images, text_rows

    def encode_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > self.images:
            raise HostMemoryError(f"{len(pixels)} images")
        return super().encode_pixels(pixels)

    def encode_texts(self, batch: TextBatch) -> torch.Tensor:
        if len(batch.ids) > self.text_rows_at_once:
            raise HostMemoryError(f"{len(batch.ids)} rows")
        return super().encode_texts(batch)


def engine(
    layer: HostLayer, *, images: int = 1000, text_rows: int = 100_000, batch_invariant: bool = False
) -> Engine:
    plain = tiny_engine(torch.float32)
    encoder = Crowded(images, text_rows)
    return Engine(encoder, plain.tokenizer, batch_invariant=batch_invariant, layer=layer)


@cache
def pixels(count: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=generator)


@cache
def image_rows() -> torch.Tensor:
    """What the engine gives without a device layer."""
    return encode_images(tiny_engine(torch.float32), pixels())


def close(rows: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((rows - expected).abs().max() < TOWER_FLOAT32)


@pytest.mark.parametrize("late", LATE, ids="+".join)
@pytest.mark.parametrize("batch_size", [None, 7], ids=str)
def test_rows_are_those_without_a_device(late: tuple[str, ...], batch_size: int | None) -> None:
    device = engine(HostLayer(lazy=late))
    assert close(encode_images(device, pixels(), batch_size=batch_size), image_rows())
    one_by_one = [image.permute(1, 2, 0).numpy() for image in pixels()]
    assert close(encode_images(device, one_by_one, batch_size=batch_size), image_rows())
    assert close(encode_images(device, iter(one_by_one), batch_size=batch_size), image_rows())


def test_images_of_other_sizes_and_normalised_ones_mix() -> None:
    plain, device = tiny_engine(torch.float32), engine(HostLayer(lazy=("copy", "compute", "back")))
    rng = np.random.default_rng(3)
    mixed: list[object] = [
        rng.integers(0, 256, (rng.integers(40, 90), rng.integers(40, 90), 3), np.uint8)
        for _ in range(20)
    ]
    mixed[5:5] = [torch.randn(3, 64, 64), torch.randn(3, 64, 64).half()]
    expected = encode_images(plain, mixed, batch_size=4)
    assert close(encode_images(device, mixed, batch_size=4), expected)
    assert encode_images(device, []).shape == (0, 32)


def test_bad_images_leave_their_neighbours_alone() -> None:
    device = engine(HostLayer(lazy=("copy", "compute", "back")))
    good = [image.permute(1, 2, 0).numpy() for image in pixels(12)]
    broken: list[object] = list(good)
    for at in (0, 5, 6, 7, 11):
        broken[at] = b"no image"
    rows = encode_images(device, broken, batch_size=3, errors="null")
    bad = rows.isnan().all(dim=1)
    assert bad.nonzero().flatten().tolist() == [0, 5, 6, 7, 11]
    assert [error.index for error in device.last_errors] == [0, 5, 6, 7, 11]
    assert close(rows[~bad], encode_images(tiny_engine(torch.float32), good)[~bad])
    with pytest.raises(InputError, match="input 0"):
        encode_images(device, broken, batch_size=3)
    assert close(
        encode_images(device, good, batch_size=3), encode_images(tiny_engine(torch.float32), good)
    )


@pytest.mark.parametrize("late", [(), ("copy", "back")], ids="+".join)
def test_too_little_memory_halves_the_batch_and_is_remembered(late: tuple[str, ...]) -> None:
    device = engine(HostLayer(lazy=late), images=9)
    assert device.placement is not None
    assert close(encode_images(device, pixels(), batch_size=32), image_rows())
    assert device.placement.images.batch(None) == 8
    assert close(encode_images(device, pixels()), image_rows())
    with pytest.raises(DeviceMemoryError, match="too little free memory for one item"):
        encode_images(engine(HostLayer(), images=0), pixels())


def test_too_little_memory_for_graphs_changes_no_row() -> None:
    layer = HostLayer()
    layer.fail("capture", times=3)
    device = engine(layer)
    for _ in range(4):
        assert close(encode_images(device, pixels(), batch_size=8), image_rows())


def test_texts_that_do_not_fit_go_in_smaller_batches() -> None:
    layer = HostLayer()
    device = engine(layer, text_rows=300)
    texts = [f"a photo of {number} cats and a dog" for number in range(150)]
    expected = encode_texts(tiny_engine(torch.float32), texts)
    for share_prefixes in (True, False):
        assert close(encode_texts(device, texts, share_prefixes=share_prefixes), expected)
    assert device.placement is not None
    assert device.placement.most_text_rows <= 300
    assert device.last_text_statistics.texts == 150
    with pytest.raises(DeviceMemoryError, match="for one item"):
        encode_texts(engine(HostLayer(), text_rows=0), ["a"])


def test_batch_invariant_rows_are_those_of_one_image() -> None:
    device = engine(HostLayer(), batch_invariant=True)
    rows = encode_images(device, pixels(6))
    alone = torch.cat([encode_images(device, pixels(6)[at : at + 1]) for at in range(6)])
    assert torch.equal(rows, alone)
    assert device.placement is not None
    assert device.placement.images.describe()["graphs"] == [1]


def test_rows_may_be_used_with_autograd_and_are_not_normalised_when_asked() -> None:
    device = engine(HostLayer())
    rows = encode_images(device, pixels(3), normalize=False)
    expected = encode_images(tiny_engine(torch.float32), pixels(3), normalize=False)
    assert close(rows / 10, expected / 10)
    weight = torch.ones(32, requires_grad=True)
    (rows @ weight).sum().backward()
    assert weight.grad is not None


def test_resnets_have_batches_by_their_pixels() -> None:
    config = tiny_resnet()
    parameters = fold(random_weights(config, seed=0), config, torch.float32)
    encoder = TowerEncoder(config, parameters, REFERENCE, torch.device("cpu"))
    plain = Engine(encoder, load_tokenizer())
    device = Engine(encoder, load_tokenizer(), layer=HostLayer(lazy=("copy", "compute", "back")))
    assert device.describe()["images a batch"] == 256
    expected = encode_images(plain, pixels()[:9], batch_size=4)
    assert close(encode_images(device, pixels()[:9], batch_size=4), expected)
    large = replace(config, vision=replace(ARCHITECTURES["RN50x64"].vision, image_size=448))
    encoder.config = large
    assert Engine(encoder, load_tokenizer(), layer=HostLayer()).describe()["images a batch"] == 32


@pytest.mark.parametrize("batch_size", [None, 7], ids=str)
def test_a_batch_of_the_device_does_not_pass_through_the_host(batch_size: int | None) -> None:
    layer = HostLayer(lazy=("copy", "compute", "back"))
    device = engine(layer, images=30)
    batch = layer.device_buffer(tuple(pixels().shape), torch.uint8).copy_(pixels())
    assert close(encode_images(device, batch, batch_size=batch_size), image_rows())
    assert close(encode_images(device, batch[5:9], batch_size=batch_size), image_rows()[5:9])
    assert encode_images(device, batch[:0]).shape == (0, 32)
    assert layer.calls["submit"] == layer.calls["host_buffer"] == 0
    assert layer.calls["capture"] > 0


def test_buffers_that_were_made_in_inference_mode_are_used_outside_of_it() -> None:
    device = engine(HostLayer())
    with torch.inference_mode():
        inside = encode_images(device, pixels(), batch_size=8)
    assert torch.equal(encode_images(device, pixels(), batch_size=8), inside)
    with torch.inference_mode():
        assert torch.equal(encode_images(device, list(pixels().numpy()), batch_size=8), inside)


def test_memory_is_bounded_whatever_is_asked_for() -> None:
    layer = HostLayer(lazy=("copy", "compute", "back"))
    device = engine(layer)
    image, row = 3 * 64 * 64, 32 * 4
    for count in (3, 40, 8, 33):
        encode_images(device, pixels()[:count], batch_size=8)
        encode_images(device, list(pixels()[:count].numpy()), batch_size=8)
    assert layer.most_host_bytes == 5 * 8 * image + 3 * 8 * row
    # Two buffers of a batch, and the input that all graphs share.
    assert layer.most_device_bytes == 2 * 8 * image + 256 * image


def as_bytes(image: torch.Tensor) -> bytes:
    file = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


def one_request(rng: random.Random, device: Engine, most: int) -> int:
    """Asks for up to `most` random items and checks every row: arrays, files, pictures, bad ones, texts, a batch."""
    chosen = [rng.randrange(40) for _ in range(rng.choice([1, 2, 5, most // 2, most]))]
    kind = rng.randrange(4)
    if kind == 0:
        assert close(encode_texts(device, [WORDS[at] for at in chosen]), text_rows()[chosen])
    elif kind == 1:
        rows = encode_images(device, pixels()[chosen], batch_size=rng.choice([None, 16, 64]))
        assert close(rows, image_rows()[chosen])
    else:
        items: list[object] = [rng.choice(kinds())[at] for at in chosen]
        bad = {at for at in range(len(chosen)) if rng.random() < 0.03}
        for at in bad:
            items[at] = b"no image"
        rows = encode_images(device, items, batch_size=rng.choice([None, 16]), errors="null")
        right = [at for at in range(len(chosen)) if at not in bad]
        assert rows[sorted(bad)].isnan().all()
        assert not right or close(rows[right], image_rows()[[chosen[at] for at in right]])
    return len(chosen)


WORDS = [f"a photo of {number} dogs" for number in range(40)]


@cache
def text_rows() -> torch.Tensor:
    return encode_texts(tiny_engine(torch.float32), WORDS)


@cache
def kinds() -> list[list[object]]:
    """The same images as arrays, as files, as pictures."""
    arrays = [image.permute(1, 2, 0).numpy() for image in pixels()]
    return [arrays, [as_bytes(image) for image in pixels()], [*map(Image.fromarray, arrays)]]


def check_mixed(most: int, *, items: int = 0, requests: int = 0) -> None:
    """Random requests until there were so many, on a device that runs out of memory on the way."""
    rng, layer = random.Random(0), HostLayer(lazy=("copy", "back"))
    room = {"images": max(2, most // 4), "text_rows": min(120, 4 * most)}
    device = engine(layer, **room)
    done = asked = 0
    while done < items or asked < requests:
        if asked == 100:
            layer.fail("capture")
        done += one_request(rng, device, most)
        asked += 1
    assert device.placement is not None
    print(f"{done} items in {asked} requests; {device.placement.images.describe()}")
    assert device.placement.images.batch(None) <= room["images"]
    assert device.placement.most_text_rows <= room["text_rows"]
    assert device.placement.images.describe()["graphs"]
    image, row = 3 * 64 * 64, 32 * 4
    assert layer.most_host_bytes <= 2 * 256 * (5 * image + 3 * row)


def test_ten_thousand_mixed_items_keep_their_order() -> None:
    check_mixed(200, items=10_000)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_mixed_requests_keep_their_order() -> None:
    check_mixed(6, requests=10_000)


# ---- images that the device resizes ------------------------------------------------------------------------------


def resizing(layer: HostLayer, *, images: int = 1000) -> Engine:
    encoder = Crowded(images, 100_000)
    return Engine(encoder, load_tokenizer(), layer=layer, device_resize=True)


@cache
def ragged() -> list[object]:
    """Photographs of many sizes, thin ones too, one of the tower's size, and what only the host resizes."""
    rng = np.random.default_rng(7)
    sizes = [(90, 70), (64, 300), (500, 33), (64, 64), (7, 9), (65, 64), (128, 128), (200, 90)]
    arrays = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes * 3]
    files = [as_bytes(torch.from_numpy(array).permute(2, 0, 1)) for array in arrays[:8]]
    pictures = [Image.fromarray(array) for array in arrays[8:16]]
    modes = [picture.convert(mode) for picture in pictures[:2] for mode in ("L", "P", "RGBA")]
    return [*files, *modes[:3], *pictures, torch.randn(3, 64, 64), *arrays[16:], *modes[3:]]


@pytest.mark.parametrize("late", LATE, ids="+".join)
@pytest.mark.parametrize("batch_size", [None, 7], ids=str)
def test_rows_of_images_resized_on_the_device_are_the_host_s(
    late: tuple[str, ...], batch_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, seen = resizing(HostLayer(lazy=late)), list[tuple[int, ...]]()
    assert device.placement is not None
    resize_into = device.placement.images.resize_into

    def noted(rows: torch.Tensor, images: dict[int, torch.Tensor]) -> None:
        resize_into(rows, images)
        for row, image in images.items():
            seen.append(tuple(image.shape))
            expected = preprocess_image(image.numpy(), device.encoder.config.preprocess, 64)
            assert torch.equal(rows[row], torch.from_numpy(expected))

    monkeypatch.setattr(device.placement.images, "resize_into", noted)
    expected = encode_images(tiny_engine(torch.float32), ragged())
    for given in (ragged(), iter(ragged())):
        assert close(encode_images(device, given, batch_size=batch_size), expected)
    # Of the 24 photographs 21 have another size than the tower's, and are given twice.
    assert len(seen) == 42
    assert (64, 64, 3) not in seen


def test_what_finds_no_room_is_resized_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "UNRESIZED_BYTES", 8_000)
    layer = HostLayer(lazy=("copy", "compute", "back"))
    device = resizing(layer)
    expected = encode_images(tiny_engine(torch.float32), ragged())
    for batch_size in (1, 4, 40):
        assert close(encode_images(device, ragged(), batch_size=batch_size), expected)


def test_bad_images_among_those_that_the_device_resizes() -> None:
    device = resizing(HostLayer(lazy=("copy", "compute", "back")))
    mixed = list(ragged())
    bad = [0, 3, 4, 5, len(mixed) - 1]
    for at in bad:
        mixed[at] = b"no image"
    rows = encode_images(device, mixed, batch_size=3, errors="null")
    assert rows.isnan().all(dim=1).nonzero().flatten().tolist() == bad
    good = [at for at in range(len(mixed)) if at not in bad]
    expected = encode_images(tiny_engine(torch.float32), ragged())
    assert close(rows[good], expected[good])
    assert encode_images(device, [b"no image"] * 9, batch_size=2, errors="null").isnan().all()
    with pytest.raises(InputError, match="input 0"):
        encode_images(device, mixed, batch_size=3)
    assert close(encode_images(device, ragged(), batch_size=3), expected)


def test_memory_is_bounded_where_the_device_resizes() -> None:
    layer = HostLayer(lazy=("copy", "compute", "back"))
    device = resizing(layer)
    for _ in range(3):
        encode_images(device, ragged() * 3, batch_size=8)
    image, row = 3 * 64 * 64, 32 * 4
    assert layer.most_host_bytes == 5 * 8 * (image + UNRESIZED_BYTES) + 3 * 8 * row
    assert layer.most_device_bytes == 2 * 8 * (image + UNRESIZED_BYTES) + 256 * image


def test_too_little_memory_to_resize_goes_on_with_fewer_images() -> None:
    plain = tiny_engine(torch.float32).encoder
    assert isinstance(plain, TowerEncoder)
    asked = list[int]()

    def crowded(many: list[torch.Tensor], size: int) -> torch.Tensor:
        asked.append(len(many))
        if len(many) > 3:
            raise HostMemoryError(f"{len(many)} images")
        return resize_crop(many, size)

    ops = replace(plain.ops, resize_crop=crowded)
    encoder = TowerEncoder(plain.config, plain.parameters, ops, plain.device)
    device = Engine(encoder, load_tokenizer(), layer=HostLayer(), device_resize=True)
    expected = encode_images(tiny_engine(torch.float32), ragged())
    assert close(encode_images(device, ragged(), batch_size=12), expected)
    assert max(asked) > 3
    assert device.placement is not None
    assert device.placement.images.batch(None) <= 3


def test_a_device_that_cannot_resize_says_why() -> None:
    encoder = tiny_engine(torch.float32).encoder
    assert isinstance(encoder, TowerEncoder)
    with pytest.raises(UnsupportedError, match="it is for weights loaded on a GPU"):
        Engine(encoder, load_tokenizer(), device_resize=True)
    lacking = replace(encoder.ops, resize_crop=None)
    squashed = replace(
        encoder.config, preprocess=replace(encoder.config.preprocess, resize_mode="squash")
    )
    for config, ops, why in (
        (encoder.config, lacking, "this backend has no resize_crop operation"),
        (squashed, encoder.ops, r"resizes \('bicubic', 'squash'\)"),
    ):
        other = TowerEncoder(config, encoder.parameters, ops, encoder.device)
        with pytest.raises(UnsupportedError, match=why):
            Engine(other, load_tokenizer(), layer=HostLayer(), device_resize=True)


def test_an_engine_that_is_dropped_gives_its_memory_back_at_once() -> None:
    """Garbage that waits for a collection would keep a GPU's memory, and destroy graphs while others are captured."""
    layer = HostLayer()
    device = engine(layer)
    encode_images(device, pixels())
    encode_images(device, list(pixels(3)))
    encode_texts(device, ["a dog", "a cat"])
    device.describe()
    assert layer.device_bytes > 0
    gc.disable()
    try:
        del device
        assert (layer.device_bytes, layer.host_bytes) == (0, 0)
    finally:
        gc.enable()
