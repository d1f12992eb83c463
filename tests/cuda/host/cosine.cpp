// The loops of similarity and top-k on the checking machine, for ctypes.
#include "cuda/similarity_loop.h"
#include "cuda/top_k_loop.h"
#include "host_machine.h"

namespace clipfast::cuda {
namespace {

thread_local std::string message;

using Loop = std::function<void(Host&)>;

bool fails(int64_t blocks, int threads, int shared_bytes, bool reversed,
           const std::vector<Region>& regions, const Loop& loop) {
    HostBlock::Options options;
    options.blocks = blocks;
    options.threads = threads;
    options.shared_bytes = shared_bytes;
    options.reversed = reversed;
    HostBlock block(options, regions);
    message = block.run(loop);
    if (message.empty() && block.bank_conflicts() != 0) message = "ldmatrix rows share banks";
    return !message.empty();
}

Region rows_of(const RowMatrix& matrix, int element_bytes) {
    const auto* data = static_cast<const char*>(matrix.data);
    return readable(data, matrix.rows * matrix.stride * element_bytes);
}

template <class T, class Gallery>
const char* run_top_k(const TopKParams& p, bool reversed, const std::vector<Region>& regions) {
    const int shared = scan_shared_bytes<Gallery>(top_k_shared_bytes(p.capacity));
    const int64_t blocks = int64_t{p.cosines.slices} * p.cosines.query_tiles;
    if (fails(blocks, kProductThreads, shared, reversed, regions,
              [&](Host& m) { scan_top_k<Host, T, Gallery>(m, p); }) ||
        fails(p.cosines.queries.rows, 32, 4 * p.cosines.slices, reversed, regions,
              [&](Host& m) { merge_top_k(m, p); })) {
        return message.c_str();
    }
    return nullptr;
}

template <class T, class Gallery>
const char* run_similarity(const SimilarityParams& p, bool reversed,
                           const std::vector<Region>& regions) {
    const int shared = scan_shared_bytes<Gallery>(kSoftmaxSharedBytes);
    const int64_t blocks = int64_t{p.cosines.slices} * p.cosines.query_tiles;
    if (fails(blocks, kProductThreads, shared, reversed, regions,
              [&](Host& m) { scan_similarity<Host, T, Gallery>(m, p); }) ||
        fails(rescale_blocks(p.cosines), kRescaleThreads, 0, reversed, regions,
              [&](Host& m) { rescale_logits(m, p); })) {
        return message.c_str();
    }
    return nullptr;
}

}  // namespace
}  // namespace clipfast::cuda

using namespace clipfast::cuda;

extern "C" {

// shape: queries, gallery rows, width, query stride, gallery stride, multiprocessors; brain:
// bfloat16; bytes: an int8 gallery; slices_out: what the schedule chose.
const char* top_k(const uint16_t* queries, const void* gallery, float* scores, int64_t* indices,
                  const int32_t* shape, int k, int brain, int bytes, int reversed,
                  int32_t* slices_out) {
    TopKParams p{};
    p.cosines.queries = {queries, shape[3], shape[0], shape[2]};
    p.cosines.gallery = {gallery, shape[4], shape[1], shape[2]};
    share_gallery(p.cosines, shape[5]);
    *slices_out = p.cosines.slices;
    p.k = k;
    p.capacity = candidate_capacity(k);
    p.scores = scores;
    p.indices = indices;
    std::vector<uint64_t> candidates(int64_t{p.cosines.slices} * p.cosines.query_tiles * 128 *
                                     p.capacity);
    p.candidates = candidates.data();
    const std::vector<Region> regions = {
        rows_of(p.cosines.queries, 2), rows_of(p.cosines.gallery, bytes ? 1 : 2),
        writable(scores, int64_t{shape[0]} * k), writable(indices, int64_t{shape[0]} * k),
        writable(candidates.data(), candidates.size())};
    if (brain) {
        return bytes ? run_top_k<Bfloat16, ByteRows<Bfloat16>>(p, reversed, regions)
                     : run_top_k<Bfloat16, ElementRows<Bfloat16, 16, true>>(p, reversed, regions);
    }
    return bytes ? run_top_k<Float16, ByteRows<Float16>>(p, reversed, regions)
                 : run_top_k<Float16, ElementRows<Float16, 16, true>>(p, reversed, regions);
}

const char* similarity(const uint16_t* queries, const void* gallery, float* probabilities,
                       const int32_t* shape, float scale, int brain, int bytes, int reversed) {
    SimilarityParams p{};
    p.cosines.queries = {queries, shape[3], shape[0], shape[2]};
    p.cosines.gallery = {gallery, shape[4], shape[1], shape[2]};
    share_gallery(p.cosines, shape[5]);
    p.scale = scale;
    p.logits = probabilities;
    std::vector<FloatPair> partials(int64_t{p.cosines.slices} * p.cosines.query_tiles * 128);
    p.partials = partials.data();
    const std::vector<Region> regions = {rows_of(p.cosines.queries, 2),
                                         rows_of(p.cosines.gallery, bytes ? 1 : 2),
                                         writable(probabilities, int64_t{shape[0]} * shape[1]),
                                         writable(partials.data(), partials.size())};
    if (brain) {
        return bytes ? run_similarity<Bfloat16, ByteRows<Bfloat16>>(p, reversed, regions)
                     : run_similarity<Bfloat16, ElementRows<Bfloat16, 16, true>>(p, reversed,
                                                                                 regions);
    }
    return bytes ? run_similarity<Float16, ByteRows<Float16>>(p, reversed, regions)
                 : run_similarity<Float16, ElementRows<Float16, 16, true>>(p, reversed, regions);
}

// Keys of scores and indices, and back.
void make_keys(const float* scores, const uint32_t* indices, int count, uint64_t* keys,
               float* scores_back, uint32_t* indices_back) {
    HostBlock block({}, {});
    Host m(block, 0);
    for (int i = 0; i < count; ++i) {
        keys[i] = make_key(m, scores[i], indices[i]);
        scores_back[i] = score_of_key(m, keys[i]);
        indices_back[i] = index_of_key(keys[i]);
    }
}

}  // extern "C"
