// What similarity and top-k share: packed queries, inverse norms, and the pairs that float32 cannot
// hold.
//
//   cosine(q, g) = q.g / (max(|q|, 1e-12) * max(|g|, 1e-12))
//
// A zero row has cosine 0 with everything; a row with NaN or an infinity has NaN. Rows whose
// squares overflow float32 (norm above 1e15) are computed pair by pair in float64, so that every
// finite input has a finite cosine.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "cpu/cosine_tile.h"

namespace clipfast {

struct CosineProblem {
    Matrix queries;
    Matrix rows;
    std::int64_t width;
    Dtype dtype;
    Isa isa;
    int threads;
};

// Uninitialised memory on a cache-line boundary.
template <class T>
class AlignedBuffer {
  public:
    explicit AlignedBuffer(std::int64_t count)
        : data_(static_cast<T*>(std::aligned_alloc(64, (count * sizeof(T) + 64) / 64 * 64))) {
        if (!data_) throw std::bad_alloc();
    }
    T* get() const { return data_.get(); }

  private:
    struct Free {
        void operator()(T* data) const { std::free(data); }
    };
    std::unique_ptr<T, Free> data_;
};

// Queries first .. first + count - 1 of a problem, packed in groups for the kernels.
class QueryPanel {
  public:
    QueryPanel(const CosineProblem& problem, const CosineKernels& kernels, std::int64_t first,
               std::int64_t count);

    std::int64_t groups() const { return static_cast<std::int64_t>(groups_.size()); }
    const std::vector<QueryGroup>& all() const { return groups_; }
    const QueryGroup& group(std::int64_t g) const { return groups_[g]; }
    bool wide(std::int64_t g) const { return wide_[g]; }  // some query of the group needs float64
    std::int64_t first_in(std::int64_t g) const { return first_[g]; }

  private:
    AlignedBuffer<char> panel_;
    std::vector<QueryGroup> groups_;
    std::vector<std::int64_t> first_;  // query of each group, counted from the panel's first
    std::vector<bool> wide_;
};

// Rows in a block, whole tiles of them: as many as stay in the first-level cache beside a query
// group.
std::int64_t block_rows(const CosineProblem& problem, const CosineKernels& kernels);

// Fills a block with rows first .. first + count - 1 and their inverse norms. True when some row
// needs float64.
bool read_block(const CosineProblem& problem, const CosineKernels& kernels, std::int64_t first,
                std::int64_t count, RowBlock& block);

// Replaces the cosines of the pairs that need float64. query: index of the group's first query.
void repair_wide(const CosineProblem& problem, std::int64_t query, int queries,
                 const RowBlock& block, Cosines& cosines);

// The memory after a block, shared out over the calls that compute the block, so that it arrives
// evenly.
class Lookahead {
  public:
    // calls: how many a block takes. Rows that do not follow one another in memory are not fetched
    // ahead.
    Lookahead(const CosineProblem& problem, const CosineKernels& kernels, std::int64_t calls);

    Ahead share(const char* block_end, std::int64_t call) const {
        if (call * bytes_per_call_ >= block_bytes_) return {};
        return {block_end + call * bytes_per_call_, lines_per_step_};
    }

  private:
    std::int64_t block_bytes_ = 0;
    std::int64_t bytes_per_call_ = 0;
    int lines_per_step_ = 0;
};

}  // namespace clipfast
