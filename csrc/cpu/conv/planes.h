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

#include <algorithm>
#include <utility>
#include <vector>

#include "common/conv.h"
#include "cpu/ceil_div.h"
#include "cpu/conv/lanes.h"
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
class Planes {
 public:
  // For forward and grad_w: the input of one group of p. tap_offsets() then has one entry per tap.
  // source_size: elements from one channel of the input to the next, for a part of one (bands.h).
  static Planes of_input(const ConvProblem& p) { return of_input(p, p.in_size()); }
  static Planes of_input(const ConvProblem& p, int64_t source_size) {
    Planes planes;
    planes.channels_ = p.group_in();
    planes.source_size_ = source_size;
    std::vector<int64_t> plane[kSpatial], shift[kSpatial];
    for (size_t a = 0; a < kSpatial; ++a) {
      Axis& axis = planes.axes_[a];
      axis = {p.in[a], p.stride[a], p.pad[a], p.out[a] + p.dilation[a] * (p.kernel[a] - 1) / p.stride[a], {}};
      for (int64_t r = 0; r < p.kernel[a]; ++r) {
        const int64_t remainder = r * p.dilation[a] % p.stride[a];
        const auto found = std::find(axis.remainders.begin(), axis.remainders.end(), remainder);
        plane[a].push_back(found - axis.remainders.begin());
        shift[a].push_back(r * p.dilation[a] / p.stride[a]);
        if (found == axis.remainders.end()) axis.remainders.push_back(remainder);
      }
    }
    const auto& axes = planes.axes_;
    for (int64_t d = 0; d < p.kernel[0]; ++d)
      for (int64_t h = 0; h < p.kernel[1]; ++h)
        for (int64_t w = 0; w < p.kernel[2]; ++w) {
          const int64_t which =
              (plane[0][size_t(d)] * axes[1].planes() + plane[1][size_t(h)]) * axes[2].planes() +
              plane[2][size_t(w)];
          planes.offsets_.push_back(which * planes.plane_size() +
                                    planes.at(shift[0][size_t(d)], shift[1][size_t(h)], shift[2][size_t(w)]));
        }
    return planes;
  }

  // The same without taking strides apart, for those who read number by number: outputs are p.stride apart.
  static Planes of_padded_input(const ConvProblem& p, int64_t source_size) {
    Planes planes;
    planes.channels_ = p.group_in();
    planes.source_size_ = source_size;
    for (size_t a = 0; a < kSpatial; ++a)
      planes.axes_[a] = {
          p.in[a], 1, p.pad[a], (p.out[a] - 1) * p.stride[a] + p.dilation[a] * (p.kernel[a] - 1) + 1, {0}};
    for (int64_t d = 0; d < p.kernel[0]; ++d)
      for (int64_t h = 0; h < p.kernel[1]; ++h)
        for (int64_t w = 0; w < p.kernel[2]; ++w)
          planes.offsets_.push_back(planes.at(d * p.dilation[0], h * p.dilation[1], w * p.dilation[2]));
    return planes;
  }

  // For grad_x: grad_y of one group, as it is but with `before` and `after` zeros around it.
  static Planes of_grad(const ConvProblem& p, const Extent& before, const Extent& after,
                        int64_t source_size) {
    Planes planes;
    planes.channels_ = p.group_out();
    planes.source_size_ = source_size;
    for (size_t a = 0; a < kSpatial; ++a)
      planes.axes_[a] = {p.out[a], 1, before[a], before[a] + p.out[a] + after[a], {0}};
    return planes;
  }

  int64_t width() const { return axes_[2].extent; }
  int64_t plane_size() const { return axes_[0].extent * axes_[1].extent * axes_[2].extent; }
  // An odd number of cache lines, so that the same place in many channels does not fall into one cache set.
  int64_t channel_size() const {
    constexpr int64_t line = 64 / int64_t(sizeof(T));
    const int64_t planes = axes_[0].planes() * axes_[1].planes() * axes_[2].planes();
    return (ceil_div(plane_size() * planes, line) | 1) * line;
  }
  int64_t size() const { return channels_ * channel_size(); }
  int64_t at(int64_t d, int64_t h, int64_t w) const {
    return (d * axes_[1].extent + h) * axes_[2].extent + w;
  }
  const std::vector<int64_t>& tap_offsets() const { return offsets_; }

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

  // f(plane, source, count) for each row of a channel that exists: elements plane + i from source + i *
  // stride().
  template <class F>
  void for_rows(F&& f) const {
    const Axis &depth = axes_[0], &height = axes_[1], &width = axes_[2];
    int64_t plane = 0;
    for (int64_t rd : depth.remainders)
      for (int64_t rh : height.remainders)
        for (int64_t rw : width.remainders) {
          const auto [first, last] = width.inside(rw);
          for (int64_t d = 0; d < depth.extent; ++d)
            for (int64_t h = 0; h < height.extent; ++h) {
              const int64_t from_d = depth.source(d, rd), from_h = height.source(h, rh);
              if (from_d < 0 || from_d >= depth.size || from_h < 0 || from_h >= height.size || first >= last)
                continue;
              f(plane + at(d, h, first),
                (from_d * height.size + from_h) * width.size + width.source(first, rw), last - first);
            }
          plane += plane_size();
        }
  }
  int64_t stride() const { return axes_[2].stride; }
  int64_t source_size() const { return source_size_; }

 private:
  struct Axis {
    int64_t size, stride, pad, extent;  // of the source; extent: of each plane
    std::vector<int64_t> remainders;    // one plane each
    int64_t planes() const { return int64_t(remainders.size()); }
    int64_t source(int64_t u, int64_t remainder) const { return u * stride + remainder - pad; }
    // [first, last) of a plane's elements that exist in the source.
    std::pair<int64_t, int64_t> inside(int64_t remainder) const {
      const int64_t first = pad > remainder ? ceil_div(pad - remainder, stride) : 0;
      const int64_t end = size + pad - remainder;  // first u * stride that is beyond
      return {first, std::min(extent, end > 0 ? ceil_div(end, stride) : 0)};
    }
  };

  int64_t channels_ = 0, source_size_ = 0;
  std::array<Axis, kSpatial> axes_;
  std::vector<int64_t> offsets_;
};

// Output positions that share their taps: position (d, h, w) of the lattice is element first + step * (d, h,
// w) of the result and meets planes[base + at(d, h, w) + offsets[r]] with weight tap taps[r]. It meets
// padding there unless inside[r].low <= (d, h, w) < inside[r].high along each axis.
struct Lattice {
  struct Range {
    Extent low, high;
  };
  Extent count, first, step;
  int64_t base;
  std::vector<int64_t> offsets, taps;
  std::vector<Range> inside;

  // Where position (d, h, w) lies in a channel of the result.
  int64_t element(const Extent& extent, int64_t d, int64_t h, int64_t w) const {
    return ((first[0] + d * step[0]) * extent[1] + first[1] + h * step[1]) * extent[2] + first[2] +
           w * step[2];
  }
};

inline Lattice forward_lattice(const ConvProblem& p, const std::vector<int64_t>& tap_offsets) {
  Lattice lattice{p.out, {0, 0, 0}, {1, 1, 1}, 0, tap_offsets, {}, {}};
  for (int64_t r = 0; r < p.taps(); ++r) {
    const Extent tap{r / (p.kernel[1] * p.kernel[2]), r / p.kernel[2] % p.kernel[1], r % p.kernel[2]};
    Lattice::Range range;
    for (size_t a = 0; a < kSpatial; ++a) {
      const int64_t start = tap[a] * p.dilation[a] - p.pad[a];  // what position 0 meets
      range.low[a] = start < 0 ? ceil_div(-start, p.stride[a]) : 0;
      range.high[a] = start < p.in[a] ? (p.in[a] - 1 - start) / p.stride[a] + 1 : 0;
    }
    lattice.taps.push_back(r);
    lattice.inside.push_back(range);
  }
  return lattice;
}

// One axis of a lattice: inputs i = first + step * u, u < count, meet tap taps[j] at output u + shifts[j] (if
// that exists).
struct LatticeAxis {
  int64_t first, count;
  std::vector<int64_t> taps, shifts;
};
inline std::vector<LatticeAxis> lattice_axes(const ConvProblem& p, size_t a) {
  const int64_t stride = p.stride[a];
  std::vector<LatticeAxis> axes;
  for (int64_t first = 0; first < std::min(stride, p.in[a]); ++first)
    axes.push_back({first, ceil_div(p.in[a] - first, stride), {}, {}});
  for (int64_t r = 0; r < p.kernel[a]; ++r) {
    const int64_t start = r * p.dilation[a] - p.pad[a];  // what output 0 meets
    const int64_t first = (start % stride + stride) % stride;
    if (first >= int64_t(axes.size())) continue;
    axes[size_t(first)].taps.push_back(r);
    axes[size_t(first)].shifts.push_back((first - start) / stride);
  }
  std::erase_if(axes, [](const LatticeAxis& axis) { return axis.taps.empty(); });
  return axes;
}

// grad_x: grad_y with a border wide enough for every shift, and the lattices that some tap meets.
template <class T>
std::pair<Planes<T>, std::vector<Lattice>> grad_lattices(const ConvProblem& p, int64_t source_size) {
  std::vector<LatticeAxis> axes[kSpatial];
  Extent before{}, after{};
  for (size_t a = 0; a < kSpatial; ++a) {
    axes[a] = lattice_axes(p, a);
    for (const LatticeAxis& axis : axes[a])
      for (int64_t shift : axis.shifts) {
        before[a] = std::max(before[a], -shift);
        after[a] = std::max(after[a], axis.count + shift - p.out[a]);
      }
  }
  auto planes = Planes<T>::of_grad(p, before, after, source_size);
  std::vector<Lattice> lattices;
  for (const LatticeAxis& d : axes[0])
    for (const LatticeAxis& h : axes[1])
      for (const LatticeAxis& v : axes[2]) {
        Lattice lattice{{d.count, h.count, v.count},
                        {d.first, h.first, v.first},
                        p.stride,
                        planes.at(before[0], before[1], before[2]),
                        {},
                        {},
                        {}};
        for (size_t i = 0; i < d.taps.size(); ++i)
          for (size_t j = 0; j < h.taps.size(); ++j)
            for (size_t k = 0; k < v.taps.size(); ++k) {
              const Extent shift{d.shifts[i], h.shifts[j], v.shifts[k]};
              Lattice::Range range;
              for (size_t a = 0; a < kSpatial; ++a) {
                range.low[a] = -shift[a];
                range.high[a] = p.out[a] - shift[a];
              }
              lattice.offsets.push_back(planes.at(shift[0], shift[1], shift[2]));
              lattice.taps.push_back((d.taps[i] * p.kernel[1] + h.taps[j]) * p.kernel[2] + v.taps[k]);
              lattice.inside.push_back(range);
            }
        lattices.push_back(lattice);
      }
  return {planes, lattices};
}

}  // namespace fastdl
