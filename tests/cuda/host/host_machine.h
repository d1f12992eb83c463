// A machine for the kernels' loops on a processor: every thread of a block is a fiber, and what a
// GPU leaves undefined is an error here.
//
// Checked: global accesses lie inside the declared regions, loads of constants inside constant
// ones, and are aligned; shared accesses lie inside the block, were written before they are read,
// and are ordered against other threads' by a barrier (or within a warp by sync_warp); lanes of a
// warp meet in the same collective operation; no barrier is left waiting. An asynchronous copy
// destroys its target when it is issued and delivers when it is waited for: the two latest and
// earliest moments that a GPU may choose. Counted: rows of ldmatrix that share a bank.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cuda/element.h"
#include "host_numbers.h"

namespace clipfast::cuda {

struct Region {
    const char* begin;
    const char* end;
    bool writable;
    bool constant = false;  // no kernel writes it
};

template <class T>
Region readable(const T* data, int64_t count) {
    return {reinterpret_cast<const char*>(data), reinterpret_cast<const char*>(data + count),
            false};
}
template <class T>
Region constant(const T* data, int64_t count) {
    return {reinterpret_cast<const char*>(data), reinterpret_cast<const char*>(data + count), false,
            true};
}
template <class T>
Region writable(T* data, int64_t count) {
    return {reinterpret_cast<const char*>(data), reinterpret_cast<const char*>(data + count), true};
}

class Host;

// One block at a time: its fibers, its shared memory and what is known about each of its words.
class HostBlock {
  public:
    struct Options {
        int64_t blocks = 1;
        int threads = 32;
        int shared_bytes = 0;
        bool reversed = false;  // warps take turns from the last to the first
        int word_bytes = 4;     // what is checked as one piece of shared memory
    };

    HostBlock(const Options& options, std::vector<Region> regions)
        : options_(options), regions_(std::move(regions)) {}

    // Runs the loop for every thread of every block; returns what went wrong, or an empty string.
    std::string run(const std::function<void(Host&)>& loop);

    int64_t bank_conflicts() const { return bank_conflicts_; }

  private:
    friend class Host;
    static constexpr int kStackBytes = 64 * 1024;
    static constexpr int kNobody = -1, kSeveral = -2, kAtomic = -3;

    enum class State { ready, at_collective, at_barrier, done };

    struct Fiber {
        std::unique_ptr<char[]> stack;
        ucontext_t context;
        jmp_buf resume;
        bool started;
        State state;
        const void* operands;
        const void* collective;  // which operation, and on what types
        bool vote;
    };
    struct Warp {
        int arrived;
        uint32_t epoch;
    };
    struct Word {
        int writer = kNobody, reader = kNobody, reader_warp = kNobody;
        uint32_t write_epoch = 0, write_warp_epoch = 0, read_epoch = 0, read_warp_epoch = 0;
    };

    void run_block();
    bool turn(int warp);
    void resume(int thread);
    void suspend();
    [[noreturn]] void fail(const std::string& message);
    static void enter(unsigned low, unsigned high);
    void check_global(const void* address, size_t bytes, size_t alignment, bool write,
                      bool constant = false);
    void check_shared(uint32_t at, size_t bytes, size_t alignment);
    void note_read(int thread, uint32_t at, size_t bytes);
    void note_write(int thread, uint32_t at, size_t bytes, bool atomic = false);
    static int warp_of(int thread) { return thread < 0 ? kSeveral : thread / 32; }
    bool ordered(int warp, int other_warp, uint32_t epoch, uint32_t warp_epoch) const {
        return epoch < epoch_ || (warp == other_warp && warp_epoch < warps_[warp].epoch);
    }

    Options options_;
    std::vector<Region> regions_;
    const std::function<void(Host&)>* loop_ = nullptr;
    int64_t block_ = 0;
    std::vector<Fiber> fibers_;
    std::vector<Warp> warps_;
    std::vector<char> shared_;
    std::vector<Word> words_;
    uint32_t epoch_ = 1;
    bool last_vote_ = false;
    int running_ = 0;
    jmp_buf scheduler_;
    std::string error_;
    int64_t bank_conflicts_ = 0;
};

class Host {
  public:
    Host(HostBlock& block, int thread) : block_(block), thread_(thread) {}

    int thread() const { return thread_; }
    int thread_anew() const { return thread_; }
    int threads() const { return block_.options_.threads; }
    int block_x() const { return static_cast<int>(block_.block_); }

    void sync() { sync_or(false); }
    bool sync_or(bool value) {
        fiber().vote = value;
        fiber().state = HostBlock::State::at_barrier;
        block_.suspend();
        return block_.last_vote_;
    }
    void sync_warp() {
        static const char kind = 0;
        collective(&kind, nullptr, [&](const void* const*) { ++block_.warps_[warp()].epoch; });
    }

    template <class T>
    T load(const T* address) {
        block_.check_global(address, sizeof(T), alignof(T), false);
        return *address;
    }
    template <class T>
    T load_constant(const T* address) {
        block_.check_global(address, sizeof(T), alignof(T), false, true);
        return *address;
    }
    template <class T>
    T load_written(const T* address) {
        block_.check_global(address, sizeof(T), alignof(T), true);
        return *address;
    }
    template <class T>
    void store(T* address, T value) {
        block_.check_global(address, sizeof(T), alignof(T), true);
        *address = value;
    }
    template <class T>
    T shared_load(uint32_t at) {
        block_.check_shared(at, sizeof(T), alignof(T));
        block_.note_read(thread_, at, sizeof(T));
        T value;
        std::memcpy(&value, &block_.shared_[at], sizeof value);
        return value;
    }
    template <class T>
    void shared_store(uint32_t at, T value) {
        block_.check_shared(at, sizeof(T), alignof(T));
        block_.note_write(thread_, at, sizeof(T));
        std::memcpy(&block_.shared_[at], &value, sizeof value);
    }
    int shared_increment(uint32_t at) {
        block_.check_shared(at, 4, 4);
        block_.note_write(thread_, at, 4, true);
        int value;
        std::memcpy(&value, &block_.shared_[at], 4);
        const int next = value + 1;
        std::memcpy(&block_.shared_[at], &next, 4);
        return value;
    }

    template <int kBytes>
    void copy_async(uint32_t at, const void* source, bool valid) {
        block_.check_shared(at, kBytes, kBytes);
        if (reinterpret_cast<uintptr_t>(source) % kBytes != 0) {
            block_.fail("an asynchronous copy reads from an unaligned address");
        }
        if (valid) block_.check_global(source, kBytes, kBytes, false);
        block_.note_write(thread_, at, kBytes);
        std::memset(&block_.shared_[at], 0xff, kBytes);
        copies_.push_back({at, kBytes, valid ? source : nullptr});
    }
    void commit_copies() {
        groups_.push_back(std::move(copies_));
        copies_.clear();
    }
    template <int kPending>
    void wait_copies() {
        while (groups_.size() > kPending) {
            for (const Copy& copy : groups_.front()) {
                block_.note_write(thread_, copy.at, copy.bytes);
                if (copy.source == nullptr) {
                    std::memset(&block_.shared_[copy.at], 0, copy.bytes);
                } else {
                    std::memcpy(&block_.shared_[copy.at], copy.source, copy.bytes);
                }
            }
            groups_.erase(groups_.begin());
        }
    }

    template <class T>
    T shuffle_xor(T value, int mask) {
        return exchange(value, lane() ^ mask);
    }
    template <class T>
    T shuffle(T value, int from) {
        return exchange(value, from);
    }

    template <bool kTransposed, int kMatrices>
    void load_matrices(uint32_t (&words)[kMatrices], uint32_t at) {
        static const char kind = 0;
        struct Operands {
            uint32_t at;
            uint32_t* words;
        };
        block_.check_shared(at, 16, 16);
        const Operands mine = {at, words};
        collective(&kind, &mine, [&](const void* const* all) {
            const auto operands = [&](int lane) { return static_cast<const Operands*>(all[lane]); };
            for (int matrix = 0; matrix < kMatrices; ++matrix) {
                uint16_t elements[8][8];
                uint32_t banks = 0;
                for (int row = 0; row < 8; ++row) {
                    const uint32_t from = operands(8 * matrix + row)->at;
                    block_.note_read(warp() * 32 + 8 * matrix + row, from, 16);
                    std::memcpy(elements[row], &block_.shared_[from], 16);
                    const uint32_t bank = 1u << (from / 16 % 8);
                    block_.bank_conflicts_ += (banks & bank) != 0;
                    banks |= bank;
                }
                for (int lane = 0; lane < 32; ++lane) {
                    const int g = lane / 4, k = 2 * (lane % 4);
                    const uint32_t low = kTransposed ? elements[k][g] : elements[g][k];
                    const uint32_t high = kTransposed ? elements[k + 1][g] : elements[g][k + 1];
                    operands(lane)->words[matrix] = low | high << 16;
                }
            }
        });
    }

    template <class T>
    void multiply_16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                     uint32_t b1) {
        multiply<T, 16>(d, {a0, a1, a2, a3}, {b0, b1});
    }
    template <class T>
    void multiply_8(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
        multiply<T, 8>(d, {a0, a1, 0, 0}, {b0, 0});
    }

    float exp2(float x) {
        const float y = std::exp2(x);
        return y < 0x1p-126f ? 0.0f : y;
    }
    float zero() { return 0.0f; }
    float reciprocal(float x) { return 1.0f / x; }
    int lowest_bit(uint32_t word) { return __builtin_ctz(word); }
    template <class T>
    uint32_t pack(float low, float high) {
        return narrow<T>(low) | static_cast<uint32_t>(narrow<T>(high)) << 16;
    }
    template <class T>
    FloatPair unpack(uint32_t word) {
        return {widen<T>(word & 0xffff), widen<T>(word >> 16)};
    }
    double sum(double a, double b) { return a + b; }
    double product(double a, double b) { return a * b; }
    double quotient(double a, double b) { return a / b; }
    float float_from_bits(uint32_t bits) { return bits_to_float(bits); }
    uint32_t bits_of(float value) { return float_to_bits(value); }

  private:
    struct Copy {
        uint32_t at;
        int bytes;
        const void* source;  // null: zeros
    };
    struct AWords {
        uint32_t word[4];
    };
    struct BWords {
        uint32_t word[2];
    };

    int lane() const { return thread_ % 32; }
    int warp() const { return thread_ / 32; }
    HostBlock::Fiber& fiber() { return block_.fibers_[thread_]; }

    // The last lane to come executes for all.
    template <class Execute>
    void collective(const void* kind, const void* operands, const Execute& execute) {
        HostBlock::Fiber* lanes = &block_.fibers_[warp() * 32];
        HostBlock::Warp& group = block_.warps_[warp()];
        fiber().operands = operands;
        fiber().collective = kind;
        if (++group.arrived < 32) {
            fiber().state = HostBlock::State::at_collective;
            block_.suspend();
            return;
        }
        const void* all[32];
        for (int i = 0; i < 32; ++i) {
            if (lanes[i].collective != kind) {
                block_.fail("lanes of a warp meet in different operations");
            }
            all[i] = lanes[i].operands;
            lanes[i].state = HostBlock::State::ready;
        }
        group.arrived = 0;
        execute(all);
    }

    template <class T>
    T exchange(T value, int from) {
        static const char kind = 0;
        struct Operands {
            T value;
            int from;
            T* result;
        };
        T result;
        const Operands mine = {value, from, &result};
        collective(&kind, &mine, [](const void* const* all) {
            for (int lane = 0; lane < 32; ++lane) {
                const auto* to = static_cast<const Operands*>(all[lane]);
                *to->result = static_cast<const Operands*>(all[to->from])->value;
            }
        });
        return result;
    }

    template <class T, int kDepth>
    void multiply(float (&d)[4], AWords a, BWords b) {
        static const char kind = 0;
        struct Operands {
            AWords a;
            BWords b;
            float* d;
        };
        const Operands mine = {a, b, d};
        collective(&kind, &mine, [](const void* const* all) {
            float left[16][kDepth], right[kDepth][8];
            for (int lane = 0; lane < 32; ++lane) {
                const auto* from = static_cast<const Operands*>(all[lane]);
                const int g = lane / 4, k = 2 * (lane % 4);
                for (int half = 0; half < kDepth / 8; ++half) {
                    for (int e = 0; e < 2; ++e) {
                        const int shift = 16 * e, column = 8 * half + k + e;
                        left[g][column] = widen<T>(from->a.word[2 * half] >> shift & 0xffff);
                        left[g + 8][column] =
                            widen<T>(from->a.word[2 * half + 1] >> shift & 0xffff);
                        right[column][g] = widen<T>(from->b.word[half] >> shift & 0xffff);
                    }
                }
            }
            for (int lane = 0; lane < 32; ++lane) {
                float* d = static_cast<const Operands*>(all[lane])->d;
                for (int e = 0; e < 4; ++e) {
                    const int row = lane / 4 + 8 * (e / 2), column = 2 * (lane % 4) + e % 2;
                    float sum = d[e];
                    for (int k = 0; k < kDepth; ++k) sum += left[row][k] * right[k][column];
                    d[e] = sum;
                }
            }
        });
    }

    HostBlock& block_;
    int thread_;
    std::vector<Copy> copies_;
    std::vector<std::vector<Copy>> groups_;
};

}  // namespace clipfast::cuda

#include "host_block.h"
