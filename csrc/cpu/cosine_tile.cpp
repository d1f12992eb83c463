// Register tiles: lanes along the width, 4 queries x 4 rows in AVX-512 (16 accumulators, 8 loads
// for 16 multiply-adds), 4 x 2 in AVX2 (8 accumulators, 6 loads for 8). Bound by the multiply-add
// units while four queries and a block fit in the first cache levels; for fewer than about 8
// queries, by memory.

#include "cpu/cosine_tile.h"

#include "cpu/cosine_pairs.h"
#include "cpu/x86.h"

namespace clipfast {
namespace {

constexpr std::int64_t kCacheLine = 64;
constexpr int kGroupQueries = 4;

int lanes_of_floats(std::int64_t) { return kGroupQueries; }

INLINE void by_row(Cosines& out) {
    out.query_stride = 1;
    out.row_stride = kGroupQueries;
}

template <Dtype dtype, int step>
void pack_floats(const char* query, std::int64_t width, int lanes, char* lane) {
    float* out = reinterpret_cast<float*>(lane);
    for (std::int64_t e = 0; e < width; e += step, out += lanes * step)
        for (std::int64_t i = 0; i < step && e + i < width; ++i)
            out[i] = load_element(dtype, query, e + i);
}

// --- serial: the definition ---

template <Dtype dtype>
std::uint32_t cosines_serial(const QueryGroup& group, const RowBlock& block, std::int64_t width,
                             Ahead, Cosines& out) {
    by_row(out);
    std::uint32_t above = 0;
    for (int q = 0; q < kGroupQueries; ++q) {
        const float* query = reinterpret_cast<const float*>(group.panel) + q;
        for (std::int64_t r = 0; r < block.rows.rows; ++r) {
            const char* row = block.rows.row(r);
            double sum = 0;
            for (std::int64_t e = 0; e < width; ++e)
                sum += static_cast<double>(query[e * kGroupQueries]) * load_element(dtype, row, e);
            const float cosine =
                static_cast<float>(sum) * block.inverse_norm[r] * group.inverse_norm[q];
            out.of(q, r) = cosine;
            above |= static_cast<std::uint32_t>(cosine > group.threshold[q]) << q;
        }
    }
    return above;
}

template <Dtype dtype>
void squares_serial(const Matrix& rows, std::int64_t width, float* out) {
    for (std::int64_t r = 0; r < rows.rows; ++r) {
        double sum = 0;
        for (std::int64_t e = 0; e < width; ++e) {
            const double x = load_element(dtype, rows.row(r), e);
            sum += x * x;
        }
        out[r] = static_cast<float>(sum);
    }
}

// Rows first .. first + count - 1 of a block, where the last row stands in for those beyond it.
template <int count>
INLINE void rows_of_tile(const Matrix& block, std::int64_t first, const char* (&rows)[count]) {
    for (int r = 0; r < count; ++r)
        rows[r] = block.row(first + r < block.rows ? first + r : block.rows - 1);
}

INLINE void fetch_step(Ahead& ahead) {
    for (int i = 0; i < ahead.lines_per_step; ++i, ahead.data += kCacheLine)
        __builtin_prefetch(ahead.data, 0, 2);
}

#if defined(__x86_64__)

// --- AVX2: 8 lanes of float32 ---

template <Dtype dtype>
AVX2 INLINE __m256 load8(const char* row, std::int64_t e) {
    if constexpr (dtype == Dtype::f32) {
        return _mm256_loadu_ps(reinterpret_cast<const float*>(row) + e);
    } else {
        const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + 2 * e));
        if constexpr (dtype == Dtype::f16) return _mm256_cvtph_ps(half);
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
    }
}

// The last count < 8 elements of a row, zeros after them.
template <Dtype dtype>
AVX2 INLINE __m256 load8_tail(const char* row, std::int64_t e, std::int64_t count) {
    alignas(32) char buffer[32] = {};
    std::memcpy(buffer, row + e * element_bytes(dtype), count * element_bytes(dtype));
    return load8<dtype>(buffer, 0);
}

// Four sums over lanes at once, added pairwise from neighbours outwards.
AVX2 INLINE __m128 sum_lanes(__m256 a, __m256 b, __m256 c, __m256 d) {
    const __m256 ab = _mm256_hadd_ps(a, b), cd = _mm256_hadd_ps(c, d);
    const __m256 abcd = _mm256_hadd_ps(ab, cd);
    return _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1));
}

template <Dtype dtype, int count>
AVX2 INLINE void load_rows8(const char* const (&rows)[count], std::int64_t e, std::int64_t width,
                            __m256 (&x)[count]) {
    if (e + 8 <= width) {
        for (int r = 0; r < count; ++r) x[r] = load8<dtype>(rows[r], e);
    } else {
        for (int r = 0; r < count; ++r) x[r] = load8_tail<dtype>(rows[r], e, width - e);
    }
}

template <Dtype dtype>
AVX2 std::uint32_t cosines_avx2(const QueryGroup& group, const RowBlock& block, std::int64_t width,
                                Ahead ahead, Cosines& out) {
    by_row(out);
    const __m128 inverse = _mm_loadu_ps(group.inverse_norm);
    const __m128 threshold = _mm_loadu_ps(group.threshold);
    std::uint32_t above = 0;
    for (std::int64_t first = 0; first < block.rows.rows; first += 2) {
        const char* rows[2];
        rows_of_tile(block.rows, first, rows);
        const float* queries = reinterpret_cast<const float*>(group.panel);
        __m256 x[2], sums[2][kGroupQueries] = {};
        for (std::int64_t e = 0; e < width; e += 8, queries += 8 * kGroupQueries) {
            load_rows8<dtype>(rows, e, width, x);
            fetch_step(ahead);
            for (int q = 0; q < kGroupQueries; ++q) {
                const __m256 query = _mm256_loadu_ps(queries + q * 8);
                for (int r = 0; r < 2; ++r) sums[r][q] = _mm256_fmadd_ps(query, x[r], sums[r][q]);
            }
        }
        for (int r = 0; r < 2; ++r) {
            const __m128 dots = sum_lanes(sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
            const __m128 of_row = _mm_set1_ps(block.inverse_norm[first + r]);
            const __m128 cosines = _mm_mul_ps(_mm_mul_ps(dots, of_row), inverse);
            above |= _mm_movemask_ps(_mm_cmpgt_ps(cosines, threshold));
            _mm_storeu_ps(out.values + (first + r) * kGroupQueries, cosines);
        }
    }
    return above;
}

template <Dtype dtype>
AVX2 void squares_avx2(const Matrix& block, std::int64_t width, float* out) {
    for (std::int64_t first = 0; first < block.rows; first += 4) {
        const char* rows[4];
        rows_of_tile(block, first, rows);
        __m256 x[4], sums[4] = {};
        for (std::int64_t e = 0; e < width; e += 8) {
            load_rows8<dtype>(rows, e, width, x);
            for (int r = 0; r < 4; ++r) sums[r] = _mm256_fmadd_ps(x[r], x[r], sums[r]);
        }
        _mm_storeu_ps(out + first, sum_lanes(sums[0], sums[1], sums[2], sums[3]));
    }
}

// --- AVX-512: 16 lanes of float32 ---

// A step of float32 lanes, and a step of bfloat16 pairs; count < kStep elements are left at the end
// of a row.
template <Dtype dtype>
struct WidenedLane {
    static constexpr int kStep = 16;
    using Vector = __m512;

    AVX512 static INLINE Vector row(const char* data) {
        if constexpr (dtype == Dtype::f32) return _mm512_loadu_ps(data);
        return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(data)));
    }
    AVX512 static INLINE Vector row_tail(const char* data, std::int64_t count) {
        const __mmask16 mask = static_cast<__mmask16>((1u << count) - 1);
        if constexpr (dtype == Dtype::f32) return _mm512_maskz_loadu_ps(mask, data);
        return widen(_mm256_maskz_loadu_epi16(mask, data));
    }
    AVX512 static INLINE Vector widen(__m256i half) {
        if constexpr (dtype == Dtype::f16) return _mm512_cvtph_ps(half);
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
    }
    AVX512 static INLINE __m512 multiply_add(Vector a, Vector b, __m512 sum) {
        return _mm512_fmadd_ps(a, b, sum);
    }
};

struct Bf16Lane {
    static constexpr int kStep = 32;
    using Vector = __m512i;

    AVX512 static INLINE Vector row(const char* data) { return _mm512_loadu_si512(data); }
    AVX512 static INLINE Vector row_tail(const char* data, std::int64_t count) {
        return _mm512_maskz_loadu_epi16((1u << count) - 1, data);
    }
    AVX512_BF16 static INLINE __m512 multiply_add(Vector a, Vector b, __m512 sum) {
        return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
    }
};

template <class Lane, int count, int row_bytes_per_element>
AVX512 INLINE void load_rows16(const char* const (&rows)[count], std::int64_t e, std::int64_t width,
                               typename Lane::Vector (&x)[count]) {
    if (e + Lane::kStep <= width) {
        for (int r = 0; r < count; ++r) x[r] = Lane::row(rows[r] + e * row_bytes_per_element);
    } else {
        for (int r = 0; r < count; ++r)
            x[r] = Lane::row_tail(rows[r] + e * row_bytes_per_element, width - e);
    }
}

// Four sums in each 128-bit lane: lane i of the result holds the parts of a, b, c, d from lane i.
AVX512 INLINE __m512 sum_within_lanes(__m512 a, __m512 b, __m512 c, __m512 d) {
    const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    const __m512d abd = _mm512_castps_pd(ab), cdd = _mm512_castps_pd(cd);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(abd, cdd)),
                         _mm512_castpd_ps(_mm512_unpackhi_pd(abd, cdd)));
}

// 128-bit lane i of the result is the sum over the lanes of argument i.
AVX512 INLINE __m512 sum_across_lanes(__m512 a, __m512 b, __m512 c, __m512 d) {
    const __m512 ab =
        _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    const __m512 cd =
        _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x88), _mm512_shuffle_f32x4(c, d, 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
}

// 128-bit lane i holds value i in every place.
AVX512 INLINE __m512 spread_over_lanes(const float* values) {
    const __m512i lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_permutexvar_ps(lanes, _mm512_broadcast_f32x4(_mm_loadu_ps(values)));
}

template <Dtype dtype>
AVX512 std::uint32_t cosines_avx512(const QueryGroup& group, const RowBlock& block,
                                    std::int64_t width, Ahead ahead, Cosines& out) {
    by_row(out);
    using Lane = WidenedLane<dtype>;
    const __m512 inverse = _mm512_broadcast_f32x4(_mm_loadu_ps(group.inverse_norm));
    const __m512 threshold = _mm512_broadcast_f32x4(_mm_loadu_ps(group.threshold));
    std::uint32_t above = 0;  // bit 4r + q
    for (std::int64_t first = 0; first < block.rows.rows; first += 4) {
        const char* rows[4];
        rows_of_tile(block.rows, first, rows);
        const char* queries = group.panel;
        __m512 x[4], sums[4][kGroupQueries] = {};
        for (std::int64_t e = 0; e < width; e += Lane::kStep, queries += kGroupQueries * 64) {
            load_rows16<Lane, 4, element_bytes(dtype)>(rows, e, width, x);
            fetch_step(ahead);
            for (int q = 0; q < kGroupQueries; ++q) {
                const __m512 query = _mm512_loadu_ps(queries + q * 64);
                for (int r = 0; r < 4; ++r)
                    sums[r][q] = Lane::multiply_add(query, x[r], sums[r][q]);
            }
        }
        __m512 parts[4];
        for (int r = 0; r < 4; ++r)
            parts[r] = sum_within_lanes(sums[r][0], sums[r][1], sums[r][2], sums[r][3]);
        const __m512 dots = sum_across_lanes(parts[0], parts[1], parts[2], parts[3]);
        const __m512 of_rows = spread_over_lanes(block.inverse_norm + first);
        const __m512 cosines = _mm512_mul_ps(_mm512_mul_ps(dots, of_rows), inverse);
        above |= _mm512_cmp_ps_mask(cosines, threshold, _CMP_GT_OQ);
        _mm512_storeu_ps(out.values + first * kGroupQueries, cosines);
    }
    above |= above >> 8;
    return (above | above >> 4) & 0xf;
}

// Compiled for AVX512-BF16 also where Lane needs less: it adds no instruction that a compiler
// emits unasked.
template <class Lane, int element>
AVX512_BF16 void squares_avx512(const Matrix& block, std::int64_t width, float* out) {
    for (std::int64_t first = 0; first < block.rows; first += 4) {
        const char* rows[4];
        rows_of_tile(block, first, rows);
        typename Lane::Vector x[4];
        __m512 sums[4] = {};
        for (std::int64_t e = 0; e < width; e += Lane::kStep) {
            load_rows16<Lane, 4, element>(rows, e, width, x);
            for (int r = 0; r < 4; ++r) sums[r] = Lane::multiply_add(x[r], x[r], sums[r]);
        }
        const __m512 parts = sum_within_lanes(sums[0], sums[1], sums[2], sums[3]);
        const __m512 zero = _mm512_setzero_ps();
        const __m512 squares = sum_across_lanes(parts, zero, zero, zero);
        _mm_storeu_ps(out + first, _mm512_castps512_ps128(squares));
    }
}

#endif  // __x86_64__

constexpr CosineShape shape_of_floats(int step, int tile_rows) {
    return {step, 4 * step, kGroupQueries, tile_rows};
}

template <Dtype dtype>
CosineKernels kernels_for(Isa isa) {
#if defined(__x86_64__)
    switch (isa) {
        case Isa::serial:
            break;
        case Isa::avx2:
            return {shape_of_floats(8, 2), lanes_of_floats, pack_floats<dtype, 8>,
                    cosines_avx2<dtype>, squares_avx2<dtype>};
        case Isa::avx512_bf16:
            if constexpr (dtype == Dtype::bf16)
                return {kPairsShape, lanes_of_pairs, pack_pairs, cosines_of_pairs,
                        squares_avx512<Bf16Lane, 2>};
            [[fallthrough]];
        case Isa::avx512:
            return {shape_of_floats(16, 4), lanes_of_floats, pack_floats<dtype, 16>,
                    cosines_avx512<dtype>,
                    squares_avx512<WidenedLane<dtype>, element_bytes(dtype)>};
    }
#endif
    return {shape_of_floats(1, 1), lanes_of_floats, pack_floats<dtype, 1>, cosines_serial<dtype>,
            squares_serial<dtype>};
}

}  // namespace

CosineKernels cosine_kernels(Isa isa, Dtype dtype) {
    switch (dtype) {
        case Dtype::f16:
            return kernels_for<Dtype::f16>(isa);
        case Dtype::bf16:
            return kernels_for<Dtype::bf16>(isa);
        case Dtype::f32:
            break;
    }
    return kernels_for<Dtype::f32>(isa);
}

}  // namespace clipfast
