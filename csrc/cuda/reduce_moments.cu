#include "cuda/reduce_kernels.h"

namespace fastdl::cuda {

void moments(Dtype dtype, void* var, void* mean, const Reduce& problem, double correction, void* scratch,
             Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    double n = 1;
    for (int64_t extent : problem.reduced) n *= double(extent);
    const Moments<T> policy{static_cast<T*>(var), static_cast<T*>(mean), C(n),
                            C(n > correction ? n - correction : 0)};
    reduce<T>("moments", policy, problem, false, scratch, stream);
  });
}

void logsumexp(Dtype dtype, void* y, const Reduce& problem, void* scratch, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    reduce<T>("logsumexp", LogSumExp<T>{static_cast<T*>(y)}, problem, false, scratch, stream);
  });
}

}  // namespace fastdl::cuda
