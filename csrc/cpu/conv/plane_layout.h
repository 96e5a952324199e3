// Where the copies of planes.h lie, whatever their numbers are: compiled once, not for each level and type.
#pragma once

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "common/conv.h"
#include "cpu/ceil_div.h"

namespace fastdl {

class PlaneLayout {
 public:
  // For forward and grad_w: the input of one group of p. tap_offsets() then has one entry per tap.
  // source_size: elements from one channel of the input to the next, for a part of one (bands.h).
  static PlaneLayout of_input(const ConvProblem& p, int64_t source_size);
  // The same without taking strides apart, for those who read number by number: outputs are p.stride apart.
  static PlaneLayout of_padded_input(const ConvProblem& p, int64_t source_size);
  // For grad_x: grad_y of one group, as it is but with `before` and `after` zeros around it.
  static PlaneLayout of_grad(const ConvProblem& p, const Extent& before, const Extent& after,
                             int64_t source_size);

  int64_t width() const { return axes_[2].extent; }
  int64_t plane_size() const { return axes_[0].extent * axes_[1].extent * axes_[2].extent; }
  int64_t at(int64_t d, int64_t h, int64_t w) const {
    return (d * axes_[1].extent + h) * axes_[2].extent + w;
  }
  const std::vector<int64_t>& tap_offsets() const { return offsets_; }

  // A row of a channel that exists: elements plane + i from source + i * stride().
  struct Row {
    int64_t plane, source, count;
  };
  std::vector<Row> list_rows() const;

  // Rows of the source with all remainders: element `plane + places[r] + i` is source[stride * i + r] for i < count
  // where begin <= stride * i + r < end; the others are padding. Remainders that no tap meets: places[r] < 0.
  struct RowEnds {
    int64_t count = 0, begin = 0, end = 0;
    std::vector<int64_t> places;
  };
  std::vector<Row> list_whole_rows(RowEnds& ends) const;
  int64_t stride() const { return axes_[2].stride; }
  int64_t source_size() const { return source_size_; }

 protected:
  int64_t channels() const { return channels_; }
  int64_t planes() const { return axes_[0].planes() * axes_[1].planes() * axes_[2].planes(); }

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

  // f(plane, source): where the rows that exist begin, in the first plane of their remainders along the last axis.
  template <class F>
  void for_rows(F&& f) const;

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

Lattice forward_lattice(const ConvProblem& p, const std::vector<int64_t>& tap_offsets);

// grad_x: grad_y with a border wide enough for every shift, and the lattices that some tap meets.
std::pair<PlaneLayout, std::vector<Lattice>> grad_lattices(const ConvProblem& p, int64_t source_size);

}  // namespace fastdl
