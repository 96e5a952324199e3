#include "cuda/reduce_kernels.h"

namespace fastdl::cuda {

int64_t reduce_scratch(const Reduce& problem) {
  int64_t bytes = 0;
  for (bool ordered : {false, true}) {
    const Plan plan = plan_of(problem, ordered);
    if (plan.slices > 1) bytes = std::max(bytes, plan.outputs * plan.slices * int64_t(sizeof(Place<double>)));
  }
  return bytes;
}

namespace {

template <class C>
C fold_of_nothing(Fold op) {
  constexpr C kInfinity = std::numeric_limits<C>::infinity();
  switch (op) {
    case Fold::prod:
      return C(1);
    case Fold::amax:
      return -kInfinity;
    case Fold::amin:
    case Fold::smallest:
      return kInfinity;
    default:
      return C(0);
  }
}

}  // namespace

void fold(Fold op, Dtype dtype, void* y, bool wide, const Reduce& problem, double scale, double p,
          void* scratch, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    const Folded<T> to{wide ? nullptr : static_cast<T*>(y), wide ? static_cast<C*>(y) : nullptr, C(scale),
                       aligned(y, 16)};
    if (op == Fold::norm && p != 1 && p != 2)
      reduce<T>("fold", PowersOf<T>{to, C(p)}, problem, false, scratch, stream);
    else
      reduce<T>("fold", FoldOf<T>{op, to, p == 2, fold_of_nothing<C>(op)}, problem, false, scratch, stream);
  });
}

}  // namespace fastdl::cuda
