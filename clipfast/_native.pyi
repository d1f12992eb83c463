from typing import TypeAlias

Matrix: TypeAlias = tuple[int, int, int]  # address, rows, row stride in bytes

def cpu_features() -> dict[str, bool]: ...
def supported_isas() -> tuple[str, ...]: ...
def similarity(
    queries: Matrix,
    keys: Matrix,
    width: int,
    dtype: str,
    scale: float,
    out: int,
    isa: str,
    threads: int,
) -> None: ...
def top_k(
    queries: Matrix,
    gallery: Matrix,
    width: int,
    dtype: str,
    k: int,
    scores: int,
    indices: int,
    isa: str,
    threads: int,
) -> None: ...
def resize_crop(
    images: tuple[int, int, int, int, int],  # address, count, image stride, row stride, channels
    horizontal: tuple[int, int, int, int],  # source, resized, start, length
    vertical: tuple[int, int, int, int],
    vertical_first: bool,
    bilinear: bool,
    out: tuple[int, int, bool],  # address, image stride, planar
    isa: str,
) -> None: ...
def unusual_texts(texts: list[object]) -> list[int]: ...

class TokenRows:
    def write_lengths(self, out: int, context: int) -> None: ...
    def write_padded(self, context: int, out: int) -> None: ...
    def write_packed(self, context: int, ids: int, offsets: int) -> None: ...

class Tokenizer:
    def __init__(self, byte_ids: int, merges: int, count: int) -> None: ...
    def encode(self, texts: list[object]) -> TokenRows: ...
