// The instruction sets that a function is compiled for, in front of its return type: one macro for
// each level of Isa (cpu_features.h) above serial, each naming all of the level's instructions, so
// that a function of a level may call any INLINE one of a lower level.
//
// For the sources of csrc/cpu, and headers that only they include: the macros last until their end.
#pragma once

#if defined(__x86_64__)
// GCC 12's own header warns where it leaves a register undefined on purpose (GCC bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#define AVX2 __attribute__((target("avx2,fma,f16c")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma,f16c")))
#define AVX512_BF16 \
    __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16,avx512vnni,fma,f16c")))
#endif
#define INLINE inline __attribute__((always_inline))
