// The loop of the patch embedding on the checking machine, for ctypes.
#include "cuda/patch_embed_loop.h"
#include "host_machine.h"

namespace clipfast::cuda {
namespace {

thread_local std::string message;

template <class T>
void embed(Host& m, const PatchEmbedParams& p, int patch) {
    switch (patch) {
        case 14:
            return embed_patches<Host, T, 14>(m, p);
        case 16:
            return embed_patches<Host, T, 16>(m, p);
        default:
            return embed_patches<Host, T, 32>(m, p);
    }
}

}  // namespace
}  // namespace clipfast::cuda

using namespace clipfast::cuda;

extern "C" {

// shape: images, grid, patch, width, image stride, channel stride, row stride, weight stride. wide:
// bit 0 bias, bit 1 class row, bit 2 positions.
const char* patch_embed(const uint8_t* pixels, const uint16_t* weight, const void* bias,
                        const void* class_row, const void* positions, uint16_t* out,
                        const int32_t* shape, int wide, int brain, int reversed) {
    PatchEmbedParams p{};
    const int patch = shape[2], width = shape[3], depth = 3 * patch * patch;
    p.pixels = pixels;
    p.image_stride = shape[4];
    p.channel_stride = shape[5];
    p.row_stride = shape[6];
    p.images = shape[0];
    p.grid = shape[1];
    p.weight = {weight, shape[7], width, depth};
    p.bias = {bias, (wide & 1) != 0};
    p.class_row = {class_row, (wide & 2) != 0};
    p.positions = {positions, (wide & 4) != 0};
    p.out = out;
    const int64_t cells = int64_t{p.grid} * p.grid;
    const auto numbers = [](const Numbers& n, int64_t count) {
        const auto* data = static_cast<const char*>(n.data);
        return constant(data, data == nullptr ? 0 : count * (n.wide ? 4 : 2));
    };
    HostBlock::Options options;
    options.blocks = patch_embed_blocks(p);
    options.threads = kProductThreads;
    options.shared_bytes = kPatchEmbedSharedBytes;
    options.reversed = reversed;
    HostBlock block(options, {readable(pixels, p.images * p.image_stride),
                              readable(weight, int64_t{width} * shape[7]), numbers(p.bias, width),
                              numbers(p.class_row, width), numbers(p.positions, cells * width),
                              writable(out, p.images * (cells + 1) * width)});
    message = block.run(
        [&](Host& m) { brain ? embed<Bfloat16>(m, p, patch) : embed<Float16>(m, p, patch); });
    if (message.empty() && block.bank_conflicts() != 0) message = "ldmatrix rows share banks";
    return message.empty() ? nullptr : message.c_str();
}

}  // extern "C"
