// Running a block's fibers in turn, and the checks on memory. Included by host_machine.h.
#pragma once

#include "host_machine.h"

namespace clipfast::cuda {

inline std::string HostBlock::run(const std::function<void(Host&)>& loop) {
    loop_ = &loop;
    fibers_.resize(options_.threads);
    for (Fiber& fiber : fibers_) fiber.stack = std::make_unique<char[]>(kStackBytes);
    for (block_ = 0; block_ < options_.blocks && error_.empty(); ++block_) run_block();
    return error_;
}

inline void HostBlock::run_block() {
    warps_.assign(options_.threads / 32, Warp{0, 1});
    shared_.assign(options_.shared_bytes, static_cast<char>(0xff));
    const int word_bytes = options_.word_bytes;
    words_.assign((options_.shared_bytes + word_bytes - 1) / word_bytes, Word{});
    epoch_ = 1;
    for (Fiber& fiber : fibers_) {
        fiber.started = false;
        fiber.state = State::ready;
    }
    const int warps = static_cast<int>(warps_.size());
    while (error_.empty()) {
        bool moved = false;
        for (int i = 0; i < warps && error_.empty(); ++i) {
            moved |= turn(options_.reversed ? warps - 1 - i : i);
        }
        if (moved) continue;
        bool vote = false, waiting = false;
        for (const Fiber& fiber : fibers_) {
            if (fiber.state == State::at_collective) {
                error_ = "some lanes of a warp wait in an operation that the others never reach";
                return;
            }
            waiting |= fiber.state == State::at_barrier;
            vote |= fiber.state == State::at_barrier && fiber.vote;
        }
        if (!waiting) return;
        last_vote_ = vote;
        ++epoch_;
        for (Fiber& fiber : fibers_) {
            if (fiber.state == State::at_barrier) fiber.state = State::ready;
        }
    }
}

// Runs the ready lanes of a warp until none is; false when none was.
inline bool HostBlock::turn(int warp) {
    bool moved = false;
    for (bool any = true; any && error_.empty();) {
        any = false;
        for (int i = 0; i < 32 && error_.empty(); ++i) {
            const int thread = warp * 32 + (options_.reversed ? 31 - i : i);
            if (fibers_[thread].state != State::ready) continue;
            any = moved = true;
            resume(thread);
        }
    }
    return moved;
}

inline void HostBlock::resume(int thread) {
    running_ = thread;
    Fiber& fiber = fibers_[thread];
    if (_setjmp(scheduler_) != 0) return;
    if (fiber.started) _longjmp(fiber.resume, 1);
    fiber.started = true;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    const auto self = reinterpret_cast<uintptr_t>(this);
    makecontext(&fiber.context, reinterpret_cast<void (*)()>(enter), 2, static_cast<unsigned>(self),
                static_cast<unsigned>(self >> 32));
    setcontext(&fiber.context);
}

inline void HostBlock::enter(unsigned low, unsigned high) {
    auto* self = reinterpret_cast<HostBlock*>(static_cast<uintptr_t>(high) << 32 | low);
    const int thread = self->running_;
    {
        Host machine(*self, thread);
        (*self->loop_)(machine);
    }
    self->fibers_[thread].state = State::done;
    _longjmp(self->scheduler_, 1);
}

inline void HostBlock::suspend() {
    if (_setjmp(fibers_[running_].resume) == 0) _longjmp(scheduler_, 1);
}

// The fibers are abandoned; the scheduler sees the message and stops.
inline void HostBlock::fail(const std::string& message) {
    error_ =
        "block " + std::to_string(block_) + ", thread " + std::to_string(running_) + ": " + message;
    _longjmp(scheduler_, 1);
}

inline void HostBlock::check_global(const void* address, size_t bytes, size_t alignment, bool write,
                                    bool constant) {
    const auto* at = static_cast<const char*>(address);
    if (reinterpret_cast<uintptr_t>(at) % alignment != 0) {
        fail("a global access of " + std::to_string(bytes) + " bytes is not aligned");
    }
    for (const Region& region : regions_) {
        if (at >= region.begin && at + bytes <= region.end && (region.writable || !write) &&
            (region.constant || !constant)) {
            return;
        }
    }
    if (constant) fail("a load of a constant lies outside the constants");
    fail(write ? "a global write lies outside the output"
               : "a global read lies outside the inputs");
}

inline void HostBlock::check_shared(uint32_t at, size_t bytes, size_t alignment) {
    if (at % alignment != 0) fail("a shared access is not aligned");
    if (at + bytes > shared_.size()) fail("a shared access lies outside the block's memory");
}

inline void HostBlock::note_read(int thread, uint32_t at, size_t bytes) {
    const int warp = thread / 32;
    const size_t piece = options_.word_bytes;
    for (size_t i = at / piece; i < (at + bytes + piece - 1) / piece; ++i) {
        Word& word = words_[i];
        if (word.writer == kNobody) fail("shared memory is read before it is written");
        if (word.writer != thread &&
            !ordered(warp, warp_of(word.writer), word.write_epoch, word.write_warp_epoch)) {
            fail("shared memory is read without a barrier after another thread's write");
        }
        const bool first = word.read_epoch != epoch_;
        word.reader = first || word.reader == thread ? thread : kSeveral;
        word.reader_warp = first || word.reader_warp == warp ? warp : kSeveral;
        word.read_epoch = epoch_;
        word.read_warp_epoch = warps_[warp].epoch;
    }
}

inline void HostBlock::note_write(int thread, uint32_t at, size_t bytes, bool atomic) {
    const int warp = thread / 32;
    const size_t piece = options_.word_bytes;
    for (size_t i = at / piece; i < (at + bytes + piece - 1) / piece; ++i) {
        Word& word = words_[i];
        const bool both_atomic = atomic && word.writer == kAtomic;
        if (word.writer != kNobody && word.writer != thread && !both_atomic &&
            !ordered(warp, warp_of(word.writer), word.write_epoch, word.write_warp_epoch)) {
            fail("two threads write the same shared memory without a barrier between them");
        }
        if (word.reader != kNobody && word.reader != thread &&
            !ordered(warp, word.reader_warp, word.read_epoch, word.read_warp_epoch)) {
            fail("shared memory is written without a barrier after another thread's read");
        }
        word.writer = atomic ? kAtomic : thread;
        word.write_epoch = epoch_;
        word.write_warp_epoch = warps_[warp].epoch;
    }
}

}  // namespace clipfast::cuda
