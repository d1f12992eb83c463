// What attention is asked for, and the schedule that serves it: which loop, how many warps, how
// rows are shared out. Plain C++: tests plan for every architecture on a machine without a GPU.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/element.h"

namespace clipfast::cuda {

// qkv: (T, 3D), columns query, key, value, each heads * head_dim wide. out: (T, D). Strides in
// elements, rows 16-byte aligned. Dense: sequences of `length` rows each, cu_seqlens null. Packed:
// cu_seqlens (sequences + 1,).
struct AttentionParams {
    const uint16_t* qkv;
    uint16_t* out;
    const int32_t* cu_seqlens;
    int32_t qkv_stride, out_stride;
    int32_t sequences, length, heads;
    bool causal;
};

// query, out: (sequences, D). kv: (T, 2D). key_rows: which rows of kv the keys are, or null for
// consecutive rows.
struct AttentionPoolParams {
    const uint16_t* query;
    const uint16_t* kv;
    uint16_t* out;
    const int32_t* cu_seqlens;
    const int32_t* key_rows;
    int32_t query_stride, kv_stride, out_stride;
    int32_t sequences, length, heads, head_dim;
};

struct DeviceLimits {
    int32_t multiprocessors;
    int32_t shared_bytes_per_multiprocessor;
    int32_t shared_bytes_per_block;  // the opt-in maximum
};

enum class AttentionLoop {
    resident,  // a block per (sequence, head, row block): K and V in shared memory whole, plain
               // softmax
    online,    // the same blocks: K and V in tiles of 64 keys, running softmax
    packed,    // a warp per (sequence, head): tiles of 32 keys, running softmax; only the device
               // knows the lengths
};

struct AttentionPlan {
    AttentionLoop loop;
    int32_t key_tiles;     // eights of keys whose scores a warp holds at once
    int32_t warps;         // a block
    int32_t row_blocks;    // blocks among which the rows of one (sequence, head) are divided
    int32_t first_row;     // 1 when the class token's query runs off the tensor cores, else 0
    int32_t query_block;   // the row block that serves it: the first, or one more, after the last
    int32_t kept_rows;     // online: rows of K, and of V, in shared memory
    bool keeps_all;        // online: they are all rows, each loaded once; else a ring of tiles
    int32_t shared_bytes;  // a block
    int32_t blocks_a_multiprocessor;  // that are meant to run side by side
};

constexpr int kRowTile = 16;
constexpr int kResidentKeyTiles[] = {7, 10, 25, 33};  // 50; 65 and 77; 197; 226 and 257 tokens
constexpr int kOnlineKeyTiles = 8, kOnlineSlots = 3;
constexpr int kPackedKeyTiles = 4, kPackedWarps = 4;
constexpr int kMaxWarps = 16;
constexpr int kScoreBlock =
    512;  // keys of a single query that are scored before its running softmax moves on
constexpr int kPoolThreads = 128;
constexpr int kMaxPoolHeadDim = 128;

constexpr int kMaxSlices = 16;  // of a single query's keys, each summed by threads of its own

// Scratch of one query, float32: itself, its scores, a partial output for each slice, two values a
// warp.
constexpr int single_query_bytes(int head_dim) {
    return 4 * (head_dim + kScoreBlock + kMaxSlices * head_dim + 2 * kMaxWarps);
}

// Warps that registers leave room for on a multiprocessor: 65,536 / (32 * warps) registers a
// thread.
constexpr int warps_by_registers(AttentionLoop loop, int key_tiles, int head_dim) {
    switch (loop) {
        case AttentionLoop::resident:
            return key_tiles <= 10 ? 16 : 8;
        case AttentionLoop::online:
            return head_dim <= 72 ? 12 : 8;
        case AttentionLoop::packed:
            return head_dim == 64 ? 16 : 12;
    }
    return 0;
}

namespace detail {

constexpr int ceil_divide(int a, int b) { return (a + b - 1) / b; }

// Blocks whose shared memory fits a multiprocessor at once.
inline int blocks_that_fit(const AttentionPlan& plan, const DeviceLimits& device) {
    constexpr int kReservedBytes = 1024;  // of shared memory per block, by the system
    return device.shared_bytes_per_multiprocessor / (plan.shared_bytes + kReservedBytes);
}

// The warps of a block, and the blocks that share a multiprocessor, that keep most warps busy on
// `tiles` row tiles.
inline void share_rows(AttentionPlan& plan, int tiles, int head_dim, int units,
                       const DeviceLimits& device) {
    const int fit = blocks_that_fit(plan, device);
    const int warps = warps_by_registers(plan.loop, plan.key_tiles, head_dim);
    int best_blocks = 1, best_rounds = 1;
    double most_busy = 0.0;
    for (int blocks = std::clamp(fit, 1, 4); blocks >= 1; --blocks) {
        const int rounds = ceil_divide(tiles, warps / blocks);
        const double busy = static_cast<double>(blocks) * tiles / rounds;
        if (busy <= most_busy) continue;
        most_busy = busy;
        best_blocks = blocks;
        best_rounds = rounds;
    }
    plan.warps = ceil_divide(tiles, best_rounds);
    plan.blocks_a_multiprocessor = best_blocks;
    // A ring reloads its tiles for every round anyway; kept rows are shared among as few blocks as
    // fill the device.
    const bool ring = plan.loop == AttentionLoop::online && !plan.keeps_all;
    const int wanted = ceil_divide(device.multiprocessors * best_blocks, units);
    plan.row_blocks = ring ? best_rounds : std::clamp(wanted, 1, best_rounds);
}

inline bool try_resident(AttentionPlan& plan, int length, int head_dim,
                         const DeviceLimits& device) {
    const int tiles = ceil_divide(length, 8);
    for (const int capacity : kResidentKeyTiles) {
        if (tiles > capacity) continue;
        if (head_dim != 64 && capacity != 33) return false;
        plan.loop = AttentionLoop::resident;
        plan.key_tiles = capacity;
        plan.shared_bytes = 2 * capacity * 8 * head_dim * 2;
        if (plan.first_row) plan.shared_bytes += single_query_bytes(head_dim);
        return plan.shared_bytes <= device.shared_bytes_per_block;
    }
    return false;
}

}  // namespace detail

inline AttentionPlan plan_attention(const AttentionParams& params, int head_dim,
                                    const DeviceLimits& device) {
    using namespace detail;
    AttentionPlan plan{};
    const int row_bytes = 2 * head_dim * 2;  // of K and V
    if (params.cu_seqlens != nullptr) {
        plan.loop = AttentionLoop::packed;
        plan.key_tiles = kPackedKeyTiles;
        plan.warps = kPackedWarps;
        plan.row_blocks = 1;
        plan.kept_rows = kPackedKeyTiles * 8;
        plan.shared_bytes = plan.warps * plan.kept_rows * row_bytes;
        plan.blocks_a_multiprocessor =
            std::min(warps_by_registers(plan.loop, plan.key_tiles, head_dim) / plan.warps,
                     blocks_that_fit(plan, device));
        return plan;
    }
    const int length = params.length;
    const int units = std::max(1, params.sequences * params.heads);
    plan.first_row = !params.causal && length > kRowTile && length % kRowTile == 1;
    if (!params.causal && try_resident(plan, length, head_dim, device)) {
        share_rows(plan, ceil_divide(length - plan.first_row, kRowTile), head_dim, units, device);
        // After the first block's rounds the query would be the last to finish: where one more
        // block a head runs beside the others, it has its own.
        const int side_by_side = device.multiprocessors * plan.blocks_a_multiprocessor;
        if (plan.first_row && int64_t{units} * (plan.row_blocks + 1) <= side_by_side) {
            plan.query_block = plan.row_blocks;
        }
        return plan;
    }
    plan.loop = AttentionLoop::online;
    plan.key_tiles = kOnlineKeyTiles;
    plan.kept_rows = ceil_divide(length, 16) * 16;
    plan.shared_bytes = plan.kept_rows * row_bytes;
    if (plan.first_row) plan.shared_bytes += single_query_bytes(head_dim);
    plan.keeps_all = plan.shared_bytes <= device.shared_bytes_per_block;
    if (!plan.keeps_all) {
        plan.first_row = 0;
        plan.kept_rows = kOnlineSlots * kOnlineKeyTiles * 8;
        plan.shared_bytes = plan.kept_rows * row_bytes;
    }
    share_rows(plan, ceil_divide(length - plan.first_row, kRowTile), head_dim, units, device);
    return plan;
}

// Blocks of the grid.
inline int64_t blocks_of(const AttentionParams& params, const AttentionPlan& plan) {
    const int64_t units = static_cast<int64_t>(params.sequences) * params.heads;
    if (plan.loop == AttentionLoop::packed) return (units + plan.warps - 1) / plan.warps;
    return params.length == 0 ? 0 : units * (plan.row_blocks + (plan.query_block > 0));
}

}  // namespace clipfast::cuda
