// Layer, RMS and group norm: h = (x - mean) / sqrt(var + eps), y = h w + b.
//   grad_x = r (g w - mean(g w) - h mean(g w h)),  r = 1 / sqrt(var + eps)   (RMS: without mean and mean(g
//   w))
//
// Rows that fit in their team's registers are read once: the mean, then squares around it. Longer ones are
// read again. The gradients of weights are sums over rows: batch_norm.cu has them.
#include "cuda/norm_statistics.h"

namespace fastdl::cuda {
namespace {

template <class T>
struct Affine {  // of a row
  const T *weight, *bias;
  int64_t groups, channels;
  Divisor inner;

  __device__ __forceinline__ int64_t number(int64_t row, int64_t i) const {
    return row % groups * channels + int64_t(inner.quotient(uint32_t(i)));
  }
};

template <class T, bool kBlock, bool kFits>
__global__ void __launch_bounds__(kBlock ? 1024 : 256, kBlock ? 1 : 2)
    row_norm(T* y, double* mean, double* var, const T* x, Affine<T> affine, int64_t rows, int64_t length,
             Compute<T> eps, int group, bool packed) {
  using C = Compute<T>;
  constexpr int N = kWidest<T>, kPacks = kFits ? kRowPacks<T> : 1;
  RowTeam<kBlock> team(group);
  const RowSlice<T> slice(team, length, packed);
  const int64_t packs = kFits ? kPacks : slice.packs();
  const C count = C(length);
  for (; team.any_row(rows); team.row += team.step) {
    const bool mine = team.row < rows;
    const T* row = x + team.row * length;
    Values<C, N> v[kPacks];
    // Calls f(pack, j) for this thread's packs of the row, from memory or from registers.
    const auto each = [&](bool load, auto f) {
      if (!mine) return;
      if constexpr (kFits) {
        FASTDL_UNROLL
        for (int j = 0; j < kPacks; ++j) {
          if (load) v[j] = slice.load(row, j, C(0));
          f(v[j], j);
        }
      } else {
        for (int64_t j = 0; j < packs; ++j) {
          v[0] = slice.load(row, j, C(0));
          f(v[0], j);
        }
      }
    };
    C m = 0;
    if (mean != nullptr) {
      each(true, [&](const Values<C, N>& a, int64_t) {
        FASTDL_UNROLL
        for (int k = 0; k < N; ++k) m += a.v[k];
      });
      m = team.sum(m) / count;
    }
    C first = 0, second = 0;
    each(mean == nullptr, [&](const Values<C, N>& a, int64_t j) {
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) {
        const C d = slice.element(j, k) < length ? a.v[k] - m : C(0);
        first += d;
        second += d * d;
      }
    });
    const C shift = mean != nullptr ? team.sum(first) / count : C(0);
    const C variance = larger(team.sum(second) / count - shift * shift, C(0));
    if (!mine) continue;
    if (team.index == 0) {
      if (mean != nullptr) mean[team.row] = double(m) + double(shift);
      var[team.row] = variance;
    }
    const C r = 1 / std::sqrt(variance + eps);
    each(false, [&](Values<C, N>& a, int64_t j) {
      Values<C, N> out;
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) {
        C h = ((a.v[k] - m) - shift) * r;
        const int64_t i = slice.element(j, k);
        if (i < length) {
          if (affine.weight != nullptr) h *= C(widen(affine.weight[affine.number(team.row, i)]));
          if (affine.bias != nullptr) h += C(widen(affine.bias[affine.number(team.row, i)]));
        }
        out.v[k] = h;
      }
      slice.store(y + team.row * length, j, out);
    });
  }
}

template <class T, bool kBlock, bool kFits>
__global__ void __launch_bounds__(kBlock ? 1024 : 256, kBlock ? 1 : 2)
    row_norm_grad_x(T* grad_x, const T* grad_y, const T* x, const double* mean, const double* var,
                    Affine<T> affine, int64_t rows, int64_t length, Compute<T> eps, int group, bool packed) {
  using C = Compute<T>;
  constexpr int N = kWidest<T>, kPacks = kFits ? kRowPacks<T> / 2 : 1;
  RowTeam<kBlock> team(group);
  const RowSlice<T> slice(team, length, packed);
  const int64_t packs = kFits ? kPacks : slice.packs();
  for (; team.any_row(rows); team.row += team.step) {
    const bool mine = team.row < rows;
    const int64_t base = team.row * length;
    const Statistics<C> s = mine ? statistics<C>(mean, var, team.row, eps) : Statistics<C>{};
    Values<C, N> g[kPacks], h[kPacks];
    C sum = 0, dot = 0;
    const auto load = [&](int at, int64_t j) {
      g[at] = slice.load(grad_y + base, j, C(0));
      h[at] = slice.load(x + base, j, C(0));
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) {
        const int64_t i = slice.element(j, k);
        if (i < length && affine.weight != nullptr)
          g[at].v[k] *= C(widen(affine.weight[affine.number(team.row, i)]));
        h[at].v[k] = i < length ? s.normalised(h[at].v[k]) : C(0);
      }
    };
    const auto add = [&](int at) {
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) {
        sum += g[at].v[k];
        dot += g[at].v[k] * h[at].v[k];
      }
    };
    const auto finish = [&](int at, int64_t j) {
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) g[at].v[k] = s.r * (g[at].v[k] - sum - h[at].v[k] * dot);
      slice.store(grad_x + base, j, g[at]);
    };
    if (mine) {
      if constexpr (kFits) {
        FASTDL_UNROLL
        for (int j = 0; j < kPacks; ++j) load(j, j), add(j);
      } else {
        for (int64_t j = 0; j < packs; ++j) load(0, j), add(0);
      }
    }
    sum = mean != nullptr ? team.sum(sum) / C(length) : C(0);
    dot = team.sum(dot) / C(length);
    if (!mine) continue;
    if constexpr (kFits) {
      FASTDL_UNROLL
      for (int j = 0; j < kPacks; ++j) finish(j, j);
    } else {
      for (int64_t j = 0; j < packs; ++j) load(0, j), finish(0, j);
    }
  }
}
template <class T>
Affine<T> affine_of(const void* weight, const void* bias, const RowNorm& p) {
  return {static_cast<const T*>(weight), static_cast<const T*>(bias), p.groups, p.length / p.inner,
          Divisor(uint32_t(p.inner))};
}
void check_length(const RowNorm& p) {
  if (p.length >= int64_t(1) << 31)
    throw std::invalid_argument("normalisation on CUDA: rows must be below 2^31");
}

}  // namespace

void row_norm_forward(Dtype dtype, void* y, double* mean, double* var, const void* x, const void* weight,
                      const void* bias, const RowNorm& p, Stream stream) {
  if (p.rows * p.length == 0) return;
  check_length(p);
  by_dtype(dtype, [&]<class T>(T) {
    const RowPlan plan = plan_rows(p.rows, p.length, kRowValues<T>);
    const bool packed = rows_packed<T>(p.length, {y, x});
    const auto run = [&](auto kernel) {
      launch("norm_forward", kernel, dim3(plan.grid), dim3(plan.threads), 0, stream, static_cast<T*>(y), mean,
             var, static_cast<const T*>(x), affine_of<T>(weight, bias, p), p.rows, p.length,
             Compute<T>(p.eps), plan.group, packed);
    };
    if (!plan.fits)
      run(row_norm<T, true, false>);
    else if (plan.block)
      run(row_norm<T, true, true>);
    else
      run(row_norm<T, false, true>);
  });
}

void row_norm_backward(Dtype dtype, void* grad_x, const void* grad_y, const void* x, const void* weight,
                       const double* mean, const double* var, const RowNorm& p, Stream stream) {
  if (p.rows * p.length == 0) return;
  check_length(p);
  by_dtype(dtype, [&]<class T>(T) {
    const RowPlan plan = plan_rows(p.rows, p.length, kRowValues<T> / 2);
    const bool packed = rows_packed<T>(p.length, {grad_x, grad_y, x});
    const auto run = [&](auto kernel) {
      launch("norm_backward", kernel, dim3(plan.grid), dim3(plan.threads), 0, stream, static_cast<T*>(grad_x),
             static_cast<const T*>(grad_y), static_cast<const T*>(x), mean, var,
             affine_of<T>(weight, nullptr, p), p.rows, p.length, Compute<T>(p.eps), plan.group, packed);
    };
    if (!plan.fits)
      run(row_norm_grad_x<T, true, false>);
    else if (plan.block)
      run(row_norm_grad_x<T, true, true>);
    else
      run(row_norm_grad_x<T, false, true>);
  });
}

}  // namespace fastdl::cuda
