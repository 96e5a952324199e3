// add_parts(sum, parts, size, count): sum[i] = parts[i] + parts[size + i] + ... + parts[(count - 1) size +
// i], in this order: how partial results of threads become one. `sum` may be `parts` itself. Shared out over
// the elements: with many threads there are many parts, and one thread would take longer to add them than all
// took to compute them. Memory: each part is read once, the sum written once.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/runtime/threads.h"

namespace fastdl {

template <class T>
[[gnu::noinline]] void add_parts(T* sum, const T* parts, int64_t size, int64_t count) {
  constexpr int64_t block = 512;  // elements of the sum that stay in L1
  const int64_t blocks = ceil_div(size, block);
  parallel_for(blocks, std::max<int64_t>(1, 64 / count), [=](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * block, n = std::min(block, size - first);
      alignas(64) T total[block];
      std::copy_n(parts + first, n, total);
      for (int64_t part = 1; part < count; ++part) {
        const T* from = parts + part * size + first;
        for (int64_t i = 0; i < n; ++i) total[i] += from[i];
      }
      std::copy_n(total, n, sum + first);
    }
  });
}

}  // namespace fastdl
