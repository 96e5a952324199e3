// Interpolation on CUDA: common/resample.h's weighted sums, by tables that are made on the device.
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

// Axes: depth, height, width. How many bytes their tables take.
int64_t interpolate_bytes(Dtype dtype, const ResamplePlan (&axes)[3]);
// to: (planes, out ..), from: (planes, in ..); backward the other way round. tables: device memory of interpolate_bytes.
void interpolate(Dtype dtype, void* to, const void* from, int64_t planes, const ResamplePlan (&axes)[3],
                 bool backward, void* tables, Stream stream);

}  // namespace fastdl::cuda
