// y[i] = f(a[i], b[i], ...) for arrays of n numbers: vector body and masked tail, ranges of elements over
// threads. y may be one of the inputs. Results larger than a last-level cache's
// share are written past the caches: that saves reading the lines first, a third of the traffic of y = f(x).
#pragma once

#include "cpu/runtime/threads.h"
#include "cpu/simd/map_vectors.h"

namespace fastdl::simd {

inline constexpr int64_t kMapGrain = 16384;  // elements worth about 10 us at memory speed
inline constexpr int64_t kMapBlock = 64;     // ranges start at multiples of it: aligned, if y is
inline constexpr int64_t kStreamBytes = 20 << 20;

// kLong: f is long (map_vectors.h).
template <bool kLong = false, class T, class F, class... In>
void map(T* y, int64_t n, F f, const In*... in) {
  const bool streams = n * int64_t(sizeof(T)) >= kStreamBytes;
  parallel_for(ceil_div(n, kMapBlock), kMapGrain / kMapBlock, [=](int64_t begin, int64_t end) {
    const int64_t first = begin * kMapBlock;
    map_vectors<kLong>(y + first, std::min(n, end * kMapBlock) - first, streams, f, in + first...);
    if (streams) fence();
  });
}

}  // namespace fastdl::simd
