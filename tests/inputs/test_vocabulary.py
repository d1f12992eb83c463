import subprocess
import sys
import zipfile

import pytest

from clipfast.inputs.extract_vocabulary import extract
from clipfast.inputs.vocabulary import (
    EOT_ID,
    MERGES_FILE,
    SOT_ID,
    load_vocabulary,
    merges_bytes,
)


def wheel_with(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_the_packaged_table_is_the_one_in_the_wheel(tmp_path):
    wheel = wheel_with(
        tmp_path / "open_clip_torch.whl", {f"open_clip/{MERGES_FILE}": merges_bytes()}
    )
    assert extract(wheel, tmp_path).read_bytes() == merges_bytes()
    (tmp_path / MERGES_FILE).unlink()
    command = [
        sys.executable,
        "-m",
        "clipfast.inputs.extract_vocabulary",
        wheel,
        "--target",
        tmp_path,
    ]
    subprocess.run(command, check=True)
    assert (tmp_path / MERGES_FILE).read_bytes() == merges_bytes()


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({"other": b""}, "holds no open_clip/bpe"),
        ({f"open_clip/{MERGES_FILE}": b"changed"}, "has SHA-256"),
    ],
)
def test_other_wheels_are_refused(members, sentence, tmp_path):
    wheel = wheel_with(tmp_path / "other.whl", members)
    with pytest.raises(ValueError, match=sentence):
        extract(wheel, tmp_path)
    assert not (tmp_path / MERGES_FILE).exists()


def test_vocabulary_order():
    vocabulary = load_vocabulary()
    assert len(vocabulary.token_bytes) == len(set(vocabulary.token_bytes)) == 49_408
    assert vocabulary.token_bytes[SOT_ID] == b"<|startoftext|>"
    assert vocabulary.token_bytes[EOT_ID] == b"<|endoftext|>"
    assert sorted(vocabulary.byte_ids) == list(range(256))
    assert list(vocabulary.merges.values()) == list(range(512, SOT_ID))
    assert all(max(pair) < merged for pair, merged in vocabulary.merges.items())
    assert vocabulary.token_bytes[3306] == b"hello "
