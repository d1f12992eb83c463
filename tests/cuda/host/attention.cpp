// The attention loops on the checking machine, for ctypes.
#include "cuda/attention_loop.h"
#include "host_machine.h"

namespace clipfast::cuda {
namespace {

thread_local std::string message;
thread_local int64_t bank_conflicts = 0;

using Loop = std::function<void(Host&)>;

template <class T, int kHeadDim>
Loop choose_loop(const AttentionParams& p, const AttentionPlan& plan) {
    if (plan.loop == AttentionLoop::online) {
        return [=](Host& m) { attend_dense_online<Host, T, kHeadDim>(m, p, plan); };
    }
    if (plan.loop == AttentionLoop::packed) {
        return [=](Host& m) { attend_packed<Host, T, kHeadDim>(m, p, plan); };
    }
    if (plan.key_tiles == 33) {
        return [=](Host& m) { attend_resident<Host, T, kHeadDim, 33>(m, p, plan); };
    }
    if constexpr (kHeadDim == 64) {
        if (plan.key_tiles == 7) {
            return [=](Host& m) { attend_resident<Host, T, kHeadDim, 7>(m, p, plan); };
        }
        if (plan.key_tiles == 10) {
            return [=](Host& m) { attend_resident<Host, T, kHeadDim, 10>(m, p, plan); };
        }
        return [=](Host& m) { attend_resident<Host, T, kHeadDim, 25>(m, p, plan); };
    }
    return nullptr;
}

template <class T>
Loop choose_loop(const AttentionParams& p, const AttentionPlan& plan, int head_dim) {
    switch (head_dim) {
        case 64:
            return choose_loop<T, 64>(p, plan);
#ifndef ONE_HEAD_DIM
        case 72:
            return choose_loop<T, 72>(p, plan);
        case 80:
            return choose_loop<T, 80>(p, plan);
        case 88:
            return choose_loop<T, 88>(p, plan);
        case 104:
            return choose_loop<T, 104>(p, plan);
#endif
        default:
            return nullptr;
    }
}

const char* run(const HostBlock::Options& options, std::vector<Region> regions, const Loop& loop) {
    HostBlock block(options, std::move(regions));
    message = block.run(loop);
    bank_conflicts = block.bank_conflicts();
    return message.empty() ? nullptr : message.c_str();
}

}  // namespace
}  // namespace clipfast::cuda

using namespace clipfast::cuda;

extern "C" {

int64_t last_bank_conflicts() { return bank_conflicts; }

const char* attention(const uint16_t* qkv, uint16_t* out, const int32_t* cu_seqlens, int rows,
                      int qkv_stride, int out_stride, int sequences, int length, int heads,
                      int head_dim, int causal, int brain, const int32_t* limits, int reversed) {
    const AttentionParams p = {qkv,       out,    cu_seqlens, qkv_stride, out_stride,
                               sequences, length, heads,      causal != 0};
    const AttentionPlan plan = plan_attention(p, head_dim, {limits[0], limits[1], limits[2]});
    const Loop loop =
        brain ? choose_loop<Bfloat16>(p, plan, head_dim) : choose_loop<Float16>(p, plan, head_dim);
    HostBlock::Options options;
    options.blocks = blocks_of(p, plan);
    options.threads = plan.warps * 32;
    options.shared_bytes = plan.shared_bytes;
    options.reversed = reversed;
    return run(
        options,
        {readable(qkv, int64_t{rows} * qkv_stride), writable(out, int64_t{rows} * out_stride),
         readable(cu_seqlens, cu_seqlens ? sequences + 1 : 0)},
        loop);
}

const char* attention_pool(const uint16_t* query, const uint16_t* kv, uint16_t* out,
                           const int32_t* cu_seqlens, const int32_t* key_rows, int rows, int keys,
                           int sequences, int length, int heads, int head_dim, int brain,
                           int reversed) {
    const int width = heads * head_dim;
    const AttentionPoolParams p = {query,     kv,    out,       cu_seqlens, key_rows, width,
                                   2 * width, width, sequences, length,     heads,    head_dim};
    HostBlock::Options options;
    options.blocks = int64_t{sequences} * heads;
    options.threads = kPoolThreads;
    options.shared_bytes = single_query_bytes(head_dim);
    options.reversed = reversed;
    return run(options,
               {readable(query, int64_t{sequences} * width),
                readable(kv, int64_t{rows} * 2 * width), writable(out, int64_t{sequences} * width),
                readable(cu_seqlens, cu_seqlens ? sequences + 1 : 0),
                readable(key_rows, key_rows ? keys : 0)},
               [=](Host& m) {
                   brain ? pool_one_head<Host, Bfloat16>(m, p) : pool_one_head<Host, Float16>(m, p);
               });
}

}  // extern "C"
