"""Writes the packaged merges table again, from an open_clip_torch wheel.

    python -m clipfast.inputs.extract_vocabulary open_clip_torch-3.3.0-py3-none-any.whl

The table is data of the CLIP release (see data/NOTICE.txt); its digest is checked, so any such wheel gives the same
file.
"""

from __future__ import annotations

import argparse
import hashlib
import zipfile
from pathlib import Path

from clipfast.inputs.vocabulary import MERGES_FILE

SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"


def extract(wheel: Path, target: Path) -> Path:
    """Copy the merges table out of `wheel` into the folder `target`.

    Returns: the path written.
    Raises: ValueError when the wheel holds no table, or one with another digest.
    """
    member = f"open_clip/{MERGES_FILE}"
    with zipfile.ZipFile(wheel) as archive:
        if member not in archive.namelist():
            raise ValueError(f"{wheel} holds no {member}: expected an open_clip_torch wheel")
        data = archive.read(member)
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise ValueError(f"{member} in {wheel} has SHA-256 {digest}, expected {SHA256}")
    path = target / MERGES_FILE
    path.write_bytes(data)
    return path


def main(arguments: list[str] | None = None) -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description=extract.__doc__)
    parser.add_argument("wheel", type=Path, help="an open_clip_torch wheel")
    parser.add_argument("--target", type=Path, default=Path(__file__).parent / "data")
    options = parser.parse_args(arguments)
    extract(options.wheel, options.target)


if __name__ == "__main__":
    main()
