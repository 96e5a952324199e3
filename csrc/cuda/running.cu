// What a batch leaves behind in a batch norm layer: both running statistics and the count of batches, by one
// launch with a thread for each channel. Sums are float64, as the statistics are. Some kilobytes: the launch
// is what it costs.
#include "cuda/running.h"

#include "cuda/numeric.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 128;

template <class T>
__device__ __forceinline__ void move(T* running, const double* statistic, int64_t c, double momentum,
                                     double factor) {
  const double before = double(widen(running[c]));
  running[c] = narrow<T>(Compute<T>((1 - momentum) * before + momentum * (statistic[c] * factor)));
}

template <class T>
__global__ void __launch_bounds__(kThreads) update_kernel(Running r, int64_t* batches) {
  const int64_t c = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (c == 0 && batches != nullptr) ++*batches;
  if (c >= r.channels) return;
  if (r.mean != nullptr) move(static_cast<T*>(r.mean), r.batch_mean, c, r.momentum, 1.0);
  if (r.var != nullptr) move(static_cast<T*>(r.var), r.batch_var, c, r.momentum, r.unbias);
}

}  // namespace

void update_running(Dtype dtype, const Running& running, int64_t* batches, Stream stream) {
  const auto blocks = unsigned((running.channels + kThreads - 1) / kThreads);
  by_dtype(dtype, [&]<class T>(T) {
    launch("update_running", update_kernel<T>, dim3(blocks > 0 ? blocks : 1), dim3(kThreads), 0, stream,
           running, batches);
  });
}

}  // namespace fastdl::cuda
