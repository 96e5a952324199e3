// Half precision on the CPU is a way to store floats: kernels compute in float, and what surrounds them
// converts blocks that stay in the first-level cache. So memory is passed over once, in two bytes a number.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "cpu/runtime/threads.h"

namespace fastdl {

enum class Half : uint8_t { none, float16, bfloat16 };

// y[i] = x[i] on the calling thread: half precision as float, and back (rounded to nearest, ties to even).
void widen(float* y, const uint16_t* x, int64_t n, Half from);
void narrow(uint16_t* y, const float* x, int64_t n, Half to);
// The same on all threads.
void widen_all(float* y, const uint16_t* x, int64_t n, Half from);
void narrow_all(uint16_t* y, const float* x, int64_t n, Half to);

// f(y, x..., n) for floats, block by block and on all threads, where y and x are n numbers stored in half
// precision.
template <class F, class... X>
void in_floats(Half half, uint16_t* y, int64_t n, F f, const X*... x) {
  constexpr int64_t kBlock = 1024, kGrain = 16384;
  parallel_for((n + kBlock - 1) / kBlock, kGrain / kBlock, [&](int64_t begin, int64_t end) {
    alignas(64) float blocks[sizeof...(X) + 1][kBlock];
    for (int64_t i = begin * kBlock; i < std::min(n, end * kBlock); i += kBlock) {
      const int64_t count = std::min(kBlock, n - i);
      [&]<size_t... input>(std::index_sequence<input...>) {
        (widen(blocks[input + 1], x + i, count, half), ...);
        f(blocks[0], static_cast<const float*>(blocks[input + 1])..., count);
      }(std::index_sequence_for<X...>());
      narrow(y + i, blocks[0], count, half);
    }
  });
}

}  // namespace fastdl
