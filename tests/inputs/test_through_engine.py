"""Unusual inputs to embeddings: what the engine returns for them, or the error with its position."""

import io
import threading

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from clipfast.config import PreprocessConfig
from clipfast.errors import InputError
from clipfast.inputs import DecodeOptions, image_batches
from tests.engine.engines import encode_images, encode_texts, tiny_engine
from tests.inputs.broken_files import encoded, photo
from tests.inputs.oracles import reference_pixels
from tests.tolerances import FAST_DECODE_EMBEDDING_COSINE

ENGINE = tiny_engine()
SIZE = ENGINE.encoder.config.vision.image_size
WIDTH = ENGINE.encoder.config.embed_dim


def embeddings_of_pixels(pixels):
    """The same engine on pixels that Pillow made: (N, R, R, 3) uint8 needs no resizing."""
    return encode_images(ENGINE, np.stack(pixels))


def assert_embeds_as_reference(images):
    got = encode_images(ENGINE, images)
    assert torch.equal(
        got, embeddings_of_pixels([reference_pixels(image, SIZE) for image in images])
    )
    assert torch.allclose(got.norm(dim=1), torch.ones(len(images), dtype=got.dtype))


def test_nothing_in_nothing_out():
    for nothing in (
        [],
        (),
        iter(()),
        np.zeros((0, 9, 9, 3), np.uint8),
        torch.zeros(0, 3, SIZE, SIZE),
    ):
        assert encode_images(ENGINE, nothing).shape == (0, WIDTH)
    assert encode_texts(ENGINE, []).shape == (0, WIDTH)


@pytest.mark.parametrize(("mode", "longest"), [("RGB", 15_000), ("P", 15_000), ("RGBA", 4000)])
def test_extreme_aspect_ratios(mode, longest):
    sizes = [(1, longest), (longest, 1), (2, longest), (3, 5000)]
    assert_embeds_as_reference([photo(*size).convert(mode) for size in sizes])


def test_sixty_thousand_pixels_by_one():
    """From one column, every column is the same: Pillow's resize of that column alone is the truth."""
    column = np.random.default_rng(1).integers(0, 256, (60_000, 1, 3), dtype=np.uint8)
    tall = Image.fromarray(column)
    resized = SIZE * 60_000
    top = round((resized - SIZE) / 2)
    strip = np.asarray(tall.resize((1, resized), Image.Resampling.BICUBIC))[top : top + SIZE]
    expected = np.repeat(strip, SIZE, axis=1)
    got = encode_images(ENGINE, [tall, Image.fromarray(column.transpose(1, 0, 2).copy())])
    assert torch.equal(got, embeddings_of_pixels([expected, expected.transpose(1, 0, 2)]))


def test_small_and_almost_fitting_sizes():
    sizes = [
        (1, 1),
        (1, 2),
        (2, 2),
        (3, 3),
        (3, 17),
        (SIZE - 1, SIZE - 1),
        (SIZE, SIZE),
        (SIZE + 1, SIZE + 1),
    ]
    assert_embeds_as_reference([photo(*size) for size in sizes])


def test_images_without_content():
    checkers = np.indices((60, 60)).sum(0) % 2 * 255
    noise = np.random.default_rng(0).integers(0, 2, (60, 60, 3)) * 255
    arrays = [
        np.zeros((9, 9, 3)),
        np.full((9, 9, 3), 255),
        np.full((40, 30, 3), 77),
        checkers,
        noise,
    ]
    assert_embeds_as_reference([Image.fromarray(array.astype(np.uint8)) for array in arrays])


PIXELS = np.asarray(photo(30, 20))


@pytest.mark.parametrize(
    "image",
    [
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        np.asfortranarray(PIXELS),
        PIXELS[::-1][::-1],
        PIXELS.repeat(2, axis=0)[::2],
        torch.from_numpy(PIXELS.copy()),
        torch.from_numpy(PIXELS.copy()).permute(2, 0, 1),
    ],
    ids=["HWC", "CHW", "fortran", "negative-strides", "strided", "tensor", "tensor-CHW"],
)
def test_arrays_of_any_memory_layout(image):
    if isinstance(image, np.ndarray):
        image.flags.writeable = False
    assert torch.equal(encode_images(ENGINE, [image]), encode_images(ENGINE, [photo(30, 20)]))


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (PIXELS / 255, "wrong_shape"),
        (PIXELS.astype(np.float16), "wrong_shape"),
        (PIXELS.astype(np.int64), "wrong_type"),
        (PIXELS.astype(">u2"), "wrong_type"),
        (PIXELS > 9, "wrong_type"),
        (PIXELS.astype(object), "wrong_type"),
        (np.array(["text"]), "wrong_type"),
        (np.zeros((0, 5, 3), np.uint8), "wrong_shape"),
        (np.zeros((5, 5, 4), np.uint8), "wrong_shape"),
        (np.zeros((2, 5, 5, 3), np.uint8), "wrong_shape"),
        (np.uint8(7), "wrong_type"),
        (torch.zeros(5, 5, 3, dtype=torch.int32), "wrong_type"),
        (np.full((3, SIZE, SIZE), np.nan, np.float32), "non_finite"),
        (np.full((3, SIZE, SIZE), np.inf, np.float16), "non_finite"),
        (np.full((3, SIZE, SIZE), 200.0, np.float32), "wrong_type"),
        (torch.zeros(5, 5, 3, device="meta", dtype=torch.uint8), "wrong_type"),
    ],
)
def test_other_arrays_are_refused_by_position(image, code):
    with pytest.raises(InputError) as caught:
        encode_images(ENGINE, [PIXELS, image])
    assert (caught.value.code, caught.value.index) == (code, 1)


def test_normalised_and_plain_images_in_one_list():
    plain = [photo(30, 20, seed) for seed in range(4)]
    pixels = np.stack([reference_pixels(image, SIZE) for image in plain]).transpose(0, 3, 1, 2)
    config = ENGINE.encoder.config.preprocess
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (config.mean, config.std))
    normalized = (pixels / 255 - mean) / std
    mixed = [plain[0], normalized[1], torch.from_numpy(normalized[2]).float(), plain[3]]
    got = encode_images(ENGINE, mixed)
    torch.testing.assert_close(got, encode_images(ENGINE, plain), atol=1e-5, rtol=0)
    assert torch.equal(got[[0, 3]], encode_images(ENGINE, [plain[0], plain[3]]))


def test_iterables_are_streamed_and_their_errors_carry_the_count():
    images = [photo(30, 20, seed) for seed in range(7)]
    assert torch.equal(
        encode_images(ENGINE, iter(images), batch_size=2),
        encode_images(ENGINE, images, batch_size=2),
    )

    def breaks():
        yield from images
        raise KeyError("no more")

    with pytest.raises(KeyError) as caught:
        encode_images(ENGINE, breaks(), batch_size=2)
    assert caught.value.__notes__ == ["raised by the iterable of images after 7 images"]


def test_a_bad_image_leaves_its_neighbours_bits():
    images = [photo(30, 20, seed) for seed in range(3)]
    good = encode_images(ENGINE, images, batch_size=1)
    images[1] = b"no image"
    with pytest.raises(InputError) as caught:
        encode_images(ENGINE, images, batch_size=1)
    assert (caught.value.index, caught.value.code) == (1, "unidentified_image")
    got = encode_images(ENGINE, images, batch_size=1, errors="null")
    assert torch.equal(got[[0, 2]], good[[0, 2]])
    assert got[1].isnan().all()
    assert [(error.index, error.code) for error in ENGINE.last_errors] == [
        (1, "unidentified_image")
    ]


def test_an_error_that_is_kept_keeps_no_threads():
    images = [photo(30, 20, seed) for seed in range(40)]
    images[3] = b"no image"
    with pytest.raises(InputError) as caught:
        encode_images(ENGINE, images, batch_size=4, num_workers=2)
    assert caught.value.index == 3
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("clipfast-inputs") for name in names)


def test_one_image_many_times():
    """One lazily opened PIL image in ten thousand places, decoded by several threads at once."""
    data = encoded(photo(60, 50))
    expected = torch.tensor(reference_pixels(Image.open(io.BytesIO(data)), 8)).permute(2, 0, 1)
    for batch_size in (1, 33, 256, 1000):
        lazy = Image.open(io.BytesIO(data))
        count = 0
        for batch in image_batches(
            [lazy] * 2500, PreprocessConfig(), 8, batch_size=batch_size, num_workers=4
        ):
            assert (batch.pixels == expected).all()
            count += len(batch.indices)
        assert count == 2500


def test_one_lazy_image_is_decoded_by_one_thread():
    data = encoded(photo(2000, 1500))
    expected = reference_pixels(Image.open(io.BytesIO(data)), 8)
    for _ in range(5):
        lazy = Image.open(io.BytesIO(data))
        batches = list(
            image_batches([lazy] * 8, PreprocessConfig(), 8, batch_size=8, num_workers=8)
        )
        assert [failure.message for batch in batches for failure in batch.failures] == []
        for pixels in batches[0].pixels:
            np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), expected)


def test_rows_do_not_depend_on_the_batch_size():
    images = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (35, 3, SIZE, SIZE), dtype=np.uint8)
    )
    expected = encode_images(ENGINE, images, batch_size=35)
    for batch_size in (1, 2, 3, 7, 31, 32, 33):
        rows = encode_images(ENGINE, images, batch_size=batch_size)
        torch.testing.assert_close(rows, expected, atol=1e-12, rtol=0)
    for batch_size in (255, 256, 1000):
        rows = encode_images(ENGINE, images.repeat(29, 1, 1, 1)[:1001], batch_size=batch_size)
        torch.testing.assert_close(rows, expected.repeat(29, 1)[:1001], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("texts", "code", "index"),
    [
        (["a", "b\ud800"], "invalid_text", 1),
        (["a", None], "wrong_type", 1),
        (["a", "b", b"c"], "wrong_type", 2),
        (["a", 7], "wrong_type", 1),
        (["ok", "word " * 76], "text_too_long", 1),
        (["x" * 1_000_000], "text_too_long", 0),
    ],
)
def test_bad_texts_by_position(texts, code, index):
    with pytest.raises(InputError) as caught:
        encode_texts(ENGINE, texts)
    assert (caught.value.code, caught.value.index) == (code, index)


def test_unusual_texts_embed():
    texts = [
        "",
        "   ",
        "\0",
        "מילה",
        "👩\u200d🚀",
        "e\u0301",
        "cat<|endoftext|>dog",
        "word " * 75,
        "long " * 10**5,
    ]
    got = encode_texts(ENGINE, texts, truncate=True)
    assert torch.isfinite(got).all()
    for same, other in (
        ("", "   "),
        ("", "\0"),
        ("e\u0301", "\u00e9"),
        ("cat<|endoftext|>dog", "cat"),
    ):
        torch.testing.assert_close(
            encode_texts(ENGINE, [same]), encode_texts(ENGINE, [other]), atol=1e-12, rtol=0
        )


def test_decode_options_reach_the_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(photo(90, 60), exif=exif)
    turned = encode_images(ENGINE, [data], decode=DecodeOptions(exif_orientation=True))
    upright = reference_pixels(ImageOps.exif_transpose(Image.open(io.BytesIO(data))), SIZE)
    assert torch.equal(turned, embeddings_of_pixels([upright]))
    assert not torch.equal(turned, encode_images(ENGINE, [data]))
    large = encoded(photo(8 * SIZE, 8 * SIZE))
    fast, exact = (
        encode_images(ENGINE, [large], decode=DecodeOptions(decode=how))
        for how in ("fast", "exact")
    )
    assert not torch.equal(fast, exact)
    print(f"cosine of embeddings, fast to exact decoding: {float((fast * exact).sum()):.6f}")
    assert (fast * exact).sum() > FAST_DECODE_EMBEDDING_COSINE
