// A thread takes one head of one segment at a time: keys and values become panels once, then four
// query rows at a time meet them.

#include "cpu/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "cpu/attention_tile.h"
#include "cpu/parallel.h"
#include "cpu/row_convert.h"
#include "cpu/softmax_row.h"

namespace clipfast {
namespace {

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// One segment of a problem.
struct Segment {
    const AttentionProblem& problem;
    std::int64_t first_query, queries, first_key, keys;

    Segment(const AttentionProblem& p, std::int64_t s) : problem(p) {
        first_query = p.cu_queries ? p.cu_queries[s] : s * p.query_length;
        queries = p.cu_queries ? p.cu_queries[s + 1] - first_query : p.query_length;
        first_key = p.cu_keys ? p.cu_keys[s] : s * p.key_length;
        keys = p.cu_keys ? p.cu_keys[s + 1] - first_key : p.key_length;
    }

    const char* query(std::int64_t j) const { return problem.queries.row(first_query + j); }
    char* out(std::int64_t j) const { return const_cast<char*>(problem.out.row(first_query + j)); }
    std::int64_t key_row(std::int64_t i) const {
        return problem.key_rows ? problem.key_rows[first_key + i] : first_key + i;
    }
    std::int64_t visible(std::int64_t j) const {
        return problem.causal ? keys - queries + j + 1 : keys;
    }
};

// --- serial: the definition ---

double dot(const AttentionProblem& p, const char* a, const char* b, std::int64_t begin) {
    double sum = 0;
    for (std::int64_t c = begin; c < begin + p.head_dim; ++c)
        sum += static_cast<double>(load_element(p.dtype, a, c)) * load_element(p.dtype, b, c);
    return sum;
}

// scores: room for the segment's keys.
void attend_serial(const Segment& segment, std::int64_t head, double* scores) {
    const AttentionProblem& p = segment.problem;
    const std::int64_t begin = head * p.head_dim;
    for (std::int64_t j = 0; j < segment.queries; ++j) {
        const std::int64_t count = segment.visible(j);
        double largest = -INFINITY, sum = 0;
        for (std::int64_t i = 0; i < count; ++i) {
            scores[i] = dot(p, segment.query(j), p.keys.row(segment.key_row(i)), begin);
            largest = scores[i] > largest ? scores[i] : largest;
        }
        for (std::int64_t i = 0; i < count; ++i) sum += scores[i] = std::exp(scores[i] - largest);
        for (std::int64_t c = begin; c < begin + p.head_dim; ++c) {
            double value = 0;
            for (std::int64_t i = 0; i < count; ++i)
                value += scores[i] * load_element(p.dtype, p.values.row(segment.key_row(i)), c);
            store_element(p.dtype, segment.out(j), c, static_cast<float>(value / sum));
        }
    }
}

// --- tiled ---

// Zeros on a cache-line boundary.
class Units {
  public:
    explicit Units(std::int64_t count) : lines_(divide_up(count, kLineUnits)) {}
    std::uint32_t* data() { return lines_.empty() ? nullptr : lines_.front().units; }
    float* floats() { return reinterpret_cast<float*>(data()); }

  private:
    static constexpr int kLineUnits = 16;
    struct alignas(64) Line {
        std::uint32_t units[kLineUnits];
    };
    std::vector<Line> lines_;
};

// The kernels of a problem and the sizes of what they share.
struct Plan {
    AttentionTile tile;
    WidenRow widen;  // to float32 units; not used for pairs
    NarrowRow narrow_out;
    ExpRow exp_row;
    std::int64_t element;      // bytes of a column in a staged row
    std::int64_t units;        // of a head
    std::int64_t row_units;    // and filled up to whole vectors
    std::int64_t columns;      // of a head, filled up to whole vectors
    std::int64_t key_columns;  // likewise of the longest segment

    Plan(const AttentionProblem& p, std::int64_t most_keys)
        : tile(attention_tile(p.isa, p.dtype)),
          widen(widen_row(p.isa, p.dtype)),
          narrow_out(narrow_row(p.isa, p.dtype)),
          exp_row(clipfast::exp_row(p.isa, tile.pair == 2 ? Dtype::bf16 : Dtype::f32)),
          element(tile.pair == 2 ? 2 : 4),
          units(divide_up(p.head_dim, tile.pair)),
          row_units(divide_up(units, tile.lanes) * tile.lanes),
          columns(divide_up(p.head_dim, tile.lanes) * tile.lanes),
          key_columns(divide_up(most_keys, tile.lanes) * tile.lanes) {}
};

// One thread's memory, and what it does with it.
class Worker {
  public:
    explicit Worker(const Plan& plan)
        : plan_(plan),
          key_panel_(plan.key_columns * plan.row_units),
          value_panel_(plan.key_columns * plan.columns),
          staged_(std::max<std::int64_t>(plan.tile.lanes, kTileRows) * plan.row_units),
          value_rows_(2 * plan.columns),
          scores_(kTileRows * plan.key_columns),
          weights_(kTileRows * plan.key_columns),
          out_(kTileRows * plan.columns) {}

    void attend(const Segment& segment, std::int64_t head) {
        const std::int64_t offset = head * segment.problem.head_dim;
        pack_keys(segment, offset);
        pack_values(segment, offset);
        for (std::int64_t j = 0; j < segment.queries; j += kTileRows)
            queries(segment, offset, j, std::min<std::int64_t>(kTileRows, segment.queries - j));
    }

  private:
    // head_dim columns of a row as units; what fills the row up stays zero.
    void stage(const AttentionProblem& p, const char* row, std::int64_t offset, void* out) const {
        const char* columns = row + offset * element_bytes(p.dtype);
        if (plan_.tile.pair == 2)
            std::memcpy(out, columns, 2 * p.head_dim);
        else
            plan_.widen(columns, p.head_dim, static_cast<float*>(out));
    }

    void pack_keys(const Segment& segment, std::int64_t offset) {
        const AttentionProblem& p = segment.problem;
        const int lanes = plan_.tile.lanes;
        for (std::int64_t i = 0; i < segment.keys; i += lanes) {
            for (std::int64_t l = 0; l < std::min<std::int64_t>(lanes, segment.keys - i); ++l)
                stage(p, p.keys.row(segment.key_row(i + l)), offset,
                      staged_.data() + l * plan_.row_units);
            plan_.tile.transpose(staged_.data(), plan_.row_units, plan_.row_units,
                                 key_panel_.data() + i * plan_.row_units);
        }
    }

    void pack_values(const Segment& segment, std::int64_t offset) {
        const AttentionProblem& p = segment.problem;
        const int pair = plan_.tile.pair;
        char* const first = reinterpret_cast<char*>(value_rows_.data());
        char* const second = first + plan_.columns * plan_.element;
        const std::int64_t panel_units = divide_up(segment.keys, pair);
        for (std::int64_t i = 0; i < segment.keys; i += pair) {
            stage(p, p.values.row(segment.key_row(i)), offset, first);
            if (pair == 2 && i + 1 < segment.keys)
                stage(p, p.values.row(segment.key_row(i + 1)), offset, second);
            else
                std::memset(second, 0, plan_.columns * plan_.element);
            plan_.tile.interleave(first, second, plan_.columns / plan_.tile.lanes, panel_units,
                                  i / pair, value_panel_.data());
        }
    }

    // Queries first .. first + count - 1 of a segment; the tile's other rows are computed and left.
    void queries(const Segment& segment, std::int64_t offset, std::int64_t first,
                 std::int64_t count) {
        const AttentionProblem& p = segment.problem;
        const AttentionTile& tile = plan_.tile;
        for (std::int64_t r = 0; r < count; ++r)
            stage(p, segment.query(first + r), offset, staged_.data() + r * plan_.row_units);
        const std::int64_t seen = segment.visible(first + count - 1);
        tile.product(staged_.data(), plan_.row_units, key_panel_.data(), plan_.row_units,
                     plan_.units, divide_up(seen, tile.lanes), scores_.floats(), plan_.key_columns);
        const std::int64_t units = divide_up(seen, tile.pair);
        float sums[kTileRows];
        for (std::int64_t r = 0; r < count; ++r)
            sums[r] = weigh(r, segment.visible(first + r), units * tile.pair);
        tile.product(weights_.data(), plan_.key_columns / tile.pair, value_panel_.data(),
                     divide_up(segment.keys, tile.pair), units, plan_.columns / tile.lanes,
                     out_.floats(), plan_.columns);
        for (std::int64_t r = 0; r < count; ++r) {
            float* const row = out_.floats() + r * plan_.columns;
            tile.scale(row, plan_.columns / tile.lanes, 1 / sums[r]);
            plan_.narrow_out(row, p.head_dim,
                             segment.out(first + r) + offset * element_bytes(p.dtype));
        }
    }

    // Row r's scores to weights of the first `seen` keys, zeros up to `count`. Returns their sum.
    float weigh(std::int64_t r, std::int64_t seen, std::int64_t count) {
        std::uint32_t* const weights = weights_.data() + r * plan_.key_columns / plan_.tile.pair;
        return plan_.exp_row(scores_.floats() + r * plan_.key_columns, seen, count, weights);
    }

    const Plan& plan_;
    Units key_panel_, value_panel_, staged_, value_rows_, scores_, weights_, out_;
};

std::int64_t most_keys(const AttentionProblem& problem) {
    std::int64_t most = 0;
    for (std::int64_t s = 0; s < problem.segments; ++s)
        most = std::max(most, Segment(problem, s).keys);
    return most;
}

// Calls body(thread, segment, head) for every head of every segment.
template <class Body>
void for_each_head(const AttentionProblem& problem, int threads, const Body& body) {
    const std::int64_t tasks = problem.segments * problem.heads;
    std::atomic<std::int64_t> next{0};
    parallel_for(threads, threads, [&](std::int64_t thread) {
        for (std::int64_t i = next++; i < tasks; i = next++)
            body(thread, Segment(problem, i / problem.heads), i % problem.heads);
    });
}

}  // namespace

void attention(const AttentionProblem& problem) {
    const std::int64_t tasks = problem.segments * problem.heads;
    if (tasks == 0) return;
    const int threads = static_cast<int>(std::clamp<std::int64_t>(problem.threads, 1, tasks));
    const std::int64_t keys = most_keys(problem);
    // All memory is taken before the threads start: an exception must not leave a parallel region.
    if (problem.isa == Isa::serial) {
        std::vector<double> scores(threads * keys);
        for_each_head(problem, threads, [&](std::int64_t t, const Segment& s, std::int64_t head) {
            attend_serial(s, head, scores.data() + t * keys);
        });
        return;
    }
    const Plan plan(problem, keys);
    std::vector<Worker> workers(threads, Worker(plan));
    for_each_head(problem, threads, [&](std::int64_t t, const Segment& s, std::int64_t head) {
        workers[t].attend(s, head);
    });
}

}  // namespace clipfast
