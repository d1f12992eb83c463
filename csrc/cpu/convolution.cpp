// A task is one panel over some image rows.

#include "cpu/convolution.h"

#include <algorithm>

#include "cpu/parallel.h"
#include "cpu/product_tile.h"

namespace clipfast {
namespace {

constexpr int kTaps = 3;  // each way

class Convolution {
  public:
    Convolution(const ProductProblem& problem, std::int64_t height, std::int64_t width)
        : problem_(problem),
          height_(height),
          width_(width),
          units_(problem.units / (kTaps * kTaps)),
          tile_(product_tile(unit_of(problem))),
          finish_(finish_tile(problem)) {}

    // Image rows first .. end - 1 of all images' through a panel.
    void multiply(std::int64_t panel, std::int64_t first, std::int64_t end) const {
        const PanelPart part(problem_, panel);
        const std::int64_t tiles = divide_up(width_, kProductRows);
        for (std::int64_t line = first; line < end; ++line)
            for (std::int64_t i = 0; i < tiles; ++i) {
                const std::int64_t column = width_ * i / tiles;
                multiply_tile(part, line, column, width_ * (i + 1) / tiles - column);
            }
    }

  private:
    void multiply_tile(const PanelPart& part, std::int64_t line, std::int64_t column,
                       std::int64_t pixels) const {
        alignas(64) float sums[kProductRows * kPanelFeatures];
        const TilePlace place = part.place(line * width_ + column, pixels);
        fetch(problem_.residual, place);
        fetch(problem_.out, place);
        const std::int64_t y = line % height_;
        const bool inside = column > 0 && column + pixels < width_;
        bool started = false;
        for (const int dy : {0, -1, 1}) {  // that of every pixel first: it starts the sums
            if (y + dy < 0 || y + dy >= height_) continue;
            if (inside) {
                add(part, place, dy, -1, kTaps, 0, pixels, started, sums);
                started = true;
                continue;
            }
            for (const int dx : {0, -1, 1}) {
                const std::int64_t from = column + dx < 0 ? 1 : 0;
                const std::int64_t to = column + pixels + dx > width_ ? pixels - 1 : pixels;
                if (from < to) add(part, place, dy, dx, 1, from, to, started, sums);
                started = true;
            }
        }
        finish_(problem_, place, sums);
    }

    // Taps (dy, dx) .. (dy, dx + taps - 1), which lie one after another, of pixels from .. to - 1.
    void add(const PanelPart& part, const TilePlace& place, int dy, int dx, int taps,
             std::int64_t from, std::int64_t to, bool started, float* sums) const {
        const std::int64_t tap = (dy + 1) * kTaps + dx + 1;
        const Matrix& x = problem_.x.matrix;
        const char* const units = part.units(tap * units_);
        tile_(x.row(place.row + from + dy * width_ + dx), x.stride, static_cast<int>(to - from),
              units, taps * units_, started ? nullptr : part.start, units,
              sums + from * kPanelFeatures);
    }

    const ProductProblem& problem_;
    std::int64_t height_, width_;
    std::int64_t units_;  // of a tap
    ProductTile tile_;
    FinishTile finish_;
};

}  // namespace

void convolve(const ProductProblem& problem, std::int64_t height, std::int64_t width) {
    const Convolution convolution(problem, height, width);
    const std::int64_t panels = divide_up(problem.features, kPanelFeatures);
    const std::int64_t lines = problem.x.matrix.rows / width;
    const std::int64_t parts = std::min(
        lines, std::max(divide_up(problem.x.matrix.rows * problem.x.matrix.stride, kTaskBytes),
                        divide_up(kTasksEach * problem.threads, panels)));
    parallel_for(problem.threads, parts * panels, [&](std::int64_t task) {
        const std::int64_t part = task % parts;
        convolution.multiply(task / parts, lines * part / parts, lines * (part + 1) / parts);
    });
}

}  // namespace clipfast
