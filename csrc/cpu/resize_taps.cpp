// Runs in baseline instructions only: a fused multiply-add would round weights differently.

#include "cpu/resize_taps.h"

#include <algorithm>
#include <cmath>

namespace clipfast {
namespace {

double evaluate(ResizeFilter filter, double x) {
    x = std::fabs(x);
    if (filter == ResizeFilter::bilinear) return x < 1.0 ? 1.0 - x : 0.0;
    constexpr double a = -0.5;
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

struct Window {
    double center, support, stretch;
    std::int64_t first, end;
};

Window window_of(const ResizeAxis& axis, ResizeFilter filter, std::int64_t output) {
    Window w;
    const double scale = (axis.end - axis.begin) / static_cast<double>(axis.resized);
    w.stretch = std::max(scale, 1.0);
    w.support = (filter == ResizeFilter::bicubic ? 2.0 : 1.0) * w.stretch;
    w.center = axis.begin + (static_cast<double>(axis.start + output) + 0.5) * scale;
    w.first = std::max<std::int64_t>(static_cast<std::int64_t>(w.center - w.support + 0.5), 0);
    w.end = std::min(static_cast<std::int64_t>(w.center + w.support + 0.5), axis.source);
    return w;
}

std::int32_t fixed_point(double weight) {
    const double scaled = weight * (1 << kWeightBits);
    return static_cast<std::int32_t>(weight < 0 ? scaled - 0.5 : scaled + 0.5);
}

}  // namespace

std::int64_t max_taps(const ResizeAxis& axis, ResizeFilter filter) {
    const Window w = window_of(axis, filter, 0);
    return static_cast<std::int64_t>(std::ceil(w.support)) * 2 + 1;
}

void source_range(const ResizeAxis& axis, ResizeFilter filter, std::int64_t* begin,
                  std::int64_t* end) {
    *begin = axis.start;
    *end = axis.start + axis.length;
    if (!axis.changes()) return;
    *begin = window_of(axis, filter, 0).first;
    *end = window_of(axis, filter, axis.length - 1).end;
}

Taps make_taps(const ResizeAxis& axis, ResizeFilter filter, std::int64_t from, std::int64_t to) {
    Taps taps;
    taps.outputs = to - from;
    taps.padded = (max_taps(axis, filter) + 7) / 8 * 8;
    taps.weights.assign(taps.outputs * taps.padded, 0);
    taps.high.assign(taps.outputs * taps.padded, 0);
    taps.low.assign(taps.outputs * taps.padded, 0);
    std::vector<double> weights(taps.padded);
    for (std::int64_t i = 0; i < taps.outputs; ++i) {
        const Window w = window_of(axis, filter, from + i);
        const std::int64_t count = w.end - w.first;
        const double inverse = 1.0 / w.stretch;
        double total = 0.0;
        for (std::int64_t k = 0; k < count; ++k) {
            weights[k] =
                evaluate(filter, (static_cast<double>(k + w.first) - w.center + 0.5) * inverse);
            total += weights[k];
        }
        for (std::int64_t k = 0; k < count; ++k) {
            const double normalized = total != 0.0 ? weights[k] / total : weights[k];
            const std::int32_t weight = fixed_point(normalized);
            const std::int64_t at = i * taps.padded + k;
            taps.weights[at] = weight;
            taps.high[at] = static_cast<std::int16_t>(weight >> kLowBits);
            taps.low[at] = static_cast<std::int16_t>(weight & ((1 << kLowBits) - 1));
        }
        taps.first.push_back(w.first);
        taps.counts.push_back(count);
    }
    return taps;
}

}  // namespace clipfast
