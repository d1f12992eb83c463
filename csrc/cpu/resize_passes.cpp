// Weights are split as high * 2^12 + low, so that one 16-bit multiply-add instruction (pmaddwd)
// takes two taps: sum = (sum of taps * high) << 12 plus (sum of taps * low). AVX-512 works on 4
// image rows a register horizontally and 64 bytes vertically, AVX2 on 2 rows and 32 bytes.

#include "cpu/resize_passes.h"

#include <algorithm>
#include <cstring>

#include "cpu/x86.h"

namespace clipfast {
namespace {

constexpr std::int32_t kHalf = 1 << (kWeightBits - 1);

// --- serial: the definition ---

INLINE std::uint8_t clip(std::int32_t sum) {
    return static_cast<std::uint8_t>(std::clamp(sum >> kWeightBits, 0, 255));
}

template <int channels>
void horizontal_serial(const PixelRows& in, std::int64_t origin, const Taps& taps,
                       std::uint8_t* out, std::int64_t out_stride) {
    for (std::int64_t y = 0; y < in.rows; ++y) {
        for (std::int64_t x = 0; x < taps.outputs; ++x) {
            const std::uint8_t* pixels = in.row(y) + (taps.first[x] - origin) * channels;
            const std::int32_t* weights = taps.weights.data() + x * taps.padded;
            std::int32_t sums[channels];
            std::fill_n(sums, channels, kHalf);
            for (std::int64_t k = 0; k < taps.counts[x]; ++k)
                for (int c = 0; c < channels; ++c) sums[c] += pixels[k * channels + c] * weights[k];
            for (int c = 0; c < channels; ++c)
                out[y * out_stride + x * channels + c] = clip(sums[c]);
        }
    }
}

// Bytes [from, to) of one output row.
void vertical_bytes(const PixelRows& in, std::int64_t first, const std::int32_t* weights,
                    std::int64_t count, std::int64_t from, std::int64_t to, std::uint8_t* out) {
    for (std::int64_t x = from; x < to; ++x) {
        std::int32_t sum = kHalf;
        for (std::int64_t k = 0; k < count; ++k) sum += in.row(first + k)[x] * weights[k];
        out[x] = clip(sum);
    }
}

void vertical_serial(const PixelRows& in, std::int64_t origin, const Taps& taps, std::int64_t bytes,
                     std::uint8_t* out, std::int64_t out_stride) {
    for (std::int64_t y = 0; y < taps.outputs; ++y)
        vertical_bytes(in, taps.first[y] - origin, taps.weights.data() + y * taps.padded,
                       taps.counts[y], 0, bytes, out + y * out_stride);
}

void split_serial(const std::uint8_t* rgb, std::int64_t size, std::uint8_t* red,
                  std::int64_t plane) {
    for (std::int64_t x = 0; x < size; ++x)
        for (int c = 0; c < 3; ++c) red[c * plane + x] = rgb[3 * x + c];
}

constexpr ResizePasses kSerial = {
    {horizontal_serial<1>, horizontal_serial<3>}, vertical_serial, split_serial};

#if defined(__x86_64__)

// Two neighbouring 16-bit weights as one 32-bit lane.
INLINE std::int32_t weight_pair(const std::int16_t* weights) {
    std::int32_t pair;
    std::memcpy(&pair, weights, sizeof pair);
    return pair;
}

INLINE __m128i load16(const std::uint8_t* bytes) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes));
}

// Taps k and k + 1 of an RGB pixel row, zero-extended: r0 r1 g0 g1 b0 b1 0 0.
#define TAPS_01 0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1
#define TAPS_23 6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1

// --- AVX2: two image rows a register, one in each half ---

AVX2 INLINE __m256i finish(__m256i high, __m256i low) {
    const __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(high, kLowBits), low);
    return _mm256_srai_epi32(sum, kWeightBits);
}

AVX2 void horizontal_rgb_avx2(const PixelRows& in, std::int64_t origin, const Taps& taps,
                              std::uint8_t* out, std::int64_t out_stride) {
    const __m256i pick01 = _mm256_broadcastsi128_si256(_mm_setr_epi8(TAPS_01));
    const __m256i pick23 = _mm256_broadcastsi128_si256(_mm_setr_epi8(TAPS_23));
    for (std::int64_t y = 0; y < in.rows; y += 2) {
        const std::int64_t below = std::min(y + 1, in.rows - 1);
        for (std::int64_t x = 0; x < taps.outputs; ++x) {
            const std::int64_t offset = (taps.first[x] - origin) * 3;
            const std::int16_t* highs = taps.high.data() + x * taps.padded;
            const std::int16_t* lows = taps.low.data() + x * taps.padded;
            __m256i high = _mm256_setzero_si256(), low = _mm256_set1_epi32(kHalf);
            for (std::int64_t k = 0; k < taps.counts[x]; k += 4) {
                const __m256i pixels = _mm256_inserti128_si256(
                    _mm256_castsi128_si256(load16(in.row(y) + offset + 3 * k)),
                    load16(in.row(below) + offset + 3 * k), 1);
                const __m256i taps01 = _mm256_shuffle_epi8(pixels, pick01);
                const __m256i taps23 = _mm256_shuffle_epi8(pixels, pick23);
                const auto add = [&](__m256i sum, const std::int16_t* weights) AVX2 {
                    const __m256i w01 = _mm256_set1_epi32(weight_pair(weights + k));
                    const __m256i w23 = _mm256_set1_epi32(weight_pair(weights + k + 2));
                    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(taps01, w01));
                    return _mm256_add_epi32(sum, _mm256_madd_epi16(taps23, w23));
                };
                high = add(high, highs);
                low = add(low, lows);
            }
            __m256i bytes = finish(high, low);
            bytes = _mm256_packs_epi32(bytes, bytes);
            bytes = _mm256_packus_epi16(bytes, bytes);
            // The fourth byte lands on the next pixel, which is written after this one.
            const std::int32_t first = _mm256_extract_epi32(bytes, 0);
            const std::int32_t second = _mm256_extract_epi32(bytes, 4);
            std::memcpy(out + y * out_stride + 3 * x, &first, 4);
            std::memcpy(out + below * out_stride + 3 * x, &second, 4);
        }
    }
}

AVX2 void horizontal_grey_avx2(const PixelRows& in, std::int64_t origin, const Taps& taps,
                               std::uint8_t* out, std::int64_t out_stride) {
    for (std::int64_t y = 0; y < in.rows; ++y) {
        for (std::int64_t x = 0; x < taps.outputs; ++x) {
            const std::uint8_t* pixels = in.row(y) + taps.first[x] - origin;
            const std::int16_t* highs = taps.high.data() + x * taps.padded;
            const std::int16_t* lows = taps.low.data() + x * taps.padded;
            __m128i high = _mm_setzero_si128(), low = _mm_setzero_si128();
            for (std::int64_t k = 0; k < taps.counts[x]; k += 8) {
                const __m128i eight = _mm_cvtepu8_epi16(
                    _mm_loadl_epi64(reinterpret_cast<const __m128i*>(pixels + k)));
                const auto weights = [&](const std::int16_t* from) AVX2 {
                    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + k));
                };
                high = _mm_add_epi32(high, _mm_madd_epi16(eight, weights(highs)));
                low = _mm_add_epi32(low, _mm_madd_epi16(eight, weights(lows)));
            }
            __m128i sum = _mm_add_epi32(_mm_slli_epi32(high, kLowBits), low);
            sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
            sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
            const std::uint32_t total = static_cast<std::uint32_t>(_mm_cvtsi128_si32(sum));
            out[y * out_stride + x] = clip(static_cast<std::int32_t>(total + kHalf));
        }
    }
}

AVX2 INLINE void vertical_block_avx2(const PixelRows& in, std::int64_t first, std::int64_t count,
                                     const std::int16_t* highs, const std::int16_t* lows,
                                     std::int64_t at, std::uint8_t* out) {
    __m256i high[4] = {}, low[4];
    for (__m256i& sum : low) sum = _mm256_set1_epi32(kHalf);
    const __m256i zero = _mm256_setzero_si256();
    for (std::int64_t k = 0; k < count; k += 2) {
        const auto load = [&](std::int64_t row) AVX2 {
            return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in.row(row) + at));
        };
        const __m256i a = load(first + k), b = load(first + std::min(k + 1, count - 1));
        const __m256i ab[2] = {_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)};
        const __m256i weight_high = _mm256_set1_epi32(weight_pair(highs + k));
        const __m256i weight_low = _mm256_set1_epi32(weight_pair(lows + k));
        for (int q = 0; q < 4; ++q) {
            const __m256i pairs = q % 2 ? _mm256_unpackhi_epi8(ab[q / 2], zero)
                                        : _mm256_unpacklo_epi8(ab[q / 2], zero);
            high[q] = _mm256_add_epi32(high[q], _mm256_madd_epi16(pairs, weight_high));
            low[q] = _mm256_add_epi32(low[q], _mm256_madd_epi16(pairs, weight_low));
        }
    }
    const __m256i left = _mm256_packs_epi32(finish(high[0], low[0]), finish(high[1], low[1]));
    const __m256i right = _mm256_packs_epi32(finish(high[2], low[2]), finish(high[3], low[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + at), _mm256_packus_epi16(left, right));
}

AVX2 void vertical_avx2(const PixelRows& in, std::int64_t origin, const Taps& taps,
                        std::int64_t bytes, std::uint8_t* out, std::int64_t out_stride) {
    if (bytes < 32) return vertical_serial(in, origin, taps, bytes, out, out_stride);
    for (std::int64_t y = 0; y < taps.outputs; ++y) {
        const std::int16_t* highs = taps.high.data() + y * taps.padded;
        const std::int16_t* lows = taps.low.data() + y * taps.padded;
        for (std::int64_t at = 0; at < bytes; at += 32)  // the last block overlaps the one before
            vertical_block_avx2(in, taps.first[y] - origin, taps.counts[y], highs, lows,
                                std::min(at, bytes - 32), out + y * out_stride);
    }
}

// 16 pixels: three loads, each giving every plane the bytes it holds.
AVX2 void split_avx2(const std::uint8_t* rgb, std::int64_t size, std::uint8_t* red,
                     std::int64_t plane) {
    if (size < 16) return split_serial(rgb, size, red, plane);
    alignas(16) std::int8_t picks[3][3][16];  // [plane][load][byte]
    for (int c = 0; c < 3; ++c)
        for (int part = 0; part < 3; ++part)
            for (int x = 0; x < 16; ++x) {
                const int byte = 3 * x + c - 16 * part;
                picks[c][part][x] = static_cast<std::int8_t>(byte >= 0 && byte < 16 ? byte : -1);
            }
    for (std::int64_t block = 0; block < size; block += 16) {
        const std::int64_t x = std::min(block, size - 16);
        const __m128i parts[3] = {load16(rgb + 3 * x), load16(rgb + 3 * x + 16),
                                  load16(rgb + 3 * x + 32)};
        for (int c = 0; c < 3; ++c) {
            __m128i bytes = _mm_setzero_si128();
            for (int part = 0; part < 3; ++part) {
                const __m128i pick = _mm_load_si128(reinterpret_cast<__m128i*>(picks[c][part]));
                bytes = _mm_or_si128(bytes, _mm_shuffle_epi8(parts[part], pick));
            }
            _mm_storeu_si128(reinterpret_cast<__m128i*>(red + c * plane + x), bytes);
        }
    }
}

constexpr ResizePasses kAvx2 = {
    {horizontal_grey_avx2, horizontal_rgb_avx2}, vertical_avx2, split_avx2};

// --- AVX-512: four image rows a register, one in each quarter ---

AVX512 INLINE __m512i finish(__m512i high, __m512i low) {
    const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high, kLowBits), low);
    return _mm512_srai_epi32(sum, kWeightBits);
}

AVX512 INLINE __m512i four_rows(const std::uint8_t* const (&rows)[4], std::int64_t at) {
    const __m256i upper = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(rows[0] + at)),
                                                  load16(rows[1] + at), 1);
    const __m256i lower = _mm256_inserti128_si256(_mm256_castsi128_si256(load16(rows[2] + at)),
                                                  load16(rows[3] + at), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(upper), lower, 1);
}

AVX512 void horizontal_rgb_avx512(const PixelRows& in, std::int64_t origin, const Taps& taps,
                                  std::uint8_t* out, std::int64_t out_stride) {
    const __m512i pick01 = _mm512_broadcast_i32x4(_mm_setr_epi8(TAPS_01));
    const __m512i pick23 = _mm512_broadcast_i32x4(_mm_setr_epi8(TAPS_23));
    for (std::int64_t y = 0; y < in.rows; y += 4) {
        const std::uint8_t* rows[4];
        std::uint8_t* targets[4];
        for (int r = 0; r < 4; ++r) {
            rows[r] = in.row(std::min(y + r, in.rows - 1));
            targets[r] = out + std::min(y + r, in.rows - 1) * out_stride;
        }
        for (std::int64_t x = 0; x < taps.outputs; ++x) {
            const std::int64_t offset = (taps.first[x] - origin) * 3;
            const std::int16_t* highs = taps.high.data() + x * taps.padded;
            const std::int16_t* lows = taps.low.data() + x * taps.padded;
            __m512i high = _mm512_setzero_si512(), low = _mm512_set1_epi32(kHalf);
            for (std::int64_t k = 0; k < taps.counts[x]; k += 4) {
                const __m512i pixels = four_rows(rows, offset + 3 * k);
                const __m512i taps01 = _mm512_shuffle_epi8(pixels, pick01);
                const __m512i taps23 = _mm512_shuffle_epi8(pixels, pick23);
                const auto add = [&](__m512i sum, const std::int16_t* weights) AVX512 {
                    const __m512i w01 = _mm512_set1_epi32(weight_pair(weights + k));
                    const __m512i w23 = _mm512_set1_epi32(weight_pair(weights + k + 2));
                    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(taps01, w01));
                    return _mm512_add_epi32(sum, _mm512_madd_epi16(taps23, w23));
                };
                high = add(high, highs);
                low = add(low, lows);
            }
            // Sixteen saturated bytes: RGB and a byte that the next pixel overwrites, four times.
            alignas(16) std::uint8_t bytes[16];
            const __m512i sums = _mm512_max_epi32(finish(high, low), _mm512_setzero_si512());
            _mm_store_si128(reinterpret_cast<__m128i*>(bytes), _mm512_cvtusepi32_epi8(sums));
            for (int r = 0; r < 4; ++r) std::memcpy(targets[r] + 3 * x, bytes + 4 * r, 4);
        }
    }
}

AVX512 INLINE void vertical_block_avx512(const PixelRows& in, std::int64_t first,
                                         std::int64_t count, const std::int16_t* highs,
                                         const std::int16_t* lows, std::int64_t at,
                                         std::uint8_t* out) {
    __m512i high[4] = {}, low[4];
    for (__m512i& sum : low) sum = _mm512_set1_epi32(kHalf);
    const __m512i zero = _mm512_setzero_si512();
    for (std::int64_t k = 0; k < count; k += 2) {
        const __m512i a = _mm512_loadu_si512(in.row(first + k) + at);
        const __m512i b = _mm512_loadu_si512(in.row(first + std::min(k + 1, count - 1)) + at);
        const __m512i ab[2] = {_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)};
        const __m512i weight_high = _mm512_set1_epi32(weight_pair(highs + k));
        const __m512i weight_low = _mm512_set1_epi32(weight_pair(lows + k));
        for (int q = 0; q < 4; ++q) {
            const __m512i pairs = q % 2 ? _mm512_unpackhi_epi8(ab[q / 2], zero)
                                        : _mm512_unpacklo_epi8(ab[q / 2], zero);
            high[q] = _mm512_add_epi32(high[q], _mm512_madd_epi16(pairs, weight_high));
            low[q] = _mm512_add_epi32(low[q], _mm512_madd_epi16(pairs, weight_low));
        }
    }
    const __m512i left = _mm512_packs_epi32(finish(high[0], low[0]), finish(high[1], low[1]));
    const __m512i right = _mm512_packs_epi32(finish(high[2], low[2]), finish(high[3], low[3]));
    _mm512_storeu_si512(out + at, _mm512_packus_epi16(left, right));
}

AVX512 void vertical_avx512(const PixelRows& in, std::int64_t origin, const Taps& taps,
                            std::int64_t bytes, std::uint8_t* out, std::int64_t out_stride) {
    if (bytes < 64) return vertical_avx2(in, origin, taps, bytes, out, out_stride);
    for (std::int64_t y = 0; y < taps.outputs; ++y) {
        const std::int16_t* highs = taps.high.data() + y * taps.padded;
        const std::int16_t* lows = taps.low.data() + y * taps.padded;
        for (std::int64_t at = 0; at < bytes; at += 64)  // the last block overlaps the one before
            vertical_block_avx512(in, taps.first[y] - origin, taps.counts[y], highs, lows,
                                  std::min(at, bytes - 64), out + y * out_stride);
    }
}

constexpr ResizePasses kAvx512 = {
    {horizontal_grey_avx2, horizontal_rgb_avx512}, vertical_avx512, split_avx2};

#undef TAPS_01
#undef TAPS_23
#endif

}  // namespace

const ResizePasses& resize_passes(Isa isa) {
    switch (isa) {
        case Isa::serial:
            return kSerial;
#if defined(__x86_64__)
        case Isa::avx2:
            return kAvx2;
        case Isa::avx512:
        case Isa::avx512_bf16:
            return kAvx512;
#else
        default:
            break;
#endif
    }
    return kSerial;
}

}  // namespace clipfast
