// The padded, de-strided copy of an image in which a convolution becomes a sum of shifted arrays.
//
// Along an axis with stride s and padding q, tap r meets input r d + s o - q for output o: always the same
// remainder of the division by s. So each channel is split into one plane per remainder that some tap meets;
// in its plane a tap is a constant shift, element (o + shift). Rows of a plane follow each other in memory,
// so that for all outputs of an image
//
//   flat position f = o_h * width + o_w   meets   plane[shift + f]
//
// at the price of `width - out` superfluous columns per row. Vectors run across row ends, and nothing asks
// where the image ends: the padding is in the copy.
#pragma once

#include <utility>

#include "cpu/conv/lanes.h"
#include "cpu/conv/plane_layout.h"
#include "cpu/simd/simd.h"

namespace fastdl {

// Rows are short: no call to memmove.
template <class T>
inline void copy_row(T* to, const T* from, int64_t count) {
  constexpr int w = simd::kWidth<T>;
  int64_t i = 0;
  for (; i + w <= count; i += w) simd::store<T>(to + i, simd::load(from + i));
  if (i < count) simd::store_n(to + i, simd::load_n(from + i, int(count - i)), int(count - i));
}
template <class T, int... L>
[[gnu::always_inline]] inline simd::Vec<T> even_lanes(simd::Vec<T> a, simd::Vec<T> b,
                                                      std::integer_sequence<int, L...>) {
  return __builtin_shufflevector(a, b, (2 * L)...);
}
template <class T>
[[gnu::always_inline]] inline simd::Vec<T> even_lanes(simd::Vec<T> a, simd::Vec<T> b) {
  return even_lanes<T>(a, b, std::make_integer_sequence<int, simd::kWidth<T>>{});
}
template <class T, int... L>
[[gnu::always_inline]] inline simd::Vec<T> third_lanes(simd::Vec<T> a, simd::Vec<T> b, simd::Vec<T> c,
                                                       std::integer_sequence<int, L...>) {
  constexpr int w = simd::kWidth<T>;
  const simd::Vec<T> first = __builtin_shufflevector(a, b, (3 * L < 2 * w ? 3 * L : 0)...);
  return __builtin_shufflevector(first, c, (3 * L < 2 * w ? L : 3 * L - w)...);
}
// Lane j: from[S * j], where S * j < reach; nothing from `reach` on is read. S: 2, 3 or 4.
template <class T, int S>
[[gnu::always_inline]] inline simd::Vec<T> every(const T* from, int64_t reach) {
  constexpr int w = simd::kWidth<T>;
  if constexpr (S == 1)
    return reach >= w ? simd::load(from) : reach > 0 ? simd::load_n(from, int(reach)) : simd::Vec<T>{};
  else if constexpr (S == 3)
    return third_lanes<T>(every<T, 1>(from, reach), every<T, 1>(from + w, reach - w),
                          every<T, 1>(from + 2 * w, reach - 2 * w), std::make_integer_sequence<int, w>{});
  else
    return even_lanes<T>(every<T, S / 2>(from, reach), every<T, S / 2>(from + w * S / 2, reach - w * S / 2));
}
// Lane j: from[S * j], reading nothing behind the last. S: 1 or 2.
template <class T, int... L>
[[gnu::always_inline]] inline simd::Vec<T> every_second(const T* from, std::integer_sequence<int, L...>) {
  constexpr int w = simd::kWidth<T>;
  return __builtin_shufflevector(simd::load(from), simd::load(from + w - 1),
                                 (L < w / 2 ? 2 * L : 2 * L + 1)...);
}
template <class T, int S>
[[gnu::always_inline]] inline simd::Vec<T> every(const T* from) {
  if constexpr (S == 1)
    return simd::load(from);
  else
    return every_second<T>(from, std::make_integer_sequence<int, simd::kWidth<T>>{});
}
template <class T, int S>
[[gnu::noinline]] void copy_every(T* to, const T* from, int64_t count) {
  constexpr int w = simd::kWidth<T>;
  constexpr int64_t reach = S * (w - 1) + 1;  // of the last vector's elements
  if (count < w) {
    if (count > 0) simd::store_n(to, every<T, S>(from, S * (count - 1) + 1), int(count));
    return;
  }
  int64_t i = 0;
  for (; i + w < count; i += w) simd::store<T>(to + i, every<T, S>(from + S * i, S * w));
  const T* last = from + S * (count - w);  // overlaps the one before
  if constexpr (S == 2)
    simd::store<T>(to + count - w, every<T, S>(last));
  else
    simd::store<T>(to + count - w, every<T, S>(last, reach));
}
template <class T>
inline void copy_row(T* to, const T* from, int64_t count, int64_t stride) {
  if (stride == 1) return copy_row(to, from, count);
  if (stride == 2) return copy_every<T, 2>(to, from, count);
  if (stride == 3) return copy_every<T, 3>(to, from, count);
  if (stride == 4) return copy_every<T, 4>(to, from, count);
  for (int64_t i = 0; i < count; ++i) to[i] = from[stride * i];
}

// A vector of a row whose elements are S apart in the source: n lanes are written, of which [begin, end)
// exist there and the others are zero. Masks are made once for the same part of many rows.
template <class T, int S>
class RowPart {
 public:
  static constexpr int w = simd::kWidth<T>;
  RowPart() = default;
  RowPart(int64_t begin, int64_t end, int n) : n_(n) {
    for (int v = 0; v < S; ++v) in_[v] = Lanes<T>(S * begin - v * w, S * (end - 1) + 1 - v * w);
  }
  [[gnu::always_inline]] void copy(T* to, const T* from) const {
    if constexpr (S == 1)
      simd::store_n(to, in_[0].load(from), n_);
    else
      simd::store_n(to, even_lanes<T>(in_[0].load(from), in_[1].load(from + w)), n_);
  }

 private:
  Lanes<T> in_[S];
  int n_ = 0;
};

template <class T>
class Planes : public PlaneLayout {
 public:
  Planes(PlaneLayout layout) : PlaneLayout(std::move(layout)) {}
  static Planes of_input(const ConvProblem& p) { return PlaneLayout::of_input(p, p.in_size()); }

  // An odd number of cache lines, so that the same place in many channels does not fall into one cache set.
  int64_t channel_size() const {
    constexpr int64_t line = 64 / int64_t(sizeof(T));
    return (ceil_div(plane_size() * planes(), line) | 1) * line;
  }
  int64_t size() const { return channels() * channel_size(); }

  // Copies channels [c0, c1) of an image. What is padding is not touched: it is zero from the start, for all
  // images.
  void copy(T* to, const T* image, int64_t c0, int64_t c1) const {
    constexpr int64_t ahead = 2, line = 64 / int64_t(sizeof(T));
    RowPart<T, 2> part;
    int64_t short_row = 0;
    for (int64_t c = c0; c < c1; ++c)
      for_rows([&](int64_t plane, int64_t source, int64_t count) {
        const T* from = image + c * source_size() + source;
        // Rows of a band are short, and from one channel to the next is further than hardware fetches ahead.
        if (c + ahead < c1)
          for (int64_t i = 0; i < count * stride(); i += line)
            __builtin_prefetch(from + ahead * source_size() + i);
        T* row = to + c * channel_size() + plane;
        if (stride() != 2 || count > simd::kWidth<T>) return copy_row(row, from, count, stride());
        if (count != short_row) part = RowPart<T, 2>(0, count, int(count));
        short_row = count;
        part.copy(row, from);
      });
  }
};

}  // namespace fastdl
