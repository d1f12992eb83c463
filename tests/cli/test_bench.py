from __future__ import annotations

import io
import json
import time

import numpy as np
import pytest
import torch
from PIL import Image

import clipfast
from clipfast.cli import bench, main
from clipfast.cli.stages import StageTimes, image_stages


@pytest.mark.parametrize(
    ("kind", "stages"),
    [
        ("uint8", ["copy", "compute"]),
        ("jpeg", ["decode", "resize", "copy", "compute"]),
        ("text", ["tokenize", "compute"]),
    ],
)
def test_json_rows(kind, stages, model_folder, capsys):
    arguments = [
        "--model",
        model_folder,
        "--input",
        kind,
        "--batch-size",
        "1,3",
        "--seconds",
        "0.05",
    ]
    assert main(["bench", *arguments, "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert captured.err.splitlines()[-2:] == ["batch size 1 ...", "batch size 3 ..."]
    assert document["model"]["name"] == "tiny"
    assert document["machine"]["torch"] == torch.__version__
    assert [row["batch_size"] for row in document["rows"]] == [1, 3]
    for row in document["rows"]:
        assert list(row["stages_ms"]) == stages
        assert row["items_per_second"] > 0
        assert row["calls"] >= 5
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        if kind == "uint8":
            assert row["items_per_second"] == pytest.approx(1e3 * row["batch_size"] / row["p50_ms"])


def test_table(model_folder, capsys):
    assert main(["bench", "--model", model_folder, "--batch-size", "2", "--seconds", "0.05"]) == 0
    about, headers, row, note = capsys.readouterr().out.splitlines()
    assert about.startswith("tiny, ")
    assert "items/s" in headers
    assert row.split()[0] == "2"
    assert note.startswith("stages:")


def test_call_times_and_rates_are_of_the_calls():
    times = bench._call_times(lambda: time.sleep(0.01), seconds=0.1)
    assert 5 <= len(times) <= 10
    assert all(0.01 <= one < 0.1 for one in times)


def test_the_stream_is_fed_until_the_time_is_over(model_folder):
    model = clipfast.load(model_folder)
    fed = []

    class Counting:
        def encode_images(self, images, batch_size):
            counted = (fed.append(image) or image for image in images)
            return model.encode_images(counted, batch_size=batch_size)

    start = time.perf_counter()
    rate = bench._streamed(Counting(), bench.photographs(2), batch_size=2, seconds=0.3)
    elapsed = time.perf_counter() - start
    assert elapsed >= 0.3
    assert len(fed) >= 2
    assert len(fed) / elapsed <= rate <= len(fed) / 0.3


def test_stage_times_are_medians_of_each_stage():
    delays = iter([0.0, 0.01, 0.01, 0.2, 0.01, 0.01])
    times = StageTimes(torch.device("cpu"))
    assert times.measure("nap", lambda: time.sleep(next(delays)) or "slept") == "slept"
    assert 10 <= times.milliseconds["nap"] < 100


def test_stages_give_compute_the_pixels_that_encode_images_would_see(model_folder):
    """decode and resize of the stages are those of the pipeline: the embeddings agree bit for bit."""
    model = clipfast.load(model_folder, precision="fp32")
    files = bench.photographs(2)
    seen = []

    class Recording:
        device, config = model.device, model.config

        def encode_images(self, pixels, **options):
            seen.append(pixels)
            return model.encode_images(pixels, **options)

    image_stages(Recording(), files)
    expected = np.stack([model.preprocess(file) for file in files])
    np.testing.assert_array_equal(seen[0].numpy(), expected)


def test_inputs():
    first, second = (Image.open(io.BytesIO(file)) for file in bench.photographs(2))
    assert first.size == bench.PHOTO
    assert first.tobytes() != second.tobytes()
    pixels = bench.random_pixels(3, 8)
    assert (pixels.shape, pixels.dtype) == ((3, 3, 8, 8), torch.uint8)
    texts = bench.captions(100)
    assert len(set(texts)) == 100
    tokens = clipfast.inputs.load_tokenizer().tokenize(texts, 77)
    lengths = tokens.argmax(axis=1) + 1
    assert lengths.min() >= 10
    assert lengths.max() <= 25
