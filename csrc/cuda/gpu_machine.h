// The memory-and-MMA policy of the kernels' loops on a GPU: names for CUDA built-ins and PTX of
// sm_80 and newer.
//
// Every loop in csrc/cuda/*_loop.h is a template over such a machine and touches the hardware only
// through it, so that the same loop also runs on a processor, under the checking machine of
// tests/cuda/host. Shared memory is addressed in bytes from the start of the block's dynamic
// allocation.
#pragma once

#include <cuda_runtime.h>

#include "cuda/element.h"

namespace clipfast::cuda {

extern __shared__ __align__(16) char dynamic_shared_memory[];

class Gpu {
  public:
    // The first thing that a kernel makes. Its launch may have begun under the end of the kernel
    // before it (launch.h): here it waits until that one is complete and its writes are seen, and
    // lets the kernel after it begin likewise. Every kernel waits, so whatever came earlier is
    // complete too.
    __device__ __forceinline__ Gpu() {
#if __CUDA_ARCH__ >= 900
        asm volatile("griddepcontrol.wait; griddepcontrol.launch_dependents;" ::: "memory");
#endif
    }

    __device__ __forceinline__ int thread() const { return static_cast<int>(threadIdx.x); }
    // The same, read anew: what follows from it is computed where it stands, not kept in registers
    // through a loop.
    __device__ __forceinline__ int thread_anew() const {
        int thread;
        asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
        return thread;
    }
    __device__ __forceinline__ int threads() const { return static_cast<int>(blockDim.x); }
    __device__ __forceinline__ int block_x() const { return static_cast<int>(blockIdx.x); }
    __device__ __forceinline__ int block_y() const { return static_cast<int>(blockIdx.y); }

    // --- order ---

    __device__ __forceinline__ void sync() { __syncthreads(); }
    __device__ __forceinline__ bool sync_or(bool value) { return __syncthreads_or(value) != 0; }
    __device__ __forceinline__ void sync_warp() { __syncwarp(); }

    // --- memory; `load` is for what no thread of this launch writes, `load_constant` for what no
    // kernel does: the compiler may move it anywhere, before the constructor's wait too ---

    template <class T>
    __device__ __forceinline__ T load(const T* address) {
        __builtin_assume(__isGlobal(address));  // which an address that was itself loaded hides
        return *address;
    }
    __device__ __forceinline__ Vector16 load(const Vector16* address) {
        const uint4 v = *reinterpret_cast<const uint4*>(address);
        return {{v.x, v.y, v.z, v.w}};
    }
    __device__ __forceinline__ FloatPair load(const FloatPair* address) {
        const float2 v = *reinterpret_cast<const float2*>(address);
        return {v.x, v.y};
    }
    template <class T>
    __device__ __forceinline__ T load_constant(const T* address) {
        return __ldg(address);
    }
    __device__ __forceinline__ FloatPair load_constant(const FloatPair* address) {
        const float2 v = __ldg(reinterpret_cast<const float2*>(address));
        return {v.x, v.y};
    }
    template <class T>
    __device__ __forceinline__ T load_written(const T* address) {
        return *address;
    }
    template <class T>
    __device__ __forceinline__ void store(T* address, T value) {
        *address = value;
    }
    __device__ __forceinline__ void store(Vector16* address, Vector16 v) {
        *reinterpret_cast<uint4*>(address) = make_uint4(v.word[0], v.word[1], v.word[2], v.word[3]);
    }
    __device__ __forceinline__ void store(FloatPair* address, FloatPair v) {
        *reinterpret_cast<float2*>(address) = make_float2(v.low, v.high);
    }
    template <class T>
    __device__ __forceinline__ T shared_load(uint32_t at) {
        return *reinterpret_cast<const T*>(dynamic_shared_memory + at);
    }
    template <class T>
    __device__ __forceinline__ void shared_store(uint32_t at, T value) {
        *reinterpret_cast<T*>(dynamic_shared_memory + at) = value;
    }
    __device__ __forceinline__ int shared_increment(uint32_t at) {
        return atomicAdd(reinterpret_cast<int*>(dynamic_shared_memory + at), 1);
    }

    // --- asynchronous copies of kBytes from global to shared memory; zeros when not valid ---

    template <int kBytes>
    __device__ __forceinline__ void copy_async(uint32_t at, const void* source, bool valid) {
        static_assert(kBytes == 8 || kBytes == 16, "a copy is 8 or 16 bytes");
        const uint32_t target = shared_address(at);
        const int bytes = valid ? kBytes : 0;
        if constexpr (kBytes == 16) {
            asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(target),
                         "l"(source), "r"(bytes)
                         : "memory");
        } else {
            asm volatile("cp.async.ca.shared.global.L2::128B [%0], [%1], 8, %2;" ::"r"(target),
                         "l"(source), "r"(bytes)
                         : "memory");
        }
    }
    __device__ __forceinline__ void commit_copies() {
        asm volatile("cp.async.commit_group;" ::: "memory");
    }
    // Waits until at most kPending of the groups that this thread committed are under way.
    template <int kPending>
    __device__ __forceinline__ void wait_copies() {
        asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
    }

    // --- whole warps ---

    __device__ __forceinline__ uint32_t shuffle_xor(uint32_t value, int mask) {
        return __shfl_xor_sync(0xffffffffu, value, mask);
    }
    __device__ __forceinline__ float shuffle_xor(float value, int mask) {
        return __shfl_xor_sync(0xffffffffu, value, mask);
    }
    __device__ __forceinline__ uint64_t shuffle_xor(uint64_t value, int mask) {
        return __shfl_xor_sync(0xffffffffu, static_cast<unsigned long long>(value), mask);
    }
    __device__ __forceinline__ uint64_t shuffle(uint64_t value, int lane) {
        return __shfl_sync(0xffffffffu, static_cast<unsigned long long>(value), lane);
    }

    // 8x8 matrices of 16-bit elements. Lane i gives the address of row i % 8 of matrix i / 8, and
    // gets elements (i / 4, 2 (i % 4)) and (i / 4, 2 (i % 4) + 1) of each, row and column exchanged
    // when transposed.
    template <bool kTransposed>
    __device__ __forceinline__ void load_matrices(uint32_t (&w)[4], uint32_t at) {
        if constexpr (kTransposed) {
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                         : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                         : "r"(shared_address(at)));
        } else {
            asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                         : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
                         : "r"(shared_address(at)));
        }
    }
    template <bool kTransposed>
    __device__ __forceinline__ void load_matrices(uint32_t (&w)[2], uint32_t at) {
        if constexpr (kTransposed) {
            asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                         : "=r"(w[0]), "=r"(w[1])
                         : "r"(shared_address(at)));
        } else {
            asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                         : "=r"(w[0]), "=r"(w[1])
                         : "r"(shared_address(at)));
        }
    }
    template <bool kTransposed>
    __device__ __forceinline__ void load_matrices(uint32_t (&w)[1], uint32_t at) {
        if constexpr (kTransposed) {
            asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                         : "=r"(w[0])
                         : "r"(shared_address(at)));
        } else {
            asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                         : "=r"(w[0])
                         : "r"(shared_address(at)));
        }
    }

    // d (16 x 8) += a (16 x 16) b (16 x 8) in fp32. a0, a1: rows g and g + 8 of the left half; a2,
    // a3: of the right.
    template <class T>
    __device__ __forceinline__ void multiply_16(float (&d)[4], uint32_t a0, uint32_t a1,
                                                uint32_t a2, uint32_t a3, uint32_t b0,
                                                uint32_t b1) {
        if constexpr (T::kBrain) {
            asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
        } else {
            asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
        }
    }
    // d (16 x 8) += a (16 x 8) b (8 x 8).
    template <class T>
    __device__ __forceinline__ void multiply_8(float (&d)[4], uint32_t a0, uint32_t a1,
                                               uint32_t b0) {
        if constexpr (T::kBrain) {
            asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 "
                "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                : "r"(a0), "r"(a1), "r"(b0));
        } else {
            asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                "{%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
                : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                : "r"(a0), "r"(a1), "r"(b0));
        }
    }

    // --- arithmetic ---

    // 2^x, relative error at most 2^-22; subnormal results are zero.
    __device__ __forceinline__ float exp2(float x) {
        float y;
        asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
        return y;
    }
    // Zero, made where it stands: an accumulator's zeros must not occupy registers ahead of time.
    __device__ __forceinline__ float zero() {
        float y;
        asm volatile("mov.f32 %0, 0f00000000;" : "=f"(y));
        return y;
    }
    // 1 / x within one unit in the last place.
    __device__ __forceinline__ float reciprocal(float x) {
        float y;
        asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
        return y;
    }
    // Position of the lowest set bit of a word that has one.
    __device__ __forceinline__ int lowest_bit(uint32_t word) { return __ffs(word) - 1; }
    // Two elements of T, rounded to nearest even, `low` at the lower address.
    template <class T>
    __device__ __forceinline__ uint32_t pack(float low, float high) {
        uint32_t word;
        if constexpr (T::kBrain) {
            asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
        } else {
            asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
        }
        return word;
    }
    template <class T>
    __device__ __forceinline__ FloatPair unpack(uint32_t word) {
        if constexpr (T::kBrain) {
            return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
        } else {
            FloatPair pair;
            asm("{.reg .b16 low, high; mov.b32 {low, high}, %2;"
                " cvt.f32.f16 %0, low; cvt.f32.f16 %1, high;}"
                : "=f"(pair.low), "=f"(pair.high)
                : "r"(word));
            return pair;
        }
    }
    // Doubles, each rounded: never fused.
    __device__ __forceinline__ double sum(double a, double b) { return __dadd_rn(a, b); }
    __device__ __forceinline__ double product(double a, double b) { return __dmul_rn(a, b); }
    __device__ __forceinline__ double quotient(double a, double b) { return __ddiv_rn(a, b); }
    __device__ __forceinline__ float float_from_bits(uint32_t bits) {
        return __uint_as_float(bits);
    }
    __device__ __forceinline__ uint32_t bits_of(float value) { return __float_as_uint(value); }

  private:
    __device__ __forceinline__ uint32_t shared_address(uint32_t at) const {
        return static_cast<uint32_t>(__cvta_generic_to_shared(dynamic_shared_memory)) + at;
    }
};

}  // namespace clipfast::cuda
