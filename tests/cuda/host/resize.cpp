// The resize's loops on the checking machine, for ctypes.
#include "cuda/resize_loop.h"
#include "host_machine.h"

using namespace clipfast::cuda;

namespace {

thread_local std::string message;

}  // namespace

extern "C" {

// images: (count, 4) address, height, width, row stride in bytes. taps_out: the table, or null.
const char* resize_crop(const int64_t* images, int count, int size, int shared_limit, uint8_t* out,
                        int reversed, int* band_out) {
    std::vector<ResizeImage> planned(count);
    std::vector<Region> regions;
    int64_t taps = 0;
    for (int i = 0; i < count; ++i) {
        const int64_t* image = images + 4 * i;
        planned[i].pixels = image[0];
        planned[i].row_stride = image[3];
        taps = plan_resize(planned[i], image[2], image[1], size, taps);
        const auto* pixels = reinterpret_cast<const uint8_t*>(image[0]);
        regions.push_back(readable(pixels, (image[1] - 1) * image[3] + 3 * image[2]));
    }
    std::vector<int32_t> table(taps, -1);
    ResizeParams p{planned.data(), table.data(), out, count, size, 0};
    p.band = *band_out = resize_band(size, shared_limit);
    regions.push_back(readable(planned.data(), count));
    regions.push_back(writable(table.data(), taps));
    regions.push_back(writable(out, int64_t{count} * 3 * size * size));

    HostBlock::Options options;
    options.blocks = 2 * count;
    options.threads = kTapThreads;
    options.reversed = reversed;
    message = HostBlock(options, regions).run([&](Host& m) { fill_taps(m, p); });
    if (!message.empty()) return message.c_str();
    options.blocks = resize_blocks(p);
    options.threads = kResizeThreads;
    options.word_bytes = 1;  // threads write neighbouring bytes
    options.shared_bytes = resize_shared_bytes(size, p.band);
    message = HostBlock(options, regions).run([&](Host& m) { ResizeBand<Host>(m, p).run(m); });
    return message.empty() ? nullptr : message.c_str();
}

// Taps of one side: (size, stride) integers; `stride` must be what the plan says, which is
// returned.
int side_taps(int64_t side, int64_t other, int size, int32_t* taps_out) {
    ResizeImage image{};
    plan_resize(image, side, other, size, 0);
    if (taps_out == nullptr) return static_cast<int>(image.stride[0]);
    const int64_t integers = size * image.stride[0];
    std::fill(taps_out, taps_out + integers, 0);
    HostBlock block({}, {writable(taps_out, integers)});
    Host m(block, 0);
    for (int i = 0; i < size; ++i) {
        make_taps(m, image.source[0], image.resized[0], image.start[0] + i,
                  taps_out + i * image.stride[0]);
    }
    return static_cast<int>(image.stride[0]);
}

}  // extern "C"
