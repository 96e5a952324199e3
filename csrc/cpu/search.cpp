// Places in sorted rows, by halving: after log2(n) steps `at` is the number of elements before the value.
//
//   while left > 1:  half = left / 2;  left -= half
//                    at += half if sorted[at + half - 1] comes before the value
//
// The steps of one value wait for each other, so kTogether values take them in turn; nothing is a branch, so
// nothing is mispredicted. Work: values over threads. Passes: the values once.
#include <algorithm>

#include "cpu/order.h"
#include "cpu/runtime/threads.h"

namespace fastdl {
namespace {

constexpr int kTogether = 16;

template <bool right, class T>
bool before(T element, T value) {
  return right ? !(element > value) : !(element >= value);  // also for a NaN
}

template <bool right, class T>
void search(int64_t* y, const T* sorted, int64_t n, const T* values, int64_t count) {
  for (int64_t i = 0; i < count; i += kTogether) {
    const int here = int(std::min<int64_t>(kTogether, count - i));
    T value[kTogether] = {};
    int64_t at[kTogether] = {};
    std::copy_n(values + i, here, value);
    for (int64_t left = n, half; left > 1; left -= half) {
      half = left / 2;
      for (int j = 0; j < kTogether; ++j)
        at[j] += before<right>(sorted[at[j] + half - 1], value[j]) ? half : 0;
    }
    if (n > 0)
      for (int j = 0; j < kTogether; ++j) at[j] += before<right>(sorted[at[j]], value[j]);
    std::copy_n(at, here, y + i);
  }
}

}  // namespace

template <class T>
void search_sorted(int64_t* y, const T* sorted, int64_t rows, int64_t n, const T* values, int64_t count,
                   bool right) {
  parallel_for(rows * count, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end;) {
      const int64_t row = i / count, stop = std::min(end, (row + 1) * count);
      (right ? search<true, T> : search<false, T>)(y + i, sorted + row * n, n, values + i, stop - i);
      i = stop;
    }
  });
}

template void search_sorted<float>(int64_t*, const float*, int64_t, int64_t, const float*, int64_t, bool);
template void search_sorted<double>(int64_t*, const double*, int64_t, int64_t, const double*, int64_t, bool);
template void search_sorted<int64_t>(int64_t*, const int64_t*, int64_t, int64_t, const int64_t*, int64_t,
                                     bool);

}  // namespace fastdl
