// CPUID leaves 1 and 7 and XCR0: Intel SDM volume 2A, CPUID; volume 1, section 13.3; AMX:
// section 18.

#include "cpu/cpu_features.h"

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace clipfast {
namespace {

#if defined(__x86_64__)
constexpr std::uint64_t kYmmState = 0x06;      // XMM and YMM
constexpr std::uint64_t kZmmState = 0xe6;      // and opmask, ZMM
constexpr std::uint64_t kTileState = 0x60000;  // TILECFG and TILEDATA

bool bit(unsigned word, int position) { return (word >> position) & 1u; }

std::uint64_t enabled_state() {
    unsigned low = 0, high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<std::uint64_t>(high) << 32) | low;
}

CpuFeatures detect() {
    CpuFeatures features;
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !bit(c, 27)) return features;  // 27: OSXSAVE
    const std::uint64_t state = enabled_state();
    const bool ymm = (state & kYmmState) == kYmmState;
    const bool zmm = (state & kZmmState) == kZmmState;
    const bool tile = (state & kTileState) == kTileState;
    features.fma = ymm && bit(c, 12);
    features.f16c = ymm && bit(c, 29);
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return features;
    features.avx2 = ymm && bit(b, 5);
    features.avx512f = zmm && bit(b, 16);
    features.avx512dq = zmm && bit(b, 17);
    features.avx512bw = zmm && bit(b, 30);
    features.avx512vl = zmm && bit(b, 31);
    features.avx512_vnni = zmm && bit(c, 11);
    features.amx_bf16 = tile && bit(d, 22);
    features.amx_tile = tile && bit(d, 24);
    features.amx_int8 = tile && bit(d, 25);
    if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) features.avx512_bf16 = zmm && bit(a, 5);
    return features;
}
#else
CpuFeatures detect() { return {}; }
#endif

}  // namespace

const CpuFeatures& cpu_features() {
    static const CpuFeatures features = detect();
    return features;
}

bool supports(Isa isa) {
    const CpuFeatures& f = cpu_features();
    const bool avx2 = f.avx2 && f.fma && f.f16c;
    const bool avx512 = avx2 && f.avx512f && f.avx512bw && f.avx512vl && f.avx512dq;
    switch (isa) {
        case Isa::serial:
            return true;
        case Isa::avx2:
            return avx2;
        case Isa::avx512:
            return avx512;
        case Isa::avx512_bf16:
            return avx512 && f.avx512_bf16 && f.avx512_vnni;
    }
    return false;
}

}  // namespace clipfast
