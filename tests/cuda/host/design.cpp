// Schedules and the shared memory of every launch, for ctypes: what the kernels are designed for on
// a device that need not be here.
#include <iterator>

#include "cuda/attention_plan.h"
#include "cuda/patch_embed_loop.h"
#include "cuda/resize_params.h"
#include "cuda/similarity_loop.h"
#include "cuda/top_k_loop.h"

using namespace clipfast::cuda;

extern "C" {

// plan_out: loop, key_tiles, warps, row_blocks, first_row, kept_rows, keeps_all, shared_bytes,
// blocks_a_multiprocessor, query_block.
void plan(int sequences, int length, int heads, int head_dim, int packed, int causal,
          const int32_t* limits, int32_t* plan_out) {
    AttentionParams p{};
    const int32_t present = 0;
    p.cu_seqlens = packed ? &present : nullptr;
    p.sequences = sequences;
    p.length = length;
    p.heads = heads;
    p.causal = causal;
    const AttentionPlan made = plan_attention(p, head_dim, {limits[0], limits[1], limits[2]});
    const int32_t values[] = {static_cast<int32_t>(made.loop),
                              made.key_tiles,
                              made.warps,
                              made.row_blocks,
                              made.first_row,
                              made.kept_rows,
                              made.keeps_all,
                              made.shared_bytes,
                              made.blocks_a_multiprocessor,
                              made.query_block};
    std::copy(std::begin(values), std::end(values), plan_out);
}

int pool_bytes(int head_dim) { return single_query_bytes(head_dim); }

int patch_embed_bytes() { return kPatchEmbedSharedBytes; }

int top_k_bytes(int k, int bytes) {
    const uint32_t epilogue = top_k_shared_bytes(candidate_capacity(k));
    return bytes ? scan_shared_bytes<ByteRows<Bfloat16>>(epilogue)
                 : scan_shared_bytes<ElementRows<Bfloat16, 16, true>>(epilogue);
}

int similarity_bytes(int bytes) {
    return bytes ? scan_shared_bytes<ByteRows<Bfloat16>>(kSoftmaxSharedBytes)
                 : scan_shared_bytes<ElementRows<Bfloat16, 16, true>>(kSoftmaxSharedBytes);
}

int resize_bytes(int size, int shared_bytes_per_block) {
    return resize_shared_bytes(size, resize_band(size, shared_bytes_per_block));
}

}  // extern "C"
