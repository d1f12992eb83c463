"""Ray on this machine: the same files as without it, and a dataset's own rows."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from clipfast.bulk import Progress, Settings, embed, read
from tests.bulk.conftest import contents

ray = pytest.importorskip("ray", reason="needs the ray extra")
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster():
    ray.init(
        num_cpus=2, object_store_memory=200 << 20, include_dashboard=False, log_to_driver=False
    )
    yield
    ray.shutdown()


@pytest.fixture
def images(photos, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(photos, folder)
    (folder / "000007.jpg").write_bytes(b"not an image")
    (folder / "000033.jpg").unlink()
    (folder / "000033.jpg").symlink_to("absent")
    for path in folder.iterdir():
        path.with_suffix(".txt").write_text(f"picture {path.stem}")
    return folder


def test_a_job_writes_the_same_files(cluster, model, model_folder, images, tmp_path):
    from clipfast.ray import embed_inputs

    settings = Settings(modalities=("images", "texts"), batch_size=8, shard_size=25)
    embed(model, [images], tmp_path / "local", settings)
    arguments = {"source": model_folder, "precision": "fp32"}
    output = str(tmp_path / "ray")
    summary = embed_inputs(arguments, [str(images)], output, settings, Progress())
    assert summary.errors == {"unidentified_image": 1, "unreadable_file": 1}
    assert (summary.rows, summary.shards) == (58, 3)
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    assert len(read(tmp_path / "ray", verify=True)) == 58
    (tmp_path / "ray/done/done_00001.json").unlink()
    assert embed_inputs(arguments, [str(images)], output, settings, Progress()).items == 25
    assert contents(tmp_path / "ray") == contents(tmp_path / "local")
    markers = [json.loads(path.read_text()) for path in sorted((tmp_path / "ray/done").iterdir())]
    assert [marker["rows"] for marker in markers] == [24, 24, 10]


@pytest.mark.parametrize("column", ["path", "bytes"])
def test_a_dataset_keeps_its_rows(column, cluster, model, model_folder, images, tmp_path):
    import clipfast.ray

    paths = sorted(path for path in images.iterdir() if path.suffix == ".jpg")
    rows = [
        {
            "id": number,
            "path": str(path),
            "said": f"picture {path.stem}",
            "bytes": path.read_bytes() if path.exists() else b"",
        }
        for number, path in enumerate(paths)
    ]
    dataset = clipfast.ray.embed(
        ray.data.from_items(rows),
        model_folder,
        precision="fp32",
        image_column=column,
        caption_column="said",
        modalities=("images", "texts"),
        batch_size=8,
    )
    found = sorted(dataset.take_all(), key=lambda row: row["id"])
    assert [row["id"] for row in found] == list(range(60))
    assert set(found[0]) == {"id", "path", "said", "image_embedding", "text_embedding", "error_code", "error"} | (
        set() if column == "bytes" else {"bytes"}
    )  # fmt: skip
    codes = {row["id"]: row["error_code"] for row in found if row["error_code"] is not None}
    assert codes == {
        7: "unidentified_image",
        33: "unreadable_file" if column == "path" else "unidentified_image",
    }
    good = [row for row in found if row["error_code"] is None]
    assert all(row["image_embedding"] is None for row in found if row["id"] in codes)
    expected = model.encode_images([row["path"] for row in good]).numpy()
    np.testing.assert_allclose(
        np.stack([np.asarray(row["image_embedding"], np.float32) for row in good]),
        expected,
        atol=1e-3,
    )
    texts = model.encode_texts([row["said"] for row in good]).numpy()
    np.testing.assert_allclose(
        np.stack([np.asarray(row["text_embedding"], np.float32) for row in good]), texts, atol=1e-3
    )
    operators = dataset.stats()
    assert "decode_table" in operators
    assert "TableEncoder" in operators
    assert "decode_table)->MapBatches(TableEncoder" not in operators  # two operators, not fused
