// What the processor and the operating system let a kernel use, read once from CPUID and XGETBV.
#pragma once

namespace clipfast {

struct CpuFeatures {
    bool avx2 = false;
    bool fma = false;
    bool f16c = false;
    bool avx512f = false;
    bool avx512bw = false;
    bool avx512vl = false;
    bool avx512dq = false;
    bool avx512_bf16 = false;
    bool avx512_vnni = false;
    bool amx_tile = false;
    bool amx_bf16 = false;
    bool amx_int8 = false;
};

// The same object on every call; a feature is false where its registers are not saved.
const CpuFeatures& cpu_features();

// Instruction sets that kernels are written for, each containing the one before.
//   serial: plain C++, the definition.         avx2: AVX2, FMA, F16C.
//   avx512: and AVX-512 F, BW, VL, DQ.         avx512_bf16: and AVX512-BF16 and VNNI.
enum class Isa { serial = 0, avx2 = 1, avx512 = 2, avx512_bf16 = 3 };

bool supports(Isa isa);

}  // namespace clipfast
