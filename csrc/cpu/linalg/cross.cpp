// z = x times y, vectors of three numbers along the middle axis of (outer, 3, inner). Passes: two reads, one write. Work:
// outer slices over threads. Compiled once, for all levels: memory is slower than the six products.
#include <algorithm>

#include "cpu/linalg/linalg.h"
#include "cpu/runtime/threads.h"

namespace fastdl {
namespace {

template <class T>
void cross_of(T* z, const T* x, const T* y, int64_t inner) {
  for (int64_t i = 0; i < inner; ++i) {
    const T a = x[i], b = x[inner + i], c = x[2 * inner + i];
    const T d = y[i], e = y[inner + i], f = y[2 * inner + i];
    z[i] = b * f - c * e;
    z[inner + i] = c * d - a * f;
    z[2 * inner + i] = a * e - b * d;
  }
}

}  // namespace

template <class T>
void cross(T* z, const T* x, const T* y, int64_t outer, int64_t inner) {
  parallel_for(outer, std::max<int64_t>(1, 8192 / std::max<int64_t>(inner, 1)),
               [=](int64_t begin, int64_t end) {
                 if (inner == 1)  // the stride is known
                   for (int64_t o = begin; o < end; ++o) cross_of(z + o * 3, x + o * 3, y + o * 3, 1);
                 else
                   for (int64_t o = begin; o < end; ++o)
                     cross_of(z + o * 3 * inner, x + o * 3 * inner, y + o * 3 * inner, inner);
               });
}

template void cross<float>(float*, const float*, const float*, int64_t, int64_t);
template void cross<double>(double*, const double*, const double*, int64_t, int64_t);

}  // namespace fastdl
