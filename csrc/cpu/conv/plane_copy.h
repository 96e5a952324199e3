// Copies images into planes (planes.h). With strides of two to four a row is read once, by S vectors, and each
// number goes to the plane of its remainder:
//
//   plane r, element i = source[S * i + r]    from   vectors of S * w numbers  ->  S vectors of w, one per remainder
//
// Both ends of the rows lie alike in all of them, so what is masked there is worked out once per copy.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "cpu/conv/lanes.h"
#include "cpu/conv/planes.h"
#include "cpu/simd/copy_row.h"

namespace fastdl {
namespace plane_copy_detail {

template <class T, int R, int... L>
[[gnu::always_inline]] inline simd::Vec<T> half(simd::Vec<T> a, simd::Vec<T> b,
                                                std::integer_sequence<int, L...>) {
  return __builtin_shufflevector(a, b, (2 * L + R)...);
}
template <class T, int R, int... L>
[[gnu::always_inline]] inline simd::Vec<T> third(simd::Vec<T> a, simd::Vec<T> b, simd::Vec<T> c,
                                                 std::integer_sequence<int, L...>) {
  constexpr int w = simd::kWidth<T>;
  const simd::Vec<T> ab = __builtin_shufflevector(a, b, (3 * L + R < 2 * w ? 3 * L + R : 0)...);
  return __builtin_shufflevector(ab, c, (3 * L + R < 2 * w ? L : 3 * L + R - w)...);
}

// x[r], lane j: number S * j + r of the S vectors.
template <class T, int S>
[[gnu::always_inline]] inline void take_apart(simd::Vec<T> (&x)[S]) {
  constexpr auto lanes = std::make_integer_sequence<int, simd::kWidth<T>>{};
  if constexpr (S == 2) {
    const auto [a, b] = std::pair{x[0], x[1]};
    x[0] = half<T, 0>(a, b, lanes), x[1] = half<T, 1>(a, b, lanes);
  } else if constexpr (S == 3) {
    const simd::Vec<T> a = x[0], b = x[1], c = x[2];
    x[0] = third<T, 0>(a, b, c, lanes), x[1] = third<T, 1>(a, b, c, lanes);
    x[2] = third<T, 2>(a, b, c, lanes);
  } else {
    simd::Vec<T> low[2] = {x[0], x[1]}, high[2] = {x[2], x[3]};
    take_apart<T, 2>(low);
    take_apart<T, 2>(high);
    x[0] = half<T, 0>(low[0], high[0], lanes), x[1] = half<T, 0>(low[1], high[1], lanes);
    x[2] = half<T, 1>(low[0], high[0], lanes), x[3] = half<T, 1>(low[1], high[1], lanes);
  }
}

}  // namespace plane_copy_detail

template <class T>
class PlaneCopy {
 public:
  explicit PlaneCopy(const Planes<T>& planes) : planes_(planes) {
    if (planes.stride() >= 2 && planes.stride() <= 4)
      rows_ = planes.list_whole_rows(ends_);
    else
      rows_ = planes.list_rows();
  }

  // Channels [c0, c1) of an image. What is padding must be zero from the start and stays so, for all images.
  void operator()(T* to, const T* image, int64_t c0, int64_t c1) const {
    switch (planes_.stride()) {
      case 2:
        return take_apart<2>(to, image, c0, c1);
      case 3:
        return take_apart<3>(to, image, c0, c1);
      case 4:
        return take_apart<4>(to, image, c0, c1);
      default:
        return for_rows(to, image, c0, c1, [stride = planes_.stride()](T* row, const T* from, int64_t count) {
          copy_row(row, from, count, stride);
        });
    }
  }

 private:
  template <class F>
  [[gnu::always_inline]] void for_rows(T* to, const T* image, int64_t c0, int64_t c1, F&& f) const {
    constexpr int64_t ahead = 2, line = 64 / int64_t(sizeof(T));
    const int64_t size = planes_.source_size();
    for (int64_t c = c0; c < c1; ++c)
      for (const auto& [plane, source, count] : rows_) {
        const T* from = image + c * size + source;
        // Rows of a band are short, and from one channel to the next is further than hardware fetches ahead.
        if (c + ahead < c1)
          for (int64_t i = 0; i < count * planes_.stride(); i += line)
            __builtin_prefetch(from + ahead * size + i);
        f(to + c * planes_.channel_size() + plane, from, count);
      }
  }

  template <int S>
  [[gnu::noinline]] void take_apart(T* to, const T* image, int64_t c0, int64_t c1) const {
    constexpr int w = simd::kWidth<T>;
    // The last vectors end with the row and repeat some of those before, unless there are none.
    const int64_t last = std::max<int64_t>(0, ends_.count - w);
    const int lanes = int(std::min<int64_t>(w, ends_.count));
    Lanes<T> first_there[S], last_there[S];
    for (int v = 0; v < S; ++v) {
      first_there[v] = Lanes<T>(ends_.begin - v * w, ends_.end - v * w);
      last_there[v] = Lanes<T>(ends_.begin - last * S - v * w, ends_.end - last * S - v * w);
    }
    const auto step = [&](T* row, const T* from, auto&& load) __attribute__((always_inline)) {
      simd::Vec<T> x[S];
      for (int v = 0; v < S; ++v) x[v] = load(from + v * w, v);
      plane_copy_detail::take_apart<T, S>(x);
      for (int r = 0; r < S; ++r)
        if (ends_.places[size_t(r)] >= 0) simd::store_n(row + ends_.places[size_t(r)], x[r], lanes);
    };
    for_rows(to, image, c0, c1, [&](T* row, const T* from, int64_t) {
      if (last > 0) {
        step(row, from, [&](const T* p, int v) { return first_there[v].load(p); });
        for (int64_t i = w; i < last; i += w)
          step(row + i, from + i * S, [](const T* p, int) { return simd::load(p); });
      }
      step(row + last, from + last * S, [&](const T* p, int v) { return last_there[v].load(p); });
    });
  }

  const Planes<T>& planes_;
  PlaneLayout::RowEnds ends_;
  std::vector<PlaneLayout::Row> rows_;  // to find one takes longer than to copy it
};

}  // namespace fastdl
