// First every logit of a chunk of queries, tile by tile, then the softmax of each of its rows while
// they are warm. The output is the only array of queries x keys; the packed chunk takes
// kChunkQueries rows.

#include "cpu/similarity.h"

#include <algorithm>

#include "cpu/parallel.h"
#include "cpu/softmax_row.h"

namespace clipfast {
namespace {

constexpr std::int64_t kChunkQueries = 1024;
constexpr std::int64_t kTaskQueries = 64;     // that a task takes,
constexpr std::int64_t kTaskBytes = 1 << 18;  // and bytes of keys

struct Task {
    const CosineProblem& problem;
    const CosineKernels& kernels;
    const QueryPanel& panel;
    std::int64_t first;  // query of the chunk
    float scale;
    float* out;  // of that query
};

// The logits of groups group_begin .. group_end - 1 with keys begin .. end - 1.
void logits(const Task& task, std::int64_t group_begin, std::int64_t group_end, std::int64_t begin,
            std::int64_t end) {
    const CosineProblem& problem = task.problem;
    const std::int64_t step = block_rows(problem, task.kernels);
    const Lookahead lookahead(problem, task.kernels, group_end - group_begin);
    RowBlock block = {};
    Cosines cosines;
    for (std::int64_t key = begin; key < end; key += step) {
        const std::int64_t count = std::min(step, end - key);
        const char* block_end = problem.rows.row(key + count);
        const bool wide_keys = read_block(problem, task.kernels, key, count, block);
        for (std::int64_t g = group_begin; g < group_end; ++g) {
            const QueryGroup& group = task.panel.group(g);
            const std::int64_t query = task.panel.first_in(g);
            task.kernels.cosines(group, block, problem.width,
                                 lookahead.share(block_end, g - group_begin), cosines);
            if (wide_keys || task.panel.wide(g))
                repair_wide(problem, task.first + query, group.queries, block, cosines);
            for (int q = 0; q < group.queries; ++q)
                for (std::int64_t r = 0; r < count; ++r)
                    task.out[(query + q) * problem.rows.rows + key + r] =
                        task.scale * cosines.of(q, r);
        }
    }
}

}  // namespace

void similarity(const CosineProblem& problem, float scale, float* out) {
    const CosineKernels kernels = cosine_kernels(problem.isa, problem.dtype);
    const SoftmaxRow softmax = softmax_row(problem.isa);
    const std::int64_t keys = problem.rows.rows;
    const std::int64_t row_bytes =
        std::max<std::int64_t>(problem.width * element_bytes(problem.dtype), 1);
    const std::int64_t rows = block_rows(problem, kernels);
    const std::int64_t step = std::max<std::int64_t>(kTaskBytes / row_bytes / rows, 1) * rows;
    const std::int64_t task_groups = kTaskQueries / kernels.shape.most_lanes;
    if (keys == 0) return;
    for (std::int64_t first = 0; first < problem.queries.rows; first += kChunkQueries) {
        const std::int64_t count = std::min(kChunkQueries, problem.queries.rows - first);
        const QueryPanel panel(problem, kernels, first, count);
        const Task task{problem, kernels, panel, first, scale, out + first * keys};
        const std::int64_t key_tasks = (keys + step - 1) / step;
        const std::int64_t group_tasks = (panel.groups() + task_groups - 1) / task_groups;
        parallel_for(problem.threads, group_tasks * key_tasks, [&](std::int64_t i) {
            const std::int64_t g = i / key_tasks * task_groups, key = i % key_tasks * step;
            logits(task, g, std::min(g + task_groups, panel.groups()), key,
                   std::min(key + step, keys));
        });
        parallel_for(problem.threads, count,
                     [&](std::int64_t q) { softmax(task.out + q * keys, keys); });
    }
}

}  // namespace clipfast
