// Which positions an implicit product for the targets of a convolution meets: forward the targets are those
// of y; for the gradient of x those of x, in interleaved images (*classes*), one for each residue of the
// stride per axis.
#pragma once

#include <algorithm>
#include <utility>

#include "cuda/conv_axis.h"

namespace fastdl::cuda {

// Numbers of targets in the classes of an axis: those of the first residues, and one less.
struct ClassCounts {
  Divisor most, fewer;
};
struct ConvClasses {
  ConvAxes axes;
  ClassCounts d, h, w;
  bool transposed;
};

inline ConvClasses conv_classes(const ConvProblem& p, bool transposed) {
  ConvClasses c{conv_axes(p), {}, {}, {}, transposed};
  for (auto [axis, counts] :
       {std::pair(&c.axes.d, &c.d), std::pair(&c.axes.h, &c.h), std::pair(&c.axes.w, &c.w)}) {
    const int most = transposed ? (axis->in + axis->stride - 1) / axis->stride : axis->out;
    counts->most = Divisor(uint32_t(std::max(1, most)));
    counts->fewer = Divisor(uint32_t(std::max(1, most - 1)));
  }
  return c;
}

// What tiles of the largest class have: pixels of all images, taps; and the number of classes.
struct ClassSizes {
  int64_t pixels, taps, classes;
};
inline ClassSizes class_sizes(const ConvProblem& p, bool transposed) {
  if (!transposed) return {p.batch * p.out_size(), p.taps(), 1};
  ClassSizes sizes{p.batch, 1, 1};
  for (size_t i = 0; i < kSpatial; ++i) {
    const int64_t period = p.stride[i] / std::gcd(p.stride[i], p.dilation[i]);
    sizes.pixels *= (p.in[i] + p.stride[i] - 1) / p.stride[i];
    sizes.taps *= (p.kernel[i] + period - 1) / period;
    sizes.classes *= p.stride[i];
  }
  return sizes;
}

// One axis of a class: target j < count is at first + j * spacing, tap t < taps of it is the kernel's tap +
// t * period, and meets source j * step + origin + t * move.
struct alignas(16) Class {
  int source, move, taps, tap, period, kernel, target, count, first, spacing, step, origin;
  Divisor counts;  // divides by count
};
__device__ __forceinline__ Class class_of(const ConvAxis& a, const ClassCounts& counts, bool transposed,
                                          int residue) {
  if (!transposed)
    return {a.in, a.dilation, a.kernel, 0, 1, a.kernel, a.out, a.out, 0, 1, a.stride, -a.pad, counts.most};
  Class c{a.out, 0, 0, 0, a.period, a.kernel, a.in, 0, residue, a.stride, 1, 0, counts.most};
  if (residue < a.in) c.count = (a.in - residue + a.stride - 1) / a.stride;
  if (c.count < int(counts.most.divisor)) c.counts = counts.fewer;
  const int last = a.kernel < a.period ? a.kernel : a.period;
  while (c.tap < last && (residue + a.pad - c.tap * a.dilation) % a.stride != 0) ++c.tap;
  if (c.tap < last) c.taps = (a.kernel - c.tap + a.period - 1) / a.period;
  c.origin = (residue + a.pad - c.tap * a.dilation) / a.stride;
  c.move = -(a.period * a.dilation / a.stride);
  return c;
}

// The axes' classes (depth, height, width) of one image in the order of its numbers: three threads make them,
// for all; ends without a barrier.
__device__ __forceinline__ void make_classes(Class* to, const ConvClasses& p, int number) {
  if (threadIdx.x >= 3) return;
  if (threadIdx.x < 2) number /= p.axes.w.stride;
  if (threadIdx.x < 1) number /= p.axes.h.stride;
  ConvAxis axis = p.axes.w;
  ClassCounts counts = p.w;
  if (threadIdx.x == 1) axis = p.axes.h, counts = p.h;
  if (threadIdx.x == 0) axis = p.axes.d, counts = p.d;
  to[threadIdx.x] = class_of(axis, counts, p.transposed, number % axis.stride);
}

struct Pixel {
  int image, d, h, w;
};
// Pixel i of all images of a class.
__device__ __forceinline__ Pixel pixel_of(int i, const Class& d, const Class& h, const Class& w) {
  const uint32_t qw = w.counts.quotient(uint32_t(i)), qh = h.counts.quotient(qw),
                 image = d.counts.quotient(qh);
  return {int(image), int(qh) - int(image) * d.count, int(qw) - int(qh) * h.count, i - int(qw) * w.count};
}
// Where it is in an image of targets.
__device__ __forceinline__ int target_of(const Pixel& j, const Class& d, const Class& h, const Class& w) {
  return ((d.first + j.d * d.spacing) * h.target + h.first + j.h * h.spacing) * w.target + w.first +
         j.w * w.spacing;
}

}  // namespace fastdl::cuda
