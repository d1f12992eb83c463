// bfloat16 a pair of elements at a time: VDPBF16PS multiplies 16 pairs with 16 others and adds both
// products of each to its lane. The sum of a query and a row stays in one lane, so nothing is left
// to add up across lanes, and it takes the pairs in their order, in blocks of kSumElements, so
// which of two tiles computes it cannot be seen:
//   many queries have a lane each; a row's pair is spread over all lanes. 8 rows x 2 registers: 16
//     multiply-adds for 8 spreads and 2 loads. Bound by the multiply-adds.
//   few queries, up to 8: 16 rows have a lane each, after 32 shuffles for 8 pairs of them; a
//   query's
//     pair is spread. Bound by memory.

#include "cpu/cosine_pairs.h"

#include <algorithm>

#include "cpu/lanes.h"
#include "cpu/x86.h"

namespace clipfast {

int lanes_of_pairs(std::int64_t queries) {
    if (queries > 24) return 32;
    if (queries > 8) return 16;  // of 17 to 24, the others follow in fewer lanes
    return queries > 4 ? 8 : queries > 2 ? 4 : queries;
}

void pack_pairs(const char* query, std::int64_t width, int lanes, char* lane) {
    const std::int64_t bytes = 2 * width;
    for (std::int64_t b = 0; b + 4 <= bytes; b += 4) std::memcpy(lane + b * lanes, query + b, 4);
    if (width % 2) std::memcpy(lane + (bytes - 2) * lanes, query + bytes - 2, 2);
}

#if defined(__x86_64__)

namespace {

constexpr int kPairBytes = 4;
// The error of float32 grows with the length of a block and with their number, not with the width.
constexpr std::int64_t kSumElements = 64;
constexpr int kManyRows = 8;
constexpr int kFewRows = 16;
static_assert(kPairsShape.tile_rows % kManyRows == 0 && kPairsShape.tile_rows % kFewRows == 0);
static_assert(kMaxBlockRows % kFewRows == 0);

// Asks for the memory ahead, so many bytes a step; where there is none, for what is there already.
template <_mm_hint level>
class Fetch {
  public:
    Fetch(const Ahead& ahead, const char* present, int bytes)
        : line_(ahead.data ? ahead.data : present), bytes_(ahead.data ? bytes : 0) {}

    INLINE void step() {
        _mm_prefetch(line_, level);
        line_ += bytes_;
    }

  private:
    const char* line_;
    std::int64_t bytes_;
};

INLINE std::int32_t pair_at(const char* data) {
    std::int32_t pair;
    std::memcpy(&pair, data, sizeof pair);
    return pair;
}

// The last element of an odd width, and a zero.
INLINE std::int32_t half_pair_at(const char* data) {
    std::uint16_t element;
    std::memcpy(&element, data, sizeof element);
    return element;
}

// --- many queries ---

// 32 queries take long enough for the first-level cache to be filled meanwhile: 8% faster. With 16
// the lines come too late for that: 5% slower.
template <int vectors>
using FetchForMany = Fetch<vectors == 2 ? _MM_HINT_T0 : _MM_HINT_T1>;

template <int vectors, int rows, class PairAt>
AVX512_BF16 INLINE void add_pair(PairAt pair_at, const char* row, std::int64_t stride,
                                 const char* panel, __m512 (&sums)[rows][vectors]) {
    __m512i queries[vectors];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) queries[v] = _mm512_loadu_si512(panel + 64 * v);
#pragma GCC unroll 8
    for (int r = 0; r < rows; ++r) {
        const __m512i pair = _mm512_set1_epi32(pair_at(row + r * stride));
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v)
            sums[r][v] = _mm512_dpbf16_ps(sums[r][v], (__m512bh)pair, (__m512bh)queries[v]);
    }
}

// Rows first .. first + rows - 1 of a block, or those of them that it has.
template <int vectors, int rows>
AVX512_BF16 std::uint32_t many_tile(const QueryGroup& group, const RowBlock& block,
                                    std::int64_t first, std::int64_t width,
                                    FetchForMany<vectors>& fetch, Cosines& out) {
    if constexpr (rows > 1)
        if (first + rows > block.rows.rows)
            return many_tile<vectors, rows - 1>(group, block, first, width, fetch, out);

    __m512 totals[rows][vectors] = {};
    const std::int64_t stride = block.rows.stride;
    const char *row = block.rows.row(first), *panel = group.panel;
    FetchForMany<vectors> lines = fetch;
    for (std::int64_t e = 0; e < width; e += kSumElements) {
        const std::int64_t left = std::min(kSumElements, width - e);
        __m512 sums[rows][vectors] = {};
        for (const char* const end = row + left / 2 * kPairBytes; row < end;
             row += kPairBytes, panel += vectors * 64) {
            lines.step();
            add_pair<vectors, rows>(pair_at, row, stride, panel, sums);
        }
        if (left % 2) add_pair<vectors, rows>(half_pair_at, row, stride, panel, sums);
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v)
                totals[r][v] = _mm512_add_ps(totals[r][v], sums[r][v]);
    }
    fetch = lines;

    std::uint32_t above = 0;
#pragma GCC unroll 2
    for (int v = 0; v < vectors; ++v) {
        const __m512 inverse = _mm512_loadu_ps(group.inverse_norm + 16 * v);
        const __m512 threshold = _mm512_loadu_ps(group.threshold + 16 * v);
#pragma GCC unroll 8
        for (int r = 0; r < rows; ++r) {
            const __m512 of_row = _mm512_set1_ps(block.inverse_norm[first + r]);
            const __m512 cosines = _mm512_mul_ps(_mm512_mul_ps(totals[r][v], of_row), inverse);
            above |= _mm512_cmp_ps_mask(cosines, threshold, _CMP_GT_OQ) << (16 * v);
            _mm512_storeu_ps(out.values + ((first + r) * vectors + v) * 16, cosines);
        }
    }
    return above;
}

template <int vectors>
std::uint32_t many(const QueryGroup& group, const RowBlock& block, std::int64_t width, Ahead ahead,
                   Cosines& out) {
    out.query_stride = 1;
    out.row_stride = 16 * vectors;
    // A step's line is shared out over the tiles that a step of kPairsShape takes here.
    FetchForMany<vectors> fetch(ahead, group.panel, 64 * kManyRows / kPairsShape.tile_rows);
    std::uint32_t above = 0;
    for (std::int64_t first = 0; first < block.rows.rows; first += kManyRows)
        above |= many_tile<vectors, kManyRows>(group, block, first, width, fetch, out);
    return above;
}

// --- few queries ---

// From x[i], pairs 0 .. 7 of row i and those of row i + 4 (i < 4), of row i + 4 and of row i + 8,
// to x[p], lane r: pair p of row r.
AVX512_BF16 INLINE void turn(__m512i (&x)[8]) {
    __m512i a[8], b[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
        a[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
        b[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        b[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        b[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        b[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        x[i] = _mm512_shuffle_i64x2(b[i], b[i + 4], 0x88);
        x[i + 4] = _mm512_shuffle_i64x2(b[i], b[i + 4], 0xdd);
    }
}

// Up to 8 pairs of 16 rows, of which `left` elements are left; others are zeros.
AVX512_BF16 INLINE void load_turned(const char* const (&rows)[kFewRows], std::int64_t e,
                                    std::int64_t left, __m512i (&x)[8]) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
        const int r = i < 4 ? i : i + 4;
        const __m256i low = load_halves(rows[r] + 2 * e, left);
        const __m256i high = load_halves(rows[r + 4] + 2 * e, left);
        x[i] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }
    turn(x);
}

template <int queries>
AVX512_BF16 INLINE void add_turned(__m512i pairs, const char* panel, __m512 (&sums)[queries]) {
#pragma GCC unroll 8
    for (int q = 0; q < queries; ++q) {
        const __m512i query = _mm512_set1_epi32(pair_at(panel + q * kPairBytes));
        sums[q] = _mm512_dpbf16_ps(sums[q], (__m512bh)pairs, (__m512bh)query);
    }
}

template <int queries>
AVX512_BF16 std::uint32_t few(const QueryGroup& group, const RowBlock& block, std::int64_t width,
                              Ahead ahead, Cosines& out) {
    out.query_stride = kMaxBlockRows;
    out.row_stride = 1;
    Fetch<_MM_HINT_T1> fetch(ahead, group.panel, 64);
    std::uint32_t above = 0;
    for (std::int64_t first = 0; first < block.rows.rows; first += kFewRows) {
        const char* rows[kFewRows];  // the last of the block stands in for those beyond it
        for (int r = 0; r < kFewRows; ++r)
            rows[r] = block.rows.row(std::min(first + r, block.rows.rows - 1));
        __m512 totals[queries] = {};
        const char* panel = group.panel;
        for (std::int64_t start = 0; start < width; start += kSumElements) {
            const std::int64_t end = std::min(start + kSumElements, width);
            __m512 sums[queries] = {};
            __m512i x[8];
            std::int64_t e = start;
            for (; e + 16 <= end; e += 16, panel += 8 * queries * kPairBytes) {
#pragma GCC unroll 8
                for (int line = 0; line < 8; ++line) fetch.step();
                load_turned(rows, e, 16, x);
#pragma GCC unroll 8
                for (int p = 0; p < 8; ++p)
                    add_turned<queries>(x[p], panel + p * queries * kPairBytes, sums);
            }
            if (e < end) load_turned(rows, e, end - e, x);
            for (int p = 0; e + 2 * p < end; ++p)
                add_turned<queries>(x[p], panel + p * queries * kPairBytes, sums);
#pragma GCC unroll 8
            for (int q = 0; q < queries; ++q) totals[q] = _mm512_add_ps(totals[q], sums[q]);
        }

        const __m512 of_rows = _mm512_loadu_ps(block.inverse_norm + first);
#pragma GCC unroll 8
        for (int q = 0; q < queries; ++q) {
            const __m512 inverse = _mm512_set1_ps(group.inverse_norm[q]);
            const __m512 cosines = _mm512_mul_ps(_mm512_mul_ps(totals[q], of_rows), inverse);
            const __m512 threshold = _mm512_set1_ps(group.threshold[q]);
            if (_mm512_cmp_ps_mask(cosines, threshold, _CMP_GT_OQ)) above |= 1u << q;
            _mm512_storeu_ps(out.values + q * kMaxBlockRows + first, cosines);
        }
    }
    return above;
}

}  // namespace

std::uint32_t cosines_of_pairs(const QueryGroup& group, const RowBlock& block, std::int64_t width,
                               Ahead ahead, Cosines& out) {
    switch (group.lanes) {
        case 1:
            return few<1>(group, block, width, ahead, out);
        case 2:
            return few<2>(group, block, width, ahead, out);
        case 4:
            return few<4>(group, block, width, ahead, out);
        case 8:
            return few<8>(group, block, width, ahead, out);
        case 16:
            return many<1>(group, block, width, ahead, out);
    }
    return many<2>(group, block, width, ahead, out);
}

#endif  // __x86_64__

}  // namespace clipfast
