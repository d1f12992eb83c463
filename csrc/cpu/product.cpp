// A task is some rows and one panel: both stay in the second-level cache while tile after tile
// passes.

#include "cpu/product.h"

#include <algorithm>
#include <memory>

#include "cpu/parallel.h"
#include "cpu/product_tile.h"
#include "cpu/quantise.h"

namespace clipfast {
namespace {

constexpr std::int64_t kLinesAUnit = kPanelFeatures * kUnitBytes / kLineBytes;  // of a panel

class Panels {
  public:
    explicit Panels(const ProductProblem& problem)
        : problem_(problem),
          is_bytes_(unit_of(problem) == Unit::bytes),
          x_(problem.x.matrix),
          tile_(product_tile(unit_of(problem))),
          finish_(finish_tile(problem)) {
        if (is_bytes_) become_bytes();
    }

    std::int64_t count() const { return divide_up(problem_.features, kPanelFeatures); }

    // Rows first .. end - 1 through a panel, in tiles of equal height but for one row. Meanwhile
    // panel `next` comes from memory: the weights of a model do not stay in the caches from one
    // call to the next.
    void multiply(std::int64_t panel, std::int64_t next, std::int64_t first,
                  std::int64_t end) const {
        alignas(64) float sums[kProductRows * kPanelFeatures];
        const PanelPart part(problem_, panel), following(problem_, std::min(next, count() - 1));
        const std::int64_t tiles = divide_up(end - first, kProductRows);
        for (std::int64_t i = 0; i < tiles; ++i) {
            const std::int64_t row = first + (end - first) * i / tiles;
            TilePlace place = part.place(row, first + (end - first) * (i + 1) / tiles - row);
            if (is_bytes_) place.row_scale = row_scale_.get() + row;
            fetch(problem_.residual, place);
            fetch(problem_.out, place);
            // Each of the first tiles asks for as many lines as there are units.
            const bool asks = next < count() && i < kLinesAUnit;
            tile_(x_.row(row), x_.stride, static_cast<int>(place.rows), part.units(0),
                  problem_.units, part.start,
                  asks ? following.units(i * problem_.units / kLinesAUnit) : part.units(0), sums);
            finish_(problem_, place, sums);
        }
    }

  private:
    void become_bytes() {
        const std::int64_t rows = x_.rows, width = problem_.units * kUnitBytes;
        bytes_.reset(new std::uint8_t[rows * width]);
        row_scale_.reset(new float[rows]);
        x_ = {reinterpret_cast<const char*>(bytes_.get()), rows, width};
        quantise({problem_.x, x_, row_scale_.get(), problem_.zero, width, Isa::avx512_bf16,
                  problem_.threads});
    }

    const ProductProblem& problem_;
    bool is_bytes_;
    Matrix x_;
    std::unique_ptr<std::uint8_t[]> bytes_;
    std::unique_ptr<float[]> row_scale_;
    ProductTile tile_;
    FinishTile finish_;
};

}  // namespace

void product(const ProductProblem& problem) {
    const Panels panels(problem);
    const std::int64_t rows = problem.x.matrix.rows;
    const std::int64_t wanted = divide_up(kTasksEach * problem.threads, panels.count());
    const std::int64_t bytes = rows * problem.units * kUnitBytes;
    const std::int64_t parts =
        std::max(divide_up(bytes, kTaskBytes), std::min(wanted, divide_up(rows, kProductRows)));
    parallel_for(problem.threads, parts * panels.count(), [&](std::int64_t task) {
        const std::int64_t part = task / panels.count();
        const std::int64_t panel = task % panels.count();
        // The threads take turns, so that a thread's next panel is likely to be this one.
        panels.multiply(panel, panel + problem.threads, rows * part / parts,
                        rows * (part + 1) / parts);
    });
}

}  // namespace clipfast
