// A thread halves its value's row until one place is left: log2(length) reads that depend on each other, the
// first of them the same for all, so from the caches.
#include "cuda/search.h"

#include "cuda/numeric.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;

template <class T>
__global__ void __launch_bounds__(kThreads)
    search(int64_t* places, const T* rows, const T* values, int64_t length, int64_t per_row, int64_t count,
           bool right) {
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += int64_t(gridDim.x) * kThreads) {
    const T* row = rows + i / per_row * length;
    const T value = values[i];
    int64_t low = 0, high = length;
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      // Said so that a NaN among the values goes to the end.
      const bool beyond = right ? row[middle] > value : row[middle] >= value;
      if (beyond)
        high = middle;
      else
        low = middle + 1;
    }
    places[i] = low;
  }
}

}  // namespace

void searchsorted(Dtype dtype, bool integers, int64_t* places, const void* rows, const void* values,
                  int64_t length, int64_t per_row, int64_t count, bool right, Stream stream) {
  if (count == 0) return;
  const auto run = [&]<class T>(T) {
    launch("searchsorted", search<T>, dim3(grid_for(count, kThreads)), dim3(kThreads), 0, stream, places,
           static_cast<const T*>(rows), static_cast<const T*>(values), length, per_row, count, right);
  };
  if (integers)
    run(int64_t{});
  else if (dtype == Dtype::float64)
    run(double{});
  else
    run(float{});
}

}  // namespace fastdl::cuda
