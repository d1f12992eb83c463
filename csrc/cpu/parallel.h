// A loop over OpenMP threads that leaves the runtime alone when there is one thread.
#pragma once

#include <cstdint>

namespace clipfast {

// Calls body(i) for i in 0 .. count - 1, each once, in any order, on up to `threads` threads. The
// body must not throw. With one thread no OpenMP function is called: in a process forked after a
// parallel region, libgomp waits for threads that the fork did not copy, even to start a team of
// one.
template <class Body>
void parallel_for(int threads, std::int64_t count, const Body& body) {
    if (threads == 1 || count <= 1) {
        for (std::int64_t i = 0; i < count; ++i) body(i);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (std::int64_t i = 0; i < count; ++i) body(i);
}

}  // namespace clipfast
