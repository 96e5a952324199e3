// Labels and indices out of range, found by kernels: a report of four words in device memory, read by the
// host when it synchronises anyway, so that checking costs no synchronisation. The first report stays until
// it is cleared.
#pragma once

#include "cuda/portable.h"

namespace fastdl::cuda {

struct Report {
  uint64_t* words;  // operation (0: nothing to report), position, value, extent
  uint64_t operation;

  __device__ __forceinline__ bool out_of_range(int64_t position, int64_t value, int64_t extent) const {
    if (value >= 0 && value < extent) return false;
    if (atomic_cas(words, 0, operation) == 0) {
      words[1] = uint64_t(position);
      words[2] = uint64_t(value);
      words[3] = uint64_t(extent);
    }
    return true;
  }
};

}  // namespace fastdl::cuda
