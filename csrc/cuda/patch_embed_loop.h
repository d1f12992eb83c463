// tokens[b] = [class_row; patches(pixels[b]) weight^T + bias + positions], as a product of 128
// patches and 128 features.
//
// Pixels are bytes until they stand in shared memory: loaded one slice ahead into registers,
// widened (exactly: integers below 256), and stored as the product's operand, so that no image of
// floats ever exists. Depth is ordered channel, row, column. A patch of 14 pixels a row is read in
// pairs, which even offsets keep aligned; 16 and 32 in 16 bytes. Source: Dosovitskiy et al. 2020,
// arXiv:2010.11929, equation 1.
#pragma once

#include <type_traits>

#include "cuda/operand_loop.h"
#include "cuda/patch_embed_params.h"

namespace clipfast::cuda {

// The operand whose rows are patches, kPatch pixels wide.
template <class T, int kPatch>
class PixelPatches {
  public:
    static constexpr int kAhead = 1;
    static constexpr uint32_t kSharedBytes = 2 * kSliceBytes;

    template <class M>
    __device__ __forceinline__ PixelPatches(M& m, const PatchEmbedParams& p, int first_patch,
                                            uint32_t shared_at)
        : p_(p), at_(shared_at) {
        const int cells = p.grid * p.grid, last = p.images * cells - 1;
        const int first_image = first_patch / cells;
        image_ = p.pixels + first_image * p.image_stride;
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            // Rows beyond the last patch read it again; nothing stores them.
            const int patch = min(first_patch + row_of(m, i), last);
            const int image = patch / cells, cell = patch % cells;
            offset_[i] = static_cast<int>((image - first_image) * p.image_stride) +
                         cell / p.grid * kPatch * p.row_stride + cell % p.grid * kPatch;
        }
    }

    template <class M>
    __device__ __forceinline__ void issue(M& m, int, int slice, int) {
        const int depth = slice * kSlice + column_of(m.thread_anew());
        const int channel = depth / (kPatch * kPatch), row = depth / kPatch % kPatch;
        const int at = channel * p_.channel_stride + row * p_.row_stride + depth % kPatch;
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            held_[i] = channel < 3 ? m.load(reinterpret_cast<const Load*>(image_ + offset_[i] + at))
                                   : Load{};
        }
    }

    template <class M>
    __device__ __forceinline__ void land(M& m, int step) {
        const int column = column_of(m.thread());
        const int chunk = column / kChunkElements, within = column % kChunkElements;
#pragma unroll
        for (int i = 0; i < kLoads; ++i) {
            const uint32_t to = tile_at(step);
            if constexpr (kPairs) {
                m.shared_store(to + chunk_offset<kSliceChunks>(row_of(m, i), chunk) + 2 * within,
                               widen(m, held_[i]));
            } else {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    Vector16 wide;
#pragma unroll
                    for (int w = 0; w < 4; ++w) {
                        wide.word[w] = widen(m, held_[i].word[2 * half + w / 2] >> (w % 2 * 16));
                    }
                    m.shared_store(to + chunk_offset<kSliceChunks>(row_of(m, i), chunk + half),
                                   wide);
                }
            }
        }
    }

    __device__ __forceinline__ uint32_t tile_at(int step) const {
        return at_ + step % 2 * kSliceBytes;
    }

    template <class M>
    __device__ __forceinline__ void finish_tile(M&) {}

  private:
    static_assert(kPatch == 14 || kPatch == 16 || kPatch == 32, "the patch sizes of CLIP");
    static constexpr bool kPairs = kPatch % 16 != 0;
    using Load = std::conditional_t<kPairs, uint16_t, Vector16>;
    static constexpr int kPixels = sizeof(Load), kThreadsARow = kSlice / kPixels;
    static constexpr int kRowStep = kProductThreads / kThreadsARow;
    static constexpr int kLoads = kTileRows / kRowStep;

    template <class M>
    static __device__ __forceinline__ int row_of(M& m, int i) {
        return m.thread() / kThreadsARow + i * kRowStep;
    }
    static __device__ __forceinline__ int column_of(int thread) {
        return thread % kThreadsARow * kPixels;
    }
    // The two lowest bytes as elements: 2^23 + byte is exact, and so is the difference.
    template <class M>
    static __device__ __forceinline__ uint32_t widen(M& m, uint32_t two) {
        const float low = m.float_from_bits(0x4b000000u | (two & 0xffu)) - 8388608.0f;
        const float high = m.float_from_bits(0x4b000000u | (two >> 8 & 0xffu)) - 8388608.0f;
        return m.template pack<T>(low, high);
    }

    const PatchEmbedParams& p_;
    const uint8_t* image_;
    uint32_t at_;
    int offset_[kLoads];
    Load held_[kLoads];
};

// Numbers i and i + 1, i even, of a model's weights.
template <class M, class T>
__device__ __forceinline__ FloatPair load_pair(M& m, const Numbers& numbers, int64_t i) {
    if (numbers.data == nullptr) return {0.0f, 0.0f};
    if (numbers.wide) {
        return m.load_constant(
            reinterpret_cast<const FloatPair*>(static_cast<const float*>(numbers.data) + i));
    }
    const auto* halves = static_cast<const uint16_t*>(numbers.data) + i;
    return m.template unpack<T>(m.load_constant(reinterpret_cast<const uint32_t*>(halves)));
}

// Adds bias and positions and stores 16 bytes a lane; the thread that stores a first patch stores
// its class row too.
template <class M, class T>
class TokenEpilogue {
  public:
    __device__ __forceinline__ TokenEpilogue(const PatchEmbedParams& p, int first_patch,
                                             int first_feature)
        : p_(p), first_patch_(first_patch), first_feature_(first_feature) {}

    __device__ __forceinline__ void take(M& m, int, Accumulator& sum) {
        const int thread = m.thread_anew(), t = thread & 3;
        const int cells = p_.grid * p_.grid, width = p_.weight.rows;
        const int feature = first_feature_ + first_column_of(thread);
        const int chunk_feature = feature - 2 * t + t * kChunkElements;
#pragma unroll
        for (int r = 0; r < 2 * kWarpRowTiles; ++r) {
            const int patch = first_patch_ + first_row_of(thread) + 16 * (r / 2) + 8 * (r % 2);
            const bool exists = patch < p_.images * cells;  // every lane takes part in the exchange
            const int image = patch / cells, cell = patch % cells;
            Vector16 chunk;
#pragma unroll
            for (int j = 0; j < kWarpColumnTiles; ++j) {
                const int column = feature + 8 * j;
                FloatPair shift = {0.0f, 0.0f}, position = {0.0f, 0.0f};
                if (exists && column < width) {
                    shift = load_pair<M, T>(m, p_.bias, column);
                    position = load_pair<M, T>(m, p_.positions,
                                               static_cast<int64_t>(cell) * width + column);
                }
                const float* two = &sum.at[r / 2][j][2 * (r % 2)];
                chunk.word[j] = m.template pack<T>(two[0] + shift.low + position.low,
                                                   two[1] + shift.high + position.high);
            }
            transpose_quad(m, chunk.word);
            if (!exists || chunk_feature >= width) continue;
            uint16_t* out =
                p_.out + (static_cast<int64_t>(image) * (cells + 1)) * width + chunk_feature;
            m.store(reinterpret_cast<Vector16*>(out + (cell + 1) * width), chunk);
            if (cell == 0) m.store(reinterpret_cast<Vector16*>(out), class_chunk(m, chunk_feature));
        }
    }

  private:
    __device__ __forceinline__ Vector16 class_chunk(M& m, int feature) {
        Vector16 chunk;
#pragma unroll
        for (int w = 0; w < 4; ++w) {
            const FloatPair pair = load_pair<M, T>(m, p_.class_row, feature + 2 * w);
            chunk.word[w] = m.template pack<T>(pair.low, pair.high);
        }
        return chunk;
    }

    const PatchEmbedParams& p_;
    int first_patch_, first_feature_;
};

constexpr uint32_t kPatchEmbedSharedBytes = 2 * kSliceBytes + kStages * kSliceBytes;

// Blocks of the same patches, one for each 128 features, lie side by side.
template <class M, class T, int kPatch>
__device__ __forceinline__ void embed_patches(M& m, const PatchEmbedParams& p) {
    using Pixels = PixelPatches<T, kPatch>;
    // Rows of 3 * 14 * 14 elements are 8-byte aligned only.
    using Weights = ElementRows<T, kPatch == 14 ? 8 : 16, false>;
    const int feature_tiles = divide_up(p.weight.rows, kTileRows);
    const int first_patch = m.block_x() / feature_tiles * kTileRows;
    const int first_feature = m.block_x() % feature_tiles * kTileRows;
    Pixels pixels(m, p, first_patch, 0);
    Weights weights(p.weight, first_feature, false, Pixels::kSharedBytes, 0);
    TokenEpilogue<M, T> epilogue(p, first_patch, first_feature);
    multiply_tiles<M, T>(m, pixels, weights, 1, divide_up(3 * kPatch * kPatch, kSlice), epilogue);
}

}  // namespace clipfast::cuda
