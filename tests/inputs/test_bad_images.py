"""Every kind of bad image: its code, in bounded time, and never an exception of a decoder's own."""

import io
import os
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from clipfast.config import PreprocessConfig
from clipfast.errors import ConfigurationError, InputError
from clipfast.inputs import DecodeOptions, image_batches, preprocess_image
from clipfast.inputs.jpeg import check_scans
from tests.inputs import broken_files as files
from tests.inputs.oracles import reference_pixels

CONFIG = PreprocessConfig()
JPEG, PNG = files.encoded(files.photo()), files.encoded(files.photo(), "PNG")


def code_of(source, **options):
    """The error's code, found in a batch with good neighbours, which must be unharmed."""
    good = files.photo(40, 30)
    batches = list(
        image_batches([good, source, good], CONFIG, 32, batch_size=3, num_workers=1, **options)
    )
    (failure,) = [failure for batch in batches for failure in batch.failures]
    assert failure.index == 1
    assert batches[0].indices == [0, 2]
    for pixels in batches[0].pixels:
        np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), reference_pixels(good, 32))
    return failure.code


def assert_equals_reference(data, size=64):
    with Image.open(io.BytesIO(data)) as image:
        expected = reference_pixels(image, size)
    np.testing.assert_array_equal(preprocess_image(data, CONFIG, size).transpose(1, 2, 0), expected)


def flipped(data, at, mask=0x55):
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        np.random.default_rng(0).bytes(200),
        b"<!DOCTYPE html><html>404</html>",
        PNG[:8],
        b"\xff\xd8",
    ],
    ids=["empty", "random", "html", "png-magic", "jpeg-magic"],
)
def test_no_image(data, tmp_path):
    (tmp_path / "x.jpg").write_bytes(data)
    assert code_of(data) == code_of(tmp_path / "x.jpg") == "unidentified_image"


SCAN = JPEG.index(b"\xff\xda")


@pytest.mark.parametrize(
    "data",
    [
        *(JPEG[: len(JPEG) * part // 100] for part in (10, 50, 90)),
        JPEG[: SCAN + 14],
        JPEG[:-2],
        JPEG[:100],
    ],
)
def test_truncated_jpeg(data):
    assert code_of(data) == "truncated_image"


def test_damaged_jpeg_is_an_error_or_what_pillow_makes_of_it():
    assert_equals_reference(JPEG + b"trailing garbage" * 20)
    decoded = 0
    for at in range(SCAN + 20, len(JPEG) - 2, len(JPEG) // 40):
        data = flipped(JPEG, at)
        (batch,) = image_batches([data], CONFIG, 64, batch_size=1)
        if batch.failures:
            assert batch.failures[0].code in ("truncated_image", "corrupt_image")
        else:
            assert_equals_reference(data)
            decoded += 1
    assert decoded > 10


IDAT = PNG.index(b"IDAT")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (flipped(PNG, IDAT + 50), "corrupt_image"),
        (flipped(PNG, 17), "corrupt_image"),
        (files.png(50, 50, b"nonsense"), "corrupt_image"),
        (files.png(50, 50, zlib.compress(b"\0" * 100)), "truncated_image"),
        (PNG[: len(PNG) // 2], "truncated_image"),
        (
            files.png(
                5, 5, b"", files.png_chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 99_000_000))
            ),
            "corrupt_image",
        ),
        (
            files.png(
                5,
                5,
                b"",
                files.png_chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(b"a" * 99_000_000)),
            ),
            "corrupt_image",
        ),
    ],
    ids=["data", "header-crc", "zlib", "short", "cut", "zTXt-bomb", "iTXt-bomb"],
)
def test_damaged_png(data, code):
    start = time.perf_counter()
    assert code_of(data) == code
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    "data",
    [
        files.png(14000, 14000),
        files.png(20000, 20000),
        files.png(65535, 65535),
        files.png(2**31 - 1, 1),
        files.jpeg_claiming(14000, 14000),
        files.jpeg_claiming(65500, 65500),
        files.gif_claiming(65535, 65535),
        files.bmp_claiming(60000, 60000),
        files.webp_claiming(16384, 16384),
        files.tiff_claiming(14000, 14000),
    ],
    ids=[
        "png-14000",
        "png-20000",
        "png-65535",
        "png-line",
        "jpeg-14000",
        "jpeg-65500",
        "gif",
        "bmp",
        "webp",
        "tiff",
    ],
)
def test_too_large_from_the_header(data):
    assert code_of(data) == "image_too_large"
    start = time.perf_counter()
    for _ in range(20):
        with pytest.raises(InputError, match="pixels"):
            preprocess_image(data, CONFIG, 32)
    assert (time.perf_counter() - start) / 20 < 0.005


def test_too_little_memory_for_one_image():
    script = """
import io, resource
from PIL import Image
from clipfast.config import PreprocessConfig
from clipfast.inputs import image_batches
from tests.inputs.broken_files import encoded, photo
sources = [encoded(photo(40, 30)), *(encoded(Image.new("L", (14000, 12000)), name) for name in ("PNG", "JPEG"))]
(warm,) = image_batches(sources[:1], PreprocessConfig(), 32, batch_size=4)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, resource.RLIM_INFINITY))
for batch in image_batches([*sources, sources[0]], PreprocessConfig(), 32, batch_size=4, num_workers=0):
    print(batch.indices, [(failure.index, failure.code) for failure in batch.failures])
"""
    output = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    assert output.stdout == "[0, 3] [(1, 'image_too_large'), (2, 'image_too_large')]\n"


@pytest.mark.parametrize(
    "data", [files.png(0, 5), files.jpeg_claiming(0, 5), files.gif_claiming(0, 5)]
)
def test_no_pixels(data):
    assert code_of(data) == "corrupt_image"


def test_limits_are_ours_and_pillows_flags_are_untouched():
    flags = Image.MAX_IMAGE_PIXELS
    assert code_of(JPEG, options=DecodeOptions(max_pixels=320 * 240 - 1)) == "image_too_large"
    assert code_of(PNG, options=DecodeOptions(max_pixels=320 * 240 - 1)) == "image_too_large"
    large = files.encoded(Image.new("1", (15000, 12000)), "PNG")  # more than Pillow opens
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(large))
    assert preprocess_image(large, CONFIG, 32, DecodeOptions(max_pixels=200_000_000)).max() == 0
    assert flags == Image.MAX_IMAGE_PIXELS


def test_files_longer_than_allowed(tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(JPEG)
    assert code_of(path, options=DecodeOptions(max_bytes=len(JPEG) - 1)) == "image_too_large"
    assert preprocess_image(path, CONFIG, 32, DecodeOptions(max_bytes=len(JPEG))).shape == (
        3,
        32,
        32,
    )


def test_frames_beyond_the_first_cost_nothing():
    """First frame; an animation of 10,000 frames takes what one of 10 takes, apart from reading its bytes."""
    frames = [Image.new("P", (20, 20), n % 256) for n in range(10_000)]
    few, many = (
        files.encoded(
            files.photo(20, 20).convert("P"), "GIF", save_all=True, append_images=frames[:n]
        )
        for n in (9, 9_999)
    )
    elapsed = []
    for data in (few, many):
        assert_equals_reference(data)
        start = time.perf_counter()
        for _ in range(10):
            preprocess_image(data, CONFIG, 32)
        elapsed.append(time.perf_counter() - start)
    assert elapsed[1] < 20 * elapsed[0]  # 10,000 / 10 would be 1000
    for format_name in ("WEBP", "PNG", "AVIF", "TIFF"):
        more = [files.photo(50, 40, seed) for seed in range(1, 5)]
        assert_equals_reference(
            files.encoded(files.photo(50, 40), format_name, save_all=True, append_images=more)
        )


def test_gif_frame_beyond_its_canvas():
    data = bytearray(files.encoded(files.photo(30, 20).convert("P"), "GIF"))
    data[6:10] = (16).to_bytes(2, "little") * 2  # a canvas smaller than its frame
    assert_equals_reference(bytes(data))
    at = data.index(b",") + 1
    data[at : at + 4] = (5).to_bytes(2, "little") * 2  # and an offset
    assert_equals_reference(bytes(data))


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'></svg>", "SVG"),
        (b"\xef\xbb\xbf <svg></svg>", "SVG"),
        (b"%PDF-1.7 and more bytes", "PDF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0 ", "PostScript"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "HEIC"),
        (b"\0\0\0\x18ftypisom" + bytes(40), "video"),
        (b"\x1aE\xdf\xa3" + bytes(40), "video"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(60), "camera raw"),
        (b"8BPS" + bytes(40), "Photoshop"),
        (files.encoded(files.photo(), "JPEG2000"), "JPEG 2000"),
        (files.encoded(files.photo(), "ICO"), "ICO"),
    ],
)
def test_unsupported_formats_are_named(data, name):
    with pytest.raises(InputError, match=name) as caught:
        preprocess_image(data, CONFIG, 32)
    assert caught.value.code == "unsupported_format"


def test_formats_can_be_chosen():
    data = files.encoded(files.photo(), "JPEG2000")
    assert preprocess_image(data, CONFIG, 32, DecodeOptions(formats=("JPEG2000",))).shape == (
        3,
        32,
        32,
    )
    assert code_of(JPEG, options=DecodeOptions(formats=("PNG",))) == "unidentified_image"
    for bad in ({"formats": ("EPS",)}, {"decode": "draft"}):
        with pytest.raises(ConfigurationError):
            DecodeOptions(**bad)


@pytest.mark.filterwarnings("ignore:Tag data larger than file")
@pytest.mark.parametrize(
    "data",
    [
        files.jpeg_with_frame(0xC0, precision=12),
        files.jpeg_with_frame(0xC3),
        files.jpeg_with_frame(0xC9),
        files.tiff_of_strips(2**32 - 1),
        files.tiff_of_strips(10**6),
        files.lzw_bomb(8000),
    ],
    ids=["12-bit", "lossless", "arithmetic", "strips-4G", "strips-1M", "lzw-bomb"],
)
def test_rare_files_end_in_pixels_or_a_clean_error(data):
    start = time.perf_counter()
    (batch,) = image_batches([data], CONFIG, 32, batch_size=1)
    assert len(batch.pixels) + len(batch.failures) == 1
    assert {failure.code for failure in batch.failures} <= {"corrupt_image", "truncated_image"}
    assert time.perf_counter() - start < 2


def test_scans_without_end():
    assert_equals_reference(files.jpeg_of_many_scans(1000))
    data = files.jpeg_of_many_scans(1000, 2500, 2000)
    start = time.perf_counter()
    assert code_of(data) == "corrupt_image"
    assert time.perf_counter() - start < 1
    check_scans(files.encoded(files.photo(), progressive=True), 178_000_000)  # ten scans are usual


def test_paths_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "secret").write_bytes(JPEG)
    (tmp_path / "secret").chmod(0)
    sources = [
        tmp_path,
        tmp_path / "missing",
        tmp_path / "fifo",
        "/dev/zero",
        "/" + "a" * 5000,
        "a\0b",
        "\ud800.png",
    ]
    if os.geteuid() != 0:
        sources.append(tmp_path / "secret")
    for source in sources:
        assert code_of(source) == "unreadable_file"


def test_paths_with_unusual_names(tmp_path):
    for name in ("\U0001f642.jpg", "new\nline.jpg", os.fsdecode(b"\xff.jpg"), " .JPEG"):
        (tmp_path / name).write_bytes(JPEG)
        for source in (tmp_path / name, str(tmp_path / name)):
            np.testing.assert_array_equal(
                preprocess_image(source, CONFIG, 32), preprocess_image(JPEG, CONFIG, 32)
            )


def test_file_objects_at_their_end_closed_or_in_text_mode(tmp_path):
    (tmp_path / "image.jpg").write_bytes(JPEG)
    with (tmp_path / "image.jpg").open("rb") as file:
        assert preprocess_image(file, CONFIG, 32).shape == (3, 32, 32)
        assert code_of(file) == "unidentified_image"
    assert code_of(file) == "unreadable_file"
    assert code_of(io.StringIO("text")) == "wrong_type"


def test_closed_pil_images():
    lazy = Image.open(io.BytesIO(JPEG))
    lazy.close()
    loaded = files.photo()
    loaded.close()
    assert code_of(lazy) == code_of(loaded) == "unreadable_file"


@pytest.mark.parametrize("source", [None, 7, 1.5, ["x"], object()])
def test_no_image_source(source):
    assert code_of(source) == "wrong_type"


@pytest.mark.filterwarnings("error")
def test_warnings_as_errors_change_nothing():
    """An image between Pillow's warning and its limit decodes; a TIFF that Pillow warns about is an InputError."""
    large = files.encoded(Image.new("1", (10000, 9500)), "PNG")
    assert preprocess_image(large, CONFIG, 32).shape == (3, 32, 32)
    assert code_of(files.tiff_of_strips(10**6)) == "corrupt_image"
