// Interpolation on CUDA: common/resample.h's weighted sums, their tables made on the device.
#pragma once

#include "common/resample.h"
#include "cuda/types.h"

namespace fastdl::cuda {

struct ResamplePlan {
  Resampling mode;
  int64_t in, out;
  double scale;  // outputs per input, or 0 to derive it from the sizes
  bool align_corners, antialias;
};
// An axis in device memory. Output o sums `count[o]` inputs from `start[o]` on (positions beyond the axis
// mean its ends) with weights[o * taps ..]; input i belongs to outputs [first[i], end[i]).
struct ResampleTable {
  int64_t in, out, taps;
  int *start, *count, *first, *end;
  void* weights;  // float, for float64 double
};

// The most inputs that an output sums.
int64_t resample_taps(const ResamplePlan& plan);
void resample_table(Dtype dtype, const ResampleTable& table, const ResamplePlan& plan, Stream stream);

// Tables for depth, height and width. x: (planes, in ..), y: (planes, out ..).
void interpolate(Dtype dtype, void* y, const void* x, int64_t planes, const ResampleTable (&tables)[3],
                 Stream stream);
void interpolate_backward(Dtype dtype, void* grad_x, const void* grad_y, int64_t planes,
                          const ResampleTable (&tables)[3], Stream stream);

}  // namespace fastdl::cuda
