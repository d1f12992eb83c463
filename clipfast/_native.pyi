from typing import TypeAlias

Matrix: TypeAlias = tuple[int, int, int]  # address, rows, row stride in bytes
TypedMatrix: TypeAlias = tuple[int, int, int, str]  # and the dtype; address 0 for none

def cpu_features() -> dict[str, bool]: ...
def supported_isas() -> tuple[str, ...]: ...
def set_thread_count(threads: int) -> None: ...
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
def layer_norm(
    x: TypedMatrix,
    residual: TypedMatrix,
    total: TypedMatrix,
    out: TypedMatrix,
    weight: int,
    bias: int,
    width: int,
    eps: float,
    isa: str,
    threads: int,
) -> None: ...
def attention(
    queries: Matrix,
    keys: Matrix,
    values: Matrix,
    out: Matrix,
    heads: tuple[int, int],  # count, columns of each
    dtype: str,
    segments: tuple[int, int, int, int],  # count, addresses of cu_queries, cu_keys and key_rows
    lengths: tuple[int, int],  # of queries and keys where there is no cu_
    causal: bool,
    isa: str,
    threads: int,
) -> None: ...
def patches(
    pixels: int,
    strides: tuple[int, ...],
    images: int,
    grid: int,
    patch: int,
    out: Matrix,
    dtype: str,
    threads: int,
) -> None: ...
def tokens(
    embedded: TypedMatrix,
    class_row: TypedMatrix,
    positions: TypedMatrix,
    out: TypedMatrix,
    width: int,
    isa: str,
    threads: int,
) -> None: ...
def quantise(
    x: TypedMatrix, out: Matrix, row_scale: int, zero: int, width: int, isa: str, threads: int
) -> None: ...
def dequantise(
    y: TypedMatrix,
    row_scale: int,
    bias: int,
    activation: str,
    residual: TypedMatrix,
    out: TypedMatrix,
    width: int,
    isa: str,
    threads: int,
) -> None: ...
def product(
    x: TypedMatrix,
    weight: tuple[int, int, int],  # address of the panels, units, features
    bias: int,
    of_bytes: tuple[int, int, int],  # of an int8 weight: zero, addresses of correction and scale
    activation: str,
    residual: TypedMatrix,
    rectified: bool,
    out: TypedMatrix,
    image: tuple[int, int],  # height and width, of a 3x3 convolution; else zeros
    threads: int,
) -> None: ...

# Runs kernels as they are called, and then again: functions of the module, under their names.
class Tape:
    def run(self, threads: int) -> None: ...
    layer_norm = staticmethod(layer_norm)
    attention = staticmethod(attention)
    patches = staticmethod(patches)
    tokens = staticmethod(tokens)
    quantise = staticmethod(quantise)
    dequantise = staticmethod(dequantise)
    product = staticmethod(product)

def resize_crop(
    images: tuple[int, int, int, int, int],  # address, count, image stride, row stride, channels
    horizontal: tuple[
        int, float, float, int, int, int
    ],  # source, begin, end, resized, start, length
    vertical: tuple[int, float, float, int, int, int],
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

# Built where CUDA is: architectures such as "80;90a", or "". Strides are in elements; a stream is (device, handle).
Rows: TypeAlias = tuple[int, int, int, int]  # address, row stride, rows, width
Numbers: TypeAlias = tuple[int, bool]  # address, whether float32
Stream: TypeAlias = tuple[int, int]

cuda_architectures: str
cuda_resize_fields: int

def cuda_device_reason(device: int) -> str: ...
def cuda_attention(
    qkv: Rows,
    out: Rows,
    cu_seqlens: int,
    sequences: int,
    length: int,
    heads: int,
    causal: bool,
    bfloat16: bool,
    where: Stream,
    /,
) -> None: ...
def cuda_attention_pool(
    query: Rows,
    kv: Rows,
    out: Rows,
    cu_seqlens: int,
    key_rows: int,
    length: int,
    heads: int,
    bfloat16: bool,
    where: Stream,
    /,
) -> None: ...
def cuda_patch_embed(
    pixels: int,
    strides: tuple[int, int, int],  # image, channel, row, in bytes
    images: int,
    grid: int,
    patch: int,
    weight: Rows,
    bias: Numbers,
    class_row: Numbers,
    positions: Numbers,
    out: int,
    bfloat16: bool,
    where: Stream,
    /,
) -> None: ...
def cuda_cosine_scratch(queries: Rows, gallery: Rows, k: int, multiprocessors: int, /) -> int: ...
def cuda_top_k(
    queries: Rows,
    gallery: Rows,
    int8: bool,
    k: int,
    scratch: int,
    scores: int,
    indices: int,
    multiprocessors: int,
    bfloat16: bool,
    where: Stream,
    /,
) -> None: ...
def cuda_similarity(
    queries: Rows,
    keys: Rows,
    int8: bool,
    scale: float,
    scratch: int,
    out: int,
    multiprocessors: int,
    bfloat16: bool,
    where: Stream,
    /,
) -> None: ...
def cuda_plan_resize(images: int, count: int, size: int, planned: int, /) -> int: ...
def cuda_resize_crop(
    planned: int, taps: int, out: int, count: int, size: int, where: Stream, /
) -> None: ...
