// Parts of sums, added in order.
#pragma once

#include "cuda/numeric.h"

namespace fastdl::cuda {

constexpr int kPartThreads = 256, kPartItems = 32;  // items of a block at a time: a warp's

// write(i, sum over s of parts[s * items + i]) for all items. Parts are many where items are few, so a
// block's eight warps take every eighth part each, four of which are on their way at a time; then their sums
// are added.
template <class C, class Write>
__device__ __forceinline__ void add_parts_in_order(const C* parts, int64_t items, int64_t splits,
                                                   Write&& write) {
  constexpr int kWarps = kPartThreads / kPartItems;
  FASTDL_SHARED(C, sums, kPartThreads);
  const int lane = int(threadIdx.x) % kPartItems, warp = int(threadIdx.x) / kPartItems;
  for (int64_t first = int64_t(blockIdx.x) * kPartItems; first < items;
       first += int64_t(gridDim.x) * kPartItems) {
    const int64_t i = first + lane;
    C sum = 0;
    if (i < items) {
      int64_t s = warp;
      for (; s + 3 * kWarps < splits; s += 4 * kWarps) {
        C four[4];
        FASTDL_UNROLL
        for (int k = 0; k < 4; ++k) four[k] = parts[(s + k * kWarps) * items + i];
        FASTDL_UNROLL
        for (int k = 0; k < 4; ++k) sum += four[k];
      }
      for (; s < splits; s += kWarps) sum += parts[s * items + i];
    }
    sums[threadIdx.x] = sum;
    sync_threads();
    if (warp == 0 && i < items) {
      FASTDL_UNROLL
      for (int w = 1; w < kWarps; ++w) sum += sums[w * kPartItems + lane];
      write(i, sum);
    }
    sync_threads();
  }
}

}  // namespace fastdl::cuda
