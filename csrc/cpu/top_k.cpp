// Threads take ranges of the gallery in turn; each keeps its own k best of every query, and the
// candidates of all threads are merged in the total order (score descending, index ascending), so
// who took which range cannot be seen. Memory: queries of a chunk x k x threads candidates. Bound:
// bandwidth for few queries, multiply-adds for many.

#include "cpu/top_k.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "cpu/parallel.h"

namespace clipfast {
namespace {

constexpr std::int64_t kChunkQueries = 256;       // packed queries stay in the second-level cache
constexpr std::int64_t kMaxCandidates = 1 << 21;  // 32 MiB of them at once,
constexpr std::int64_t kFewestQueries = 4;        // unless so many need more
constexpr std::int64_t kRangeBytes = 1 << 20;

struct Candidate {
    float score;  // -infinity stands for NaN
    std::int64_t index;
};

bool better(const Candidate& a, const Candidate& b) {
    return a.score > b.score || (a.score == b.score && a.index < b.index);
}

// The k best of one query so far: a heap with the worst in front. Indices arrive in ascending
// order.
class Best {
  public:
    Best(Candidate* heap, std::int64_t k) : heap_(heap), k_(k) {}

    float threshold() const { return size_ < k_ ? -INFINITY : heap_[0].score; }
    std::int64_t size() const { return size_; }

    void offer(float cosine, std::int64_t index) {
        const Candidate candidate{std::isnan(cosine) ? -INFINITY : cosine, index};
        if (size_ < k_) {
            heap_[size_++] = candidate;
            std::push_heap(heap_, heap_ + size_, better);
        } else if (candidate.score > heap_[0].score) {
            std::pop_heap(heap_, heap_ + k_, better);
            heap_[k_ - 1] = candidate;
            std::push_heap(heap_, heap_ + k_, better);
        }
    }

  private:
    Candidate* heap_;
    std::int64_t k_;
    std::int64_t size_ = 0;
};

struct Chunk {
    const CosineProblem& problem;
    CosineKernels kernels;
    std::int64_t first;  // query
    std::int64_t queries;
    std::int64_t k;
};

// One thread's pass over the ranges that it gets.
class alignas(64) Scan {
  public:
    Scan(const Chunk& chunk, const QueryPanel& panel, Candidate* heaps)
        : chunk_(chunk),
          panel_(panel),
          groups_(panel.all()),
          lookahead_(chunk.problem, chunk.kernels, panel.groups()) {
        for (std::int64_t q = 0; q < chunk.queries; ++q)
            best_.emplace_back(heaps + q * chunk.k, chunk.k);
    }

    void range(std::int64_t begin, std::int64_t end) {
        const CosineProblem& problem = chunk_.problem;
        const std::int64_t step = block_rows(problem, chunk_.kernels);
        for (std::int64_t row = begin; row < end; row += step)
            block(row, std::min(step, end - row));
    }

    const std::vector<Best>& best() const { return best_; }

  private:
    // Scores rows first .. first + count - 1.
    void block(std::int64_t first, std::int64_t count) {
        const CosineProblem& problem = chunk_.problem;
        const bool wide_rows = read_block(problem, chunk_.kernels, first, count, block_);
        const char* end = problem.rows.row(first + count);
        for (std::int64_t g = 0; g < panel_.groups(); ++g) {
            std::uint32_t above = chunk_.kernels.cosines(groups_[g], block_, problem.width,
                                                         lookahead_.share(end, g), cosines_);
            const std::int64_t query = panel_.first_in(g);
            const bool wide = wide_rows || panel_.wide(g);
            if (wide)
                repair_wide(problem, chunk_.first + query, groups_[g].queries, block_, cosines_);
            if (wide || best_[query].size() < chunk_.k) above = ~0u;
            if (above) offer(g, above, first, count);
        }
    }

    // Rows first .. first + count - 1 to those queries of a group whose bits are set.
    void offer(std::int64_t g, std::uint32_t to, std::int64_t first, std::int64_t count) {
        for (int q = 0; q < groups_[g].queries; ++q) {
            if (!(to >> q & 1)) continue;
            Best& best = best_[panel_.first_in(g) + q];
            for (std::int64_t r = 0; r < count; ++r) best.offer(cosines_.of(q, r), first + r);
            groups_[g].threshold[q] = best.threshold();
        }
    }

    const Chunk& chunk_;
    const QueryPanel& panel_;
    std::vector<QueryGroup> groups_;  // with this thread's thresholds
    Lookahead lookahead_;
    std::vector<Best> best_;
    RowBlock block_ = {};
    Cosines cosines_;
};

// Gathers the candidates of all threads for one query and writes the k best.
void merge(const std::vector<Scan>& scans, const std::vector<Candidate>& heaps, const Chunk& chunk,
           std::int64_t q, std::vector<Candidate>& merged, float* scores, std::int64_t* indices) {
    merged.clear();
    for (std::size_t t = 0; t < scans.size(); ++t) {
        const Candidate* heap = heaps.data() + (t * chunk.queries + q) * chunk.k;
        merged.insert(merged.end(), heap, heap + scans[t].best()[q].size());
    }
    std::partial_sort(merged.begin(), merged.begin() + chunk.k, merged.end(), better);
    for (std::int64_t i = 0; i < chunk.k; ++i) {
        scores[i] = merged[i].score == -INFINITY ? NAN : merged[i].score;
        indices[i] = merged[i].index;
    }
}

void top_k_of_chunk(const Chunk& chunk, float* scores, std::int64_t* indices) {
    const CosineProblem& problem = chunk.problem;
    const std::int64_t row_bytes = problem.width * element_bytes(problem.dtype);
    const std::int64_t step = block_rows(problem, chunk.kernels);
    const std::int64_t range =
        std::max<std::int64_t>(1, kRangeBytes / (step * std::max<std::int64_t>(row_bytes, 1))) *
        step;
    const std::int64_t ranges = (problem.rows.rows + range - 1) / range;
    const int threads = static_cast<int>(std::clamp<std::int64_t>(problem.threads, 1, ranges));

    // All memory is taken before the threads start: an exception must not leave a parallel region.
    std::vector<Candidate> heaps(threads * chunk.queries * chunk.k);
    const QueryPanel panel(problem, chunk.kernels, chunk.first, chunk.queries);
    std::vector<Scan> scans;
    scans.reserve(threads);
    for (int t = 0; t < threads; ++t)
        scans.emplace_back(chunk, panel, heaps.data() + t * chunk.queries * chunk.k);
    std::atomic<std::int64_t> next{0};
    parallel_for(threads, threads, [&](std::int64_t t) {
        for (std::int64_t i = next++; i < ranges; i = next++)
            scans[t].range(i * range, std::min((i + 1) * range, problem.rows.rows));
    });

    std::vector<Candidate> merged;
    merged.reserve(threads * chunk.k);
    for (std::int64_t q = 0; q < chunk.queries; ++q)
        merge(scans, heaps, chunk, q, merged, scores + q * chunk.k, indices + q * chunk.k);
}

}  // namespace

void top_k(const CosineProblem& problem, std::int64_t k, float* scores, std::int64_t* indices) {
    const CosineKernels kernels = cosine_kernels(problem.isa, problem.dtype);
    const std::int64_t most = std::clamp<std::int64_t>(kMaxCandidates / (problem.threads * k),
                                                       kFewestQueries, kChunkQueries);
    const std::int64_t group = std::min<std::int64_t>(most, kernels.shape.most_lanes);
    const std::int64_t step = most / group * group;
    for (std::int64_t first = 0; first < problem.queries.rows; first += step) {
        const std::int64_t count = std::min(step, problem.queries.rows - first);
        const Chunk chunk{problem, kernels, first, count, k};
        top_k_of_chunk(chunk, scores + first * k, indices + first * k);
    }
}

}  // namespace clipfast
