// Losses element by element: a value and its slope for the first array (see the reference for the formulas).
// The sum is taken where the values are computed: inputs are read once, nothing of their size is written.
// Blocks leave one double each, a second launch adds these in order; a block that is alone writes the loss itself.
// Backward is a map.
#include "cuda/pointwise_loss.h"

#include "cuda/map.h"
#include "cuda/rows.h"

namespace fastdl::cuda {
namespace {

constexpr int kSumBlocks = 512;

template <class C>
__device__ __forceinline__ C clip(C x, C bound) {
  return smaller(larger(x, -bound), bound);
}

template <class T>
struct ValueOf {
  static constexpr int kPack = kShort<T>;
  static constexpr int kOperations = 0 FASTDL_CUDA_LOSS(FASTDL_CUDA_COUNT);
  static constexpr int kUnrolled = sizeof(T) == 2 ? 2 : 1;
  using C = Compute<T>;
  PointwiseLoss op;
  bool first, second;
  C number;

  __device__ __forceinline__ C operator()(C x, C t, C u, C v) const {
    switch (op) {
      case PointwiseLoss::mse_loss:
        return (x - t) * (x - t);
      case PointwiseLoss::l1_loss:
        return std::fabs(x - t);
      case PointwiseLoss::smooth_l1_loss: {
        const C d = std::fabs(x - t);
        return d < number ? C(0.5) * d * d / number : d - C(0.5) * number;
      }
      case PointwiseLoss::huber_loss: {
        const C d = std::fabs(x - t);
        return d <= number ? C(0.5) * d * d : number * (d - C(0.5) * number);
      }
      case PointwiseLoss::binary_cross_entropy:
        return u * ((t - 1) * larger(std::log1p(-x), C(-100)) - t * larger(std::log(x), C(-100)));
      case PointwiseLoss::binary_cross_entropy_with_logits:
        return u * ((1 - t) * x + (1 + (v - 1) * t) * softplus(-x));
      case PointwiseLoss::kl_div:
        return first ? std::exp(t) * (t - x) : (t == 0 ? C(0) : t * std::log(t)) - t * x;
      case PointwiseLoss::poisson_nll_loss: {
        C value = first ? std::exp(x) - t * x : x - t * std::log(x + number);
        if (second && t > 1) value += t * std::log(t) - t + C(0.5) * std::log(C(6.283185307179586) * t);
        return value;
      }
      case PointwiseLoss::gaussian_nll_loss:
      case PointwiseLoss::gaussian_nll_loss_variance: {
        const C w = larger(u, number);
        return C(0.5) * (std::log(w) + (x - t) * (x - t) / w) + (first ? C(0.9189385332046727) : C(0));
      }
      case PointwiseLoss::soft_margin_loss:
        return softplus(-t * x);
      case PointwiseLoss::hinge_embedding_loss:
        return (t != 1 ? larger(number - x, C(0)) : C(0)) + (t != -1 ? x : C(0));
      case PointwiseLoss::margin_ranking_loss:
        return larger(number - u * (x - t), C(0));  // t: x2, u: target
    }
    return x;
  }
};

template <class T>
struct SlopeOf {
  static constexpr int kPack = kShort<T>;
  static constexpr int kOperations = 0 FASTDL_CUDA_LOSS(FASTDL_CUDA_COUNT);
  static constexpr int kUnrolled = sizeof(T) == 2 ? 2 : 1;
  using C = Compute<T>;
  PointwiseLoss op;
  bool first;
  C number, scale;

  __device__ __forceinline__ C operator()(C g, C x, C t, C u, C v) const {
    return g * scale * slope(x, t, u, v);
  }
  __device__ __forceinline__ C slope(C x, C t, C u, C v) const {
    switch (op) {
      case PointwiseLoss::mse_loss:
        return 2 * (x - t);
      case PointwiseLoss::l1_loss:
        return C(x > t) - C(x < t);
      case PointwiseLoss::smooth_l1_loss:
        return clip((x - t) / number, C(1));
      case PointwiseLoss::huber_loss:
        return clip(x - t, number);
      case PointwiseLoss::binary_cross_entropy:
        return u * (x - t) / larger((1 - x) * x, C(1e-12));
      case PointwiseLoss::binary_cross_entropy_with_logits:
        return u * ((v * t + 1 - t) * sigmoid(x) - v * t);
      case PointwiseLoss::kl_div:
        return first ? -std::exp(t) : -t;
      case PointwiseLoss::poisson_nll_loss:
        return first ? std::exp(x) - t : 1 - t / (x + number);
      case PointwiseLoss::gaussian_nll_loss:
        return (x - t) / larger(u, number);
      case PointwiseLoss::gaussian_nll_loss_variance: {
        const C w = larger(u, number);
        return C(0.5) * (1 - (x - t) * (x - t) / w) / w;
      }
      case PointwiseLoss::soft_margin_loss:
        return -t * sigmoid(-t * x);
      case PointwiseLoss::hinge_embedding_loss:
        return C(t != -1) - C(t != 1 && number - x >= 0);
      case PointwiseLoss::margin_ranking_loss:
        return number - u * (x - t) >= 0 ? -u : C(0);
    }
    return x;
  }
};

// Where a block's sum goes.
template <class T>
struct Total {
  double* partials;
  T* loss;
  double scale;

  __device__ __forceinline__ void put(double sum) const {
    sum = block_reduce(sum, 0.0, Plus{});
    if (threadIdx.x != 0) return;
    if (gridDim.x == 1)
      *loss = narrow<T>(Compute<T>(sum * scale));
    else
      partials[blockIdx.x] = sum;
  }
};

template <int N, class C, class F, class... V>
__device__ __forceinline__ C sum_pack(int count, const F& f, const V&... x) {
  C sum = 0;
  with_operation(f, [&](const auto& fixed) {
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k)
      if (k < count) sum += fixed(x[k]...);
  });
  return sum;
}

template <class T>
__global__ void __launch_bounds__(kMapThreads)
    loss_sums(Total<T> total, Geometry g, ValueOf<T> f, Operand<const T> x, Operand<const T> t,
              Operand<const T> u, Operand<const T> v) {
  constexpr int N = ValueOf<T>::kPack;
  double sum = 0;
  for (uint32_t pack = blockIdx.x * kMapThreads + threadIdx.x; pack < g.packs;
       pack += gridDim.x * kMapThreads) {
    const Position p = locate<N>(g, pack);
    sum += double(sum_pack<N, Compute<T>>(p.count, f, fetch<N, T>(g, p, x), fetch<N, T>(g, p, t),
                                          fetch<N, T>(g, p, u), fetch<N, T>(g, p, v)));
  }
  total.put(sum);
}
// The same sums where all arrays are dense or broadcast: a thread's next packs are loaded together.
template <class T>
__global__ void __launch_bounds__(kMapThreads)
    loss_sums_dense(Total<T> total, Dense g, ValueOf<T> f, Operand<const T> x, Operand<const T> t,
                    Operand<const T> u, Operand<const T> v) {
  constexpr int N = ValueOf<T>::kPack, U = 2;
  double sum = 0;
  for (uint32_t first = blockIdx.x * (U * kMapThreads) + threadIdx.x; first < g.packs;
       first += gridDim.x * (U * kMapThreads)) {
    Fetched<T, N> packs[U][4];
    FASTDL_UNROLL
    for (int j = 0; j < U; ++j) {
      const uint32_t pack = first + j * kMapThreads;
      packs[j][0] = fetch<N>(g, x, pack);
      packs[j][1] = fetch<N>(g, t, pack);
      packs[j][2] = fetch<N>(g, u, pack);
      packs[j][3] = fetch<N>(g, v, pack);
    }
    Compute<T> sums[U] = {};
    with_operation(f, [&](const auto& fixed) {
      FASTDL_UNROLL
      for (int j = 0; j < U; ++j) {
        const int count = g.elements<N>(first + j * kMapThreads);
        FASTDL_UNROLL
        for (int k = 0; k < N; ++k)
          if (k < count) sums[j] += fixed(packs[j][0][k], packs[j][1][k], packs[j][2][k], packs[j][3][k]);
      }
    });
    FASTDL_UNROLL
    for (int j = 0; j < U; ++j) sum += double(sums[j]);
  }
  total.put(sum);
}
template <class T>
__global__ void __launch_bounds__(kSumBlocks)
    loss_total(T* loss, const double* partials, int blocks, double scale) {
  const double sum = block_reduce(int(threadIdx.x) < blocks ? partials[threadIdx.x] : 0.0, 0.0, Plus{});
  if (threadIdx.x == 0) *loss = narrow<T>(Compute<T>(sum * scale));
}

}  // namespace

int64_t pointwise_loss_scratch() {
  return kSumBlocks;
}

void pointwise_loss_values(Dtype dtype, const Strided& losses, const LossProblem& p, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    const ValueOf<T> f{p.op, p.first, p.second, Compute<T>(p.number)};
    map<T, T, T, T, T>("pointwise_loss", p.shape, f, losses, stream, p.x, p.target, p.third, p.fourth);
  });
}

void pointwise_loss_sum(Dtype dtype, void* loss, double* scratch, const LossProblem& p, double scale,
                        Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    constexpr int N = ValueOf<T>::kPack;
    const ValueOf<T> f{p.op, p.first, p.second, Compute<T>(p.number)};
    const Total<T> total{scratch, static_cast<T*>(loss), scale};
    int64_t size = 1;
    for (int64_t extent : p.shape) size *= extent;
    unsigned blocks = 0;
    if (size > 0) {
      const Merged m = merge("pointwise_loss", p.shape, {&p.x, &p.target, &p.third, &p.fourth});
      const Geometry g = geometry_of<N>("pointwise_loss", size, m);
      const Operand<const T> x = operand<N, const T>(p.x, m, 0), t = operand<N, const T>(p.target, m, 1),
                             u = operand<N, const T>(p.third, m, 2), v = operand<N, const T>(p.fourth, m, 3);
      blocks = grid_for(g.packs, kMapThreads);
      if (blocks > kSumBlocks) blocks = kSumBlocks;
      const auto run = [&](auto kernel, const auto& geometry) {
        launch("pointwise_loss", kernel, dim3(blocks), dim3(kMapThreads), 0, stream, total, geometry, f, x, t,
               u, v);
      };
      if (all_dense(m, x, t, u, v))
        run(loss_sums_dense<T>, dense_of<N>(g));
      else
        run(loss_sums<T>, g);
      if (blocks == 1) return;
    }
    launch("pointwise_loss", loss_total<T>, dim3(1), dim3(kSumBlocks), 0, stream, static_cast<T*>(loss),
           static_cast<const double*>(scratch), int(blocks), scale);
  });
}

void pointwise_loss_backward(Dtype dtype, const Strided& grad_x, const Strided& grad_loss,
                             const LossProblem& p, double scale, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    const SlopeOf<T> f{p.op, p.first, C(p.number), C(scale)};
    map<T, T, T, T, T, T>("pointwise_loss_backward", p.shape, f, grad_x, stream, grad_loss, p.x, p.target,
                          p.third, p.fourth);
  });
}

}  // namespace fastdl::cuda
