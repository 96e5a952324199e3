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

#include "cpu/ceil_div.h"
#include "cpu/conv/plane_layout.h"

namespace fastdl {

template <class T>
class Planes : public PlaneLayout {
 public:
  Planes(PlaneLayout layout) : PlaneLayout(std::move(layout)) {}
  static Planes of_input(const ConvProblem& p) { return PlaneLayout::of_input(p, p.in_size()); }

  // Elements: an odd number of cache lines, so that the same place in many channels does not fall into one
  // cache set, where each element stands for those of `images` side by side (at most a line).
  int64_t channel_size(int images = 1) const {
    const int64_t line = 64 / (images * int64_t(sizeof(T)));
    return (ceil_div(plane_size() * planes(), line) | 1) * line;
  }
  int64_t size(int images = 1) const { return channels() * channel_size(images); }
};

}  // namespace fastdl
