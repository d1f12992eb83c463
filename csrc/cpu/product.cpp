// A task is some rows and one panel: both stay in the second-level cache while tile after tile
// passes.

#include "cpu/product.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/product_tile.h"
#include "cpu/quantise.h"

namespace clipfast {
namespace {

constexpr std::int64_t kTaskBytes = 256 << 10;  // of rows
constexpr std::int64_t kTasksEach = 4;  // a thread, where there are rows enough: they end together
constexpr std::int64_t kUnitBytes = 4;
constexpr std::int64_t kLineBytes = 64;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

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
        alignas(64) float start[kPanelFeatures], sums[kProductRows * kPanelFeatures];
        TilePlace place = {};
        place.column = panel * kPanelFeatures;
        place.columns = std::min<std::int64_t>(kPanelFeatures, problem_.features - place.column);
        begin_with(place, start);
        const char* const units = units_of(panel);
        const std::int64_t lines = problem_.units * kLineBytes;  // that a tile asks for
        const std::int64_t tiles = divide_up(end - first, kProductRows);
        for (std::int64_t i = 0; i < tiles; ++i) {
            place.row = first + (end - first) * i / tiles;
            place.rows = first + (end - first) * (i + 1) / tiles - place.row;
            fetch(place, problem_.residual);
            fetch(place, problem_.out);
            place.row_scale = is_bytes_ ? row_scale_.get() + place.row : nullptr;
            tile_(x_.row(place.row), x_.stride, static_cast<int>(place.rows), units, problem_.units,
                  start,
                  next < count() && i < kPanelFeatures * kUnitBytes / kLineBytes
                      ? units_of(next) + i * lines
                      : units,
                  sums);
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

    const char* units_of(std::int64_t panel) const {
        return problem_.panels + panel * problem_.units * kPanelFeatures * kUnitBytes;
    }

    // What the sums begin with: the bias, or the correction of bytes; zero beyond the last feature.
    void begin_with(const TilePlace& place, float* start) const {
        const void* from = problem_.bias;
        if (is_bytes_) from = problem_.correction;
        std::fill(start, start + kPanelFeatures, 0.0f);
        if (from)
            std::memcpy(start, static_cast<const char*>(from) + place.column * sizeof *start,
                        place.columns * sizeof *start);
    }

    // Asks for what the tile will read and write when its sums are ready: their lines arrive
    // meanwhile.
    static void fetch(const TilePlace& place, const TypedMatrix& matrix) {
        if (!matrix.given()) return;
        const std::int64_t element = element_bytes(matrix.dtype);
        for (std::int64_t r = 0; r < place.rows; ++r) {
            const char* line = matrix.row(place.row + r) + place.column * element;
            for (const char* end = line + place.columns * element; line < end; line += kLineBytes)
                __builtin_prefetch(line);
        }
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
