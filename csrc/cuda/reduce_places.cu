#include "cuda/reduce_kernels.h"

namespace fastdl::cuda {

void extreme(bool largest, Dtype dtype, void* values, int64_t* indices, const Reduce& problem, void* scratch,
             Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    const Extreme<T> policy{static_cast<T*>(values), indices, largest ? C(1) : C(-1)};
    reduce<T>("extreme", policy, problem, true, scratch, stream);
  });
}

void count_true(int64_t* counts, const Reduce& problem, void* scratch, Stream stream) {
  reduce<uint8_t>("count_true", CountOf{counts}, problem, false, scratch, stream);
}

}  // namespace fastdl::cuda
