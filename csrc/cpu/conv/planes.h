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
#include "cpu/simd/copy_row.h"

namespace fastdl {

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
  Planes(PlaneLayout layout) : PlaneLayout(std::move(layout)), rows_(list_rows()) {}
  static Planes of_input(const ConvProblem& p) { return PlaneLayout::of_input(p, p.in_size()); }

  // Elements: an odd number of cache lines, so that the same place in many channels does not fall into one
  // cache set, where each element stands for those of `images` side by side (at most a line).
  int64_t channel_size(int images = 1) const {
    const int64_t line = 64 / (images * int64_t(sizeof(T)));
    return (ceil_div(plane_size() * planes(), line) | 1) * line;
  }
  int64_t size(int images = 1) const { return channels() * channel_size(images); }

  // Copies channels [c0, c1) of an image. What is padding is not touched: it is zero from the start, for all
  // images.
  [[gnu::noinline]] void copy(T* to, const T* image, int64_t c0, int64_t c1) const {
    constexpr int64_t ahead = 2, line = 64 / int64_t(sizeof(T));
    RowPart<T, 2> part;
    int64_t short_row = 0;
    for (int64_t c = c0; c < c1; ++c)
      for (const auto& [plane, source, count] : rows_) {
        const T* from = image + c * source_size() + source;
        // Rows of a band are short, and from one channel to the next is further than hardware fetches ahead.
        if (c + ahead < c1)
          for (int64_t i = 0; i < count * stride(); i += line)
            __builtin_prefetch(from + ahead * source_size() + i);
        T* row = to + c * channel_size() + plane;
        if (stride() != 2 || count > simd::kWidth<T>) {
          copy_row(row, from, count, stride());
          continue;
        }
        if (count != short_row) part = RowPart<T, 2>(0, count, int(count));
        short_row = count;
        part.copy(row, from);
      }
  }
  const std::vector<Row>& rows() const { return rows_; }

 private:
  std::vector<Row> rows_;  // to find one takes longer than to copy it
};

}  // namespace fastdl
