// Half precision on the CPU is a way to store floats: kernels compute in float, and what surrounds them
// converts blocks that stay in the first-level cache. So memory is passed over once, in two bytes a number.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"

namespace fastdl {

enum class Half : uint8_t { none, float16, bfloat16 };

// y[i] = x[i] on the calling thread: half precision as float, and back (rounded to nearest, ties to even).
void widen(float* y, const uint16_t* x, int64_t n, Half from);
void narrow(uint16_t* y, const float* x, int64_t n, Half to);
// The same on all threads.
void widen_all(float* y, const uint16_t* x, int64_t n, Half from);
void narrow_all(uint16_t* y, const float* x, int64_t n, Half to);

// f(first, count, y, x...) for floats of `count` rows from `first` on, some `piece` numbers at a time and on
// all threads, where y and x are `rows` rows of `length` numbers stored in half precision. A single row is
// converted and computed by all threads. y may be null: f keeps its results itself.
template <class F, class... X>
void rows_in_floats(Half half, uint16_t* y, int64_t rows, int64_t length, int64_t piece, F&& f,
                    const X*... x) {
  constexpr int64_t kGrain = 16384, kApart = 80;  // floats between blocks: not a power of two
  if (rows * length == 0) return;
  const int64_t step = std::clamp<int64_t>(piece / length, 1, rows), size = step * length + kApart;
  const int64_t pieces = (rows + step - 1) / step;
  parallel_for(pieces, std::max<int64_t>(1, kGrain / (step * length)), [&](int64_t begin, int64_t end) {
    memory::Buffer<float> blocks(size_t(size * int64_t(sizeof...(X) + 1)));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * step, count = std::min(step, rows - first), n = count * length;
      [&]<size_t... input>(std::index_sequence<input...>) {
        (widen_all(blocks.get() + int64_t(input + 1) * size, x + first * length, n, half), ...);
        f(first, count, blocks.get(), static_cast<const float*>(blocks.get() + int64_t(input + 1) * size)...);
      }(std::index_sequence_for<X...>());
      if (y) narrow_all(y + first * length, blocks.get(), n, half);
    }
  });
}

// f(y, x..., n) for n numbers at a time of as many that are stored in half precision.
template <class F, class... X>
void in_floats(Half half, uint16_t* y, int64_t n, F f, const X*... x) {
  constexpr int64_t kBlock = 1024;
  rows_in_floats(
      half, y, n, 1, kBlock,
      [&f](int64_t, int64_t count, float* to, const auto*... from) { f(to, from..., count); }, x...);
}

}  // namespace fastdl
