// A pass of the direct algorithms in numbers: what costs are counted from. (Planes and lattices, planes.h,
// are lists that take as long to make as a small convolution.)
#pragma once

#include <vector>

#include "cpu/conv/conv.h"

namespace fastdl {

// One axis of a lattice: positions, the taps that meet them, how many pairs of both do not meet padding, and
// how many lattices are alike.
struct AxisSize {
  int64_t count, taps, met, times;
};
struct LatticeSize {
  Extent count;
  int64_t taps;
  double met, times;
  bool padded;  // some pair meets padding along the last axis
};

struct PassSize {
  int64_t in, out;         // channels of a group
  int64_t source, result;  // elements of a channel
  int64_t plane = 1;       // ... of the padded copy
  int64_t stride;          // between neighbours in the copy
  Extent extent, step;     // of the result; of lattices
  int64_t width;           // of planes
  std::vector<AxisSize> axes[kSpatial];

  PassSize(const ConvProblem& p, ConvPass pass);

  // f(lattice) for all lattices that some tap meets; once for those that are alike.
  template <class F>
  void for_lattices(F&& f) const {
    for (const AxisSize& d : axes[0])
      for (const AxisSize& h : axes[1])
        for (const AxisSize& w : axes[2])
          f(LatticeSize{{d.count, h.count, w.count},
                        d.taps * h.taps * w.taps,
                        double(d.met) * double(h.met) * double(w.met),
                        double(d.times * h.times * w.times),
                        w.met < w.count * w.taps});
  }
};

}  // namespace fastdl
