// A task is some rows and one panel: both stay in the second-level cache while tile after tile
// passes.

#include "cpu/product.h"

#include <algorithm>

#include "cpu/parallel.h"
#include "cpu/product_tile.h"

namespace clipfast {
namespace {

constexpr std::int64_t kTaskBytes = 256 << 10;  // of rows
constexpr std::int64_t kUnitBytes = 4;

class Panels {
  public:
    explicit Panels(const ProductProblem& problem)
        : problem_(problem), tile_(product_tile(problem.unit)), finish_(finish_tile(problem)) {}

    std::int64_t count() const { return divide_up(problem_.features, kPanelFeatures); }

    // Rows first .. end - 1 through a panel, in tiles of equal height but for one row.
    void multiply(std::int64_t panel, std::int64_t first, std::int64_t end) const {
        alignas(64) float sums[kProductRows * kPanelFeatures];
        const PanelPart part(problem_, panel);
        const std::int64_t tiles = divide_up(end - first, kProductRows);
        for (std::int64_t i = 0; i < tiles; ++i) {
            const std::int64_t row = first + (end - first) * i / tiles;
            const TilePlace place = part.place(row, first + (end - first) * (i + 1) / tiles - row);
            fetch(problem_.residual, place);
            fetch(problem_.out, place);
            tile_(problem_.x.row(row), problem_.x.stride, static_cast<int>(place.rows),
                  part.units(0), problem_.units, part.start, sums);
            finish_(problem_, place, sums);
        }
    }

  private:
    const ProductProblem& problem_;
    ProductTile tile_;
    FinishTile finish_;
};

}  // namespace

void product(const ProductProblem& problem) {
    const Panels panels(problem);
    const std::int64_t rows = problem.x.rows;
    const std::int64_t wanted = divide_up(kTasksEach * problem.threads, panels.count());
    const std::int64_t bytes = rows * problem.units * kUnitBytes;
    const std::int64_t parts =
        std::max(divide_up(bytes, kTaskBytes), std::min(wanted, divide_up(rows, kProductRows)));
    parallel_for(problem.threads, parts * panels.count(), [&](std::int64_t task) {
        const std::int64_t part = task / panels.count();
        panels.multiply(task % panels.count(), rows * part / parts, rows * (part + 1) / parts);
    });
}

}  // namespace clipfast
