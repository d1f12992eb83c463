// The loops' index arithmetic, each piece by itself, for ctypes.
#include "cuda/attention_tile.h"
#include "cuda/scan_loop.h"
#include "cuda/top_k_loop.h"
#include "host_machine.h"

namespace clipfast::cuda {
namespace {

thread_local std::string message;

using Loop = std::function<void(Host&)>;

const char* run_warp(int shared_bytes, std::vector<Region> regions, const Loop& loop) {
    HostBlock::Options options;
    options.shared_bytes = shared_bytes;
    HostBlock block(options, std::move(regions));
    message = block.run(loop);
    return message.empty() ? nullptr : message.c_str();
}

// Calls `use` with the number of chunks as a constant: those of the slices and of the head dims.
template <class Use>
auto with_chunks(int chunks, const Use& use) {
    switch (chunks) {
        case 4:
            return use(std::integral_constant<int, 4>());
        case 8:
            return use(std::integral_constant<int, 8>());
        case 9:
            return use(std::integral_constant<int, 9>());
        case 10:
            return use(std::integral_constant<int, 10>());
        case 11:
            return use(std::integral_constant<int, 11>());
        default:
            return use(std::integral_constant<int, 13>());
    }
}

}  // namespace
}  // namespace clipfast::cuda

using namespace clipfast::cuda;

extern "C" {

int chunk_place(int chunks, int row, int chunk) {
    return with_chunks(chunks, [&](auto count) { return swizzle<count.value>(row, chunk); });
}

int chunk_byte(int chunks, int row, int chunk) {
    return with_chunks(chunks, [&](auto count) {
        return static_cast<int>(chunk_offset<count.value>(row, chunk));
    });
}

// rows: (8, 8 chunks) elements. words: (32, chunks), of the transposed blocks when `transposed`.
const char* fragment_of_rows(const uint16_t* rows, int chunks, int transposed, uint32_t* words) {
    const int elements = 64 * chunks;
    return with_chunks(chunks, [&](auto count) {
        constexpr int kChunks = count.value;
        return run_warp(2 * elements, {readable(rows, elements)}, [&](Host& m) {
            copy_rows<Host, kChunks>(m, m.thread(), 32, 0, rows, 8 * kChunks, 0, 8, 8);
            m.commit_copies();
            m.wait_copies<0>();
            m.sync();
            uint32_t mine[kChunks];
            transposed ? load_eight_rows<Host, kChunks, true>(m, 0, mine)
                       : load_eight_rows<Host, kChunks, false>(m, 0, mine);
            std::copy(mine, mine + kChunks, words + m.thread() * kChunks);
        });
    });
}

// rows: (count, 8 chunks) elements. words: (32, chunks, 2).
const char* fragment_of_queries(const uint16_t* rows, int count, int chunks, int first_row,
                                uint32_t* words) {
    return with_chunks(chunks, [&](auto number) {
        constexpr int kChunks = number.value;
        const Head head = {rows, nullptr, 8 * kChunks, 0, 0, count};
        return run_warp(0, {readable(rows, count * 8 * kChunks)}, [&](Host& m) {
            uint32_t q[kChunks][2];
            load_queries<Host, kChunks>(m, head, first_row, q);
            std::memcpy(words + m.thread() * 2 * kChunks, q, sizeof q);
        });
    });
}

// sums: (32, chunks, 4), totals: (32, 2). out: (count, 8 chunks) elements.
const char* rows_of_fragment(const float* sums, const float* totals, int count, int chunks,
                             int first_row, uint16_t* out) {
    return with_chunks(chunks, [&](auto number) {
        constexpr int kChunks = number.value;
        const Head head = {nullptr, out, 0, 8 * kChunks, 0, count};
        return run_warp(0, {writable(out, count * 8 * kChunks)}, [&](Host& m) {
            float o[kChunks][4], total[2];
            std::memcpy(o, sums + m.thread() * 4 * kChunks, sizeof o);
            std::memcpy(total, totals + m.thread() * 2, sizeof total);
            store_rows<Host, Float16, kChunks>(m, head, first_row, o, total);
        });
    });
}

// words: (32, 4), exchanged in place.
const char* exchange_quads(uint32_t* words) {
    return run_warp(0, {}, [&](Host& m) {
        uint32_t mine[4];
        std::memcpy(mine, words + 4 * m.thread(), sizeof mine);
        transpose_quad(m, mine);
        std::memcpy(words + 4 * m.thread(), mine, sizeof mine);
    });
}

// scores: (32, 4), masked in place.
const char* mask(int column, const int* visible, float* scores) {
    const int limits[2] = {visible[0], visible[1]};
    return run_warp(0, {}, [&](Host& m) {
        float mine[4];
        std::memcpy(mine, scores + 4 * m.thread(), sizeof mine);
        mask_scores(m, column, limits, mine);
        std::memcpy(scores + 4 * m.thread(), mine, sizeof mine);
    });
}

// first_and_end: rounds of row tiles of one block.
void rounds(int rows, int warps, int block, int blocks, int* first_and_end) {
    const Rounds made(rows, warps, block, blocks);
    first_and_end[0] = made.first;
    first_and_end[1] = made.end;
}

// unit: sequence, head, row block.
void dense_block(int block, int heads, int row_blocks, int* unit) {
    const DenseBlock made(block, heads, row_blocks);
    unit[0] = made.sequence;
    unit[1] = made.head;
    unit[2] = made.row_block;
}

void slice_tiles(int gallery_rows, int slices, int slice, int* first_and_count) {
    CosineParams p{};
    p.gallery.rows = gallery_rows;
    p.slices = slices;
    const SliceTiles made(p, slice);
    first_and_count[0] = made.first;
    first_and_count[1] = made.count;
}

void place_in_product(int thread, int* row_and_column) {
    row_and_column[0] = first_row_of(thread);
    row_and_column[1] = first_column_of(thread);
}

// row: `capacity` keys, `count` of which are there.
const char* keep(uint64_t* row, int capacity, int count, int k, uint64_t* threshold) {
    return run_warp(8 * capacity + 8, {writable(row, capacity)}, [&](Host& m) {
        if (m.thread() == 0) m.shared_store(8 * capacity, kNoKey);
        m.sync();
        keep_best(m, row, count, k, 0, 8 * capacity);
        m.sync();
        if (m.thread() == 0) *threshold = m.shared_load<uint64_t>(8 * capacity);
    });
}

// candidates: (slices, 128, capacity), each row's first k sorted. scores, indices: (queries, k).
const char* merge(uint64_t* candidates, int queries, int slices, int capacity, int k, float* scores,
                  int64_t* indices) {
    TopKParams p{};
    p.cosines.slices = slices;
    p.cosines.query_tiles = 1;
    p.candidates = candidates;
    p.scores = scores;
    p.indices = indices;
    p.k = k;
    p.capacity = capacity;
    HostBlock::Options options;
    options.blocks = queries;
    options.shared_bytes = 4 * slices;
    HostBlock block(
        options, {writable(candidates, int64_t{slices} * kTileRows * capacity),
                  writable(scores, int64_t{queries} * k), writable(indices, int64_t{queries} * k)});
    message = block.run([&](Host& m) { merge_top_k(m, p); });
    return message.empty() ? nullptr : message.c_str();
}

}  // extern "C"
