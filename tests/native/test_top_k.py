from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipfast.backends.cpu import CosineKernels
from clipfast.backends.reference import REFERENCE
from clipfast.errors import ConfigurationError
from tests.native.kernels import DTYPES, cosines, kernels_for, needs_native, rows
from tests.tolerances import KERNEL_ERROR_FACTOR

pytestmark = needs_native

# (M, N, E, k): real widths, then each axis alone at 1, a prime, and around tiles of 4 queries (bfloat16: 1 to 32), 16
# lanes, 64 rows.
SHAPES = [
    (32, 3000, 512, 10),
    (5, 700, 768, 10),
    (3, 500, 1024, 7),
    (1, 500, 512, 10),
    (4, 500, 512, 10),
    (8, 500, 1280, 10),
    (13, 500, 1024, 10),
    (33, 500, 2048, 10),
    (257, 130, 64, 3),
    (3, 1, 64, 1),
    (3, 3, 64, 2),
    (3, 64, 64, 64),
    (3, 65, 64, 65),
    (3, 997, 1, 5),
    (3, 500, 7, 5),
    (3, 500, 15, 5),
    (3, 500, 17, 5),
    (3, 500, 31, 5),
    (3, 500, 33, 5),
    (2, 9000, 130, 11),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_and_rows_are_float64s(
    kernels: CosineKernels, shape: tuple[int, int, int, int], dtype: torch.dtype
) -> None:
    queries_count, count, width, k = shape
    queries, gallery = rows(queries_count, width, 0, dtype), rows(count, width, 1, dtype)
    truth = cosines(queries, gallery)
    best = truth.sort(dim=1, descending=True).values[:, :k]
    scores, indices = kernels.top_k(queries, gallery, k)
    assert scores.shape == indices.shape == (queries_count, k)
    assert all(len(set(row)) == k for row in indices.tolist())
    error = (scores - best).abs().max().item()
    of_torch = (REFERENCE.top_k(queries, gallery, k)[0] - best).abs().max().item()
    bound = KERNEL_ERROR_FACTOR * of_torch + torch.finfo(torch.float32).eps
    print(f"{kernels.isa} {dtype} {shape}: error {error:.1e}, torch {of_torch:.1e}")
    assert error <= bound
    # The rows named are the best ones, up to ties within rounding, and each score is its row's own.
    assert (truth.gather(1, indices) - best).abs().max().item() <= bound
    assert (truth.gather(1, indices) - scores).abs().max().item() <= bound
    assert (scores.diff(dim=1) <= 0).all()


@pytest.mark.parametrize("width", [512, 2048])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_that_finds_itself_scores_one(
    kernels: CosineKernels, dtype: torch.dtype, width: int
) -> None:
    """Squares all add up, so a sum that is too long for float32 shows."""
    gallery = rows(40, width, 21, dtype)
    for queries in (gallery, gallery[:3]):
        error = (kernels.top_k(queries, gallery, 1)[0] - 1).abs().max().item()
        of_torch = (REFERENCE.top_k(queries, gallery, 1)[0] - 1).abs().max().item()
        print(f"{kernels.isa} {dtype} {width}: error {error:.1e}, torch {of_torch:.1e}")
        assert error <= KERNEL_ERROR_FACTOR * of_torch + torch.finfo(torch.float32).eps


def test_ties_go_to_the_lower_index_across_threads_and_blocks(kernels: CosineKernels) -> None:
    distinct = torch.tensor([[2.0, 0, 0, 0], [0, 1, 0, 0], [3, 4, 0, 0]])
    gallery = distinct[torch.arange(90_000) % 3]
    queries = torch.tensor([[1.0, 0, 0, 0], [0, 5, 0, 0]])
    scores, indices = kernels.top_k(queries, gallery, 5)
    assert indices.tolist() == [[0, 3, 6, 9, 12], [1, 4, 7, 10, 13]]
    assert scores.tolist() == [[1.0] * 5] * 2
    _, indices = kernels.top_k(queries, gallery, 30_001)
    assert indices[0, -1].item() == 2
    assert indices[1, -1].item() == 2


def test_any_thread_count_gives_the_same_bits(kernels: CosineKernels) -> None:
    queries, gallery = rows(9, 72, 2), rows(20_000, 72, 3)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(kernels.top_k(queries, gallery, 12))
    finally:
        torch.set_num_threads(before)
    for scores, indices in results[1:]:
        assert torch.equal(scores, results[0][0])
        assert torch.equal(indices, results[0][1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_score_depends_on_its_query_and_row_alone(
    kernels: CosineKernels, dtype: torch.dtype
) -> None:
    queries, gallery = rows(300, 100, 4, dtype), rows(333, 100, 5, dtype)
    scores, indices = kernels.top_k(queries, gallery, 1)
    for query in (0, 1, 255, 256, 299):
        row = int(indices[query, 0])
        alone, _ = kernels.top_k(queries[query : query + 1], gallery[row : row + 1], 1)
        assert alone.item() == scores[query, 0].item()


@pytest.mark.parametrize("width", [1, 2, 15, 17, 33, 100, 131, 512])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_neighbours_of_a_query_and_of_a_row_change_no_bit(
    kernels: CosineKernels, dtype: torch.dtype, width: int
) -> None:
    queries, gallery = rows(35, width, 17, dtype), rows(67, width, 18, dtype)
    expected = _scores(kernels, queries, gallery)
    for count in range(1, 35):
        assert torch.equal(_scores(kernels, queries[-count:], gallery), expected[-count:]), count
    for count in range(1, 67):
        assert torch.equal(_scores(kernels, queries, gallery[-count:]), expected[:, -count:]), count
        few = _scores(kernels, queries[:3], gallery[-count:])
        assert torch.equal(few, expected[:3, -count:]), count


def _scores(kernels: CosineKernels, queries: torch.Tensor, gallery: torch.Tensor) -> torch.Tensor:
    """(M, N) in the gallery's order."""
    scores, indices = kernels.top_k(queries, gallery, len(gallery))
    return torch.empty_like(scores).scatter_(1, indices, scores)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_query_out_of_range_stays_alone_in_its_group(
    kernels: CosineKernels, dtype: torch.dtype
) -> None:
    queries, gallery = rows(30, 70, 19, dtype), rows(300, 70, 20, dtype)
    expected = kernels.top_k(queries, gallery, 9)
    others = torch.arange(30) != 11
    for bad in (float("nan"), float("inf"), torch.finfo(dtype).max):
        queries[11] = bad
        scores, indices = kernels.top_k(queries, gallery, 9)
        assert torch.equal(scores[others], expected[0][others])
        assert torch.equal(indices[others], expected[1][others])
    assert scores[11].isfinite().all()
    assert torch.equal(scores[11], kernels.top_k(queries[11:12], gallery, 9)[0][0])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strided_rows_are_read_in_place(kernels: CosineKernels, dtype: torch.dtype) -> None:
    wide = rows(400, 150, 6, dtype)
    expected = kernels.top_k(wide[::3, 7:90].contiguous(), wide[1::2, 7:90].contiguous(), 9)
    scores, indices = kernels.top_k(wide[::3, 7:90], wide[1::2, 7:90], 9)
    assert torch.equal(scores, expected[0])
    assert torch.equal(indices, expected[1])
    repeated = wide[:1, :83].expand(50, 83)
    assert kernels.top_k(repeated[:1], repeated, 50)[1].tolist() == [list(range(50))]


def test_zero_rows_have_cosine_zero(kernels: CosineKernels) -> None:
    gallery = rows(40, 24, 7)
    gallery[11] = 0
    scores, indices = kernels.top_k(gallery[:4], gallery, 40)
    assert (scores[indices == 11] == 0).all()
    scores, indices = kernels.top_k(torch.zeros(1, 24), gallery, 40)
    assert scores.abs().max().item() == 0
    assert indices.tolist() == [list(range(40))]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_that_is_not_finite_never_matches(
    kernels: CosineKernels, bad: float, dtype: torch.dtype
) -> None:
    queries, gallery = rows(6, 48, 8, dtype), rows(200, 48, 9, dtype)
    clean_scores, clean_indices = kernels.top_k(queries, gallery, 195)
    for row in (0, 77, 199):
        gallery[row, 5] = bad
    queries[3] = bad
    scores, indices = kernels.top_k(queries, gallery, 200)
    assert indices[0, -3:].tolist() == [0, 77, 199]
    assert scores[0, -3:].isnan().all()
    kept = [i for i in clean_indices[0].tolist() if i not in (0, 77, 199)]
    assert indices[0, : len(kept)].tolist() == kept
    assert scores[3].isnan().all()
    assert indices[3].tolist() == list(range(200))
    assert clean_scores[3].isfinite().all()


def test_the_reference_ranks_nan_the_same(kernels: CosineKernels) -> None:
    gallery = rows(30, 16, 10)
    gallery[4] = float("nan")
    gallery[20, 3] = float("inf")
    expected = REFERENCE.top_k(gallery[5:9], gallery, 30)
    scores, indices = kernels.top_k(gallery[5:9], gallery, 30)
    assert torch.equal(indices, expected[1])
    assert torch.equal(scores.isnan(), expected[0].isnan())


def test_norms_beyond_float32_squares_are_exact(kernels: CosineKernels) -> None:
    queries, gallery = rows(5, 40, 11), rows(70, 40, 12)
    expected = kernels.top_k(queries, gallery, 70)
    large = gallery.clone()
    large[::7] *= 1e30
    scores, indices = kernels.top_k(queries * 1e28, large, 70)
    truth = cosines(queries, gallery)
    assert (truth.gather(1, indices) - scores).abs().max().item() < 1e-6
    assert (scores - expected[0]).abs().max().item() < 1e-6


def test_tiny_norms_are_clamped_as_the_reference_does(kernels: CosineKernels) -> None:
    queries, gallery = rows(3, 40, 13), rows(50, 40, 14)
    gallery[::2] *= 1e-14
    truth = cosines(queries, gallery)
    scores, indices = kernels.top_k(queries, gallery, 50)
    assert (truth.gather(1, indices) - scores).abs().max().item() < 1e-6


@pytest.mark.parametrize(
    ("queries_count", "count", "k"), [(0, 5, 3), (0, 0, 0), (4, 0, 0), (4, 5, 0)]
)
def test_empty_in_empty_out(kernels: CosineKernels, queries_count: int, count: int, k: int) -> None:
    scores, indices = kernels.top_k(torch.ones(queries_count, 8), torch.ones(count, 8), k)
    assert scores.shape == indices.shape == (queries_count, k)
    assert (scores.dtype, indices.dtype) == (torch.float32, torch.int64)


def test_width_zero_is_cosine_zero(kernels: CosineKernels) -> None:
    scores, indices = kernels.top_k(torch.ones(2, 0), torch.ones(6, 0), 3)
    assert scores.tolist() == [[0.0] * 3] * 2
    assert indices.tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize("k", [-1, 6])
def test_k_beyond_the_gallery_is_refused(kernels: CosineKernels, k: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"k in 0 \.\. 5 \(gallery rows\), got {k}"):
        kernels.top_k(torch.ones(2, 4), torch.ones(5, 4), k)


def test_nothing_is_written_outside_the_outputs(kernels: CosineKernels) -> None:
    from clipfast import _native

    queries, gallery, k = rows(6, 37, 15), rows(301, 37, 16), 13
    scores = torch.full((6 * k + 64,), 123.0)
    indices = torch.full((6 * k + 64,), 123, dtype=torch.int64)
    _native.top_k(
        (queries.data_ptr(), 6, 37 * 4),
        (gallery.data_ptr(), 301, 37 * 4),
        37,
        "float32",
        k,
        scores[32:].data_ptr(),
        indices[32:].data_ptr(),
        kernels.isa,
        2,
    )
    for buffer in (scores, indices):
        assert (buffer[:32] == 123).all()
        assert (buffer[-32:] == 123).all()
    assert torch.equal(scores[32:-32].view(6, k), kernels.top_k(queries, gallery, k)[0])


@pytest.mark.slow
def test_memory_stays_far_below_queries_times_gallery() -> None:
    gallery = rows(400_000, 64, 17)
    queries = rows(256, 64, 18)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = _kilobytes("VmRSS")
    kernels_for("avx2").top_k(queries, gallery, 10)
    assert _kilobytes("VmHWM") - before < 20_000  # the score matrix alone would be 400,000


def _kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
