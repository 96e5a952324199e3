// Normalisation: h = (x - mean) / sqrt(var + eps), y = h w + b.
//   grad_x = r (g w - mean(g w) - h mean(g w h)),  r = 1 / sqrt(var + eps)   (RMS: without mean and mean(g
//   w)) grad_w = sum g h,  grad_b = sum g
//
// Rows (layer, RMS, group norm) that fit in their team's registers are read once: the mean, then squares
// around it. Channels (batch norm, and the gradients of weights of all) are summed by planes, or by columns
// where inner = 1, in slabs that a second launch adds in order. The mean is kept as two numbers of the
// computing type, so that x - mean is right where |mean| is large; variances are of x minus a first element
// or the mean, never of x itself.
#include "cuda/norm.h"

#include <algorithm>

#include "cuda/rows.h"

namespace fastdl::cuda {
namespace {

template <class C>
struct Statistics {
  C high, low, r;  // mean = high + low, r = 1 / sqrt(var + eps)

  __device__ __forceinline__ C normalised(C x) const { return ((x - high) - low) * r; }
};
template <class C>
__device__ __forceinline__ Statistics<C> statistics(const double* mean, const double* var, int64_t i, C eps) {
  Statistics<C> s;
  const double m = mean != nullptr ? mean[i] : 0.0;
  s.high = C(m);
  s.low = C(m - double(s.high));
  s.r = 1 / std::sqrt(C(var[i]) + eps);
  return s;
}

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

// ---- channels

struct Grid {
  int64_t batch, channels, inner, per_batch;
  Divisor per_group, by_inner, by_channels;
};

// The two sums of a channel: of x - x0 and its square (kMoments; x0 the channel's first element), or of g and
// g h.
template <class T, bool kMoments>
struct Terms {
  using C = Compute<T>;
  const T *g, *x;
  const double *mean, *var;
  C eps;

  struct Channel {
    C x0;
    Statistics<C> s;
  };
  __device__ __forceinline__ Channel channel(const Grid& grid, int64_t n, int64_t c) const {
    Channel r{};
    if constexpr (kMoments)
      r.x0 = C(widen(x[c * grid.inner]));
    else
      r.s = statistics<C>(mean, var, n * grid.per_batch + int64_t(grid.per_group.quotient(uint32_t(c))), eps);
    return r;
  }
  __device__ __forceinline__ void add(C (&sums)[2], const Channel& channel, C a, C b) const {
    if constexpr (kMoments) {
      const C d = a - channel.x0;
      sums[0] += d;
      sums[1] += d * d;
    } else {
      sums[0] += b;
      sums[1] += b * channel.s.normalised(a);
    }
  }
};

// A team for each plane (n, c); partials (batch, 2, channels).
template <class T, bool kMoments, bool kBlock>
__global__ void __launch_bounds__(256)
    plane_sums(Compute<T>* partials, Terms<T, kMoments> terms, Grid grid, int group, bool packed) {
  using C = Compute<T>;
  constexpr int N = kWidest<T>;
  RowTeam<kBlock> team(group);
  const int64_t planes = grid.batch * grid.channels;
  const RowSlice<T> slice(team, grid.inner, packed);
  const int64_t packs = slice.packs();
  for (; team.any_row(planes); team.row += team.step) {
    C sums[2] = {0, 0};
    const bool mine = team.row < planes;
    const int64_t n = mine ? team.row / grid.channels : 0, c = team.row - n * grid.channels;
    if (mine) {
      const auto channel = terms.channel(grid, n, c);
      for (int64_t j = 0; j < packs; ++j) {
        const auto a = slice.load(terms.x + team.row * grid.inner, j, C(0));
        const auto b = kMoments ? a : slice.load(terms.g + team.row * grid.inner, j, C(0));
        FASTDL_UNROLL
        for (int k = 0; k < N; ++k)
          if (slice.element(j, k) < grid.inner) terms.add(sums, channel, a.v[k], b.v[k]);
      }
    }
    sums[0] = team.sum(sums[0]);
    sums[1] = team.sum(sums[1]);
    if (mine && team.index == 0) {
      partials[2 * n * grid.channels + c] = sums[0];
      partials[(2 * n + 1) * grid.channels + c] = sums[1];
    }
  }
}

// inner = 1: neighbouring threads have neighbouring channels; partials (slabs, 2, channels).
template <class T, bool kMoments>
__global__ void __launch_bounds__(kColumns* kSplit)
    column_sums(Compute<T>* partials, Terms<T, kMoments> terms, Grid grid, int64_t slab) {
  using C = Compute<T>;
  const int64_t c = int64_t(blockIdx.x) * kColumns + threadIdx.x;
  const bool mine = c < grid.channels;
  C sums[2] = {0, 0};
  if (mine) {
    const int64_t start = int64_t(blockIdx.y) * slab, end = std::min(grid.batch, start + slab);
    auto channel = terms.channel(grid, 0, c);
    for (int64_t n = start + threadIdx.y; n < end; n += kSplit) {
      if (!kMoments && grid.per_batch != 0) channel = terms.channel(grid, n, c);
      const C a = C(widen(terms.x[n * grid.channels + c]));
      terms.add(sums, channel, a, kMoments ? a : C(widen(terms.g[n * grid.channels + c])));
    }
  }
  sums[0] = split_reduce(sums[0], Plus{});
  sums[1] = split_reduce(sums[1], Plus{});
  if (mine && threadIdx.y == 0) {
    partials[2 * int64_t(blockIdx.y) * grid.channels + c] = sums[0];
    partials[(2 * int64_t(blockIdx.y) + 1) * grid.channels + c] = sums[1];
  }
}

// A warp adds a channel's slabs.
template <class C>
__device__ __forceinline__ void add_slabs(double (&sums)[2], const C* partials, int64_t slabs,
                                          int64_t channels, int64_t c) {
  sums[0] = sums[1] = 0;
  for (int64_t s = lane_id(); s < slabs; s += 32) {
    sums[0] += double(partials[2 * s * channels + c]);
    sums[1] += double(partials[(2 * s + 1) * channels + c]);
  }
  sums[0] = warp_reduce(sums[0], Plus{});
  sums[1] = warp_reduce(sums[1], Plus{});
}
template <class T>
__global__ void __launch_bounds__(256)
    finish_gradients(T* grad_weight, T* grad_bias, Compute<T>* sums, const Compute<T>* partials,
                     int64_t slabs, int64_t channels) {
  for (int64_t c = int64_t(blockIdx.x) * 8 + threadIdx.x / 32; c < channels; c += int64_t(gridDim.x) * 8) {
    double both[2];
    add_slabs(both, partials, slabs, channels, c);
    if (lane_id() != 0) continue;
    if (grad_bias != nullptr) grad_bias[c] = narrow<T>(Compute<T>(both[0]));
    if (grad_weight != nullptr) grad_weight[c] = narrow<T>(Compute<T>(both[1]));
    sums[c] = Compute<T>(both[0]);
    sums[channels + c] = Compute<T>(both[1]);
  }
}
template <class T>
__global__ void __launch_bounds__(256) finish_moments(double* mean, double* var, const Compute<T>* partials,
                                                      const T* x, int64_t slabs, Grid grid) {
  const double count = double(grid.batch * grid.inner);
  for (int64_t c = int64_t(blockIdx.x) * 8 + threadIdx.x / 32; c < grid.channels;
       c += int64_t(gridDim.x) * 8) {
    double both[2];
    add_slabs(both, partials, slabs, grid.channels, c);
    if (lane_id() != 0) continue;
    const double shift = both[0] / count;
    mean[c] = double(widen(x[c * grid.inner])) + shift;
    var[c] = larger(both[1] / count - shift * shift, 0.0);
  }
}

// y or grad_x of batch norm: one element after the other, in packs where these lie in one channel.
template <class T, bool kGradient>
__global__ void __launch_bounds__(256)
    batch_apply(T* out, const T* grad_y, const T* x, const double* mean, const double* var, const T* weight,
                const T* bias, const Compute<T>* sums, Grid grid, Compute<T> eps, int64_t size, bool packed) {
  using C = Compute<T>;
  constexpr int N = kWidest<T>;
  const C count = C(grid.batch * grid.inner);
  const auto element = [&](C g, C a, uint32_t c, const Statistics<C>& s) {
    const C w = weight != nullptr ? C(widen(weight[c])) : C(1);
    if constexpr (kGradient) {
      g *= w * s.r;
      if (sums != nullptr)
        g -= w * s.r * (sums[c] / count + s.normalised(a) * (sums[grid.channels + c] / count));
      return g;
    } else {
      return s.normalised(a) * w + (bias != nullptr ? C(widen(bias[c])) : C(0));
    }
  };
  const int64_t width = packed ? N : 1, items = size / width, step = int64_t(gridDim.x) * 256;
  for (int64_t item = int64_t(blockIdx.x) * 256 + threadIdx.x; item < items; item += step) {
    const uint32_t plane = grid.by_inner.quotient(uint32_t(item));
    const uint32_t c = plane - grid.by_channels.quotient(plane) * grid.by_channels.divisor;
    const auto s = statistics<C>(mean, var, c, eps);
    if (packed) {
      const auto a = *reinterpret_cast<const Pack<T, N>*>(x + item * N);
      const auto g = kGradient ? *reinterpret_cast<const Pack<T, N>*>(grad_y + item * N) : a;
      Pack<T, N> r;
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) r.v[k] = narrow<T>(element(C(widen(g.v[k])), C(widen(a.v[k])), c, s));
      *reinterpret_cast<Pack<T, N>*>(out + item * N) = r;
    } else {
      const C a = C(widen(x[item])), g = kGradient ? C(widen(grad_y[item])) : a;
      out[item] = narrow<T>(element(g, a, c, s));
    }
  }
}

// ---- local response

template <class T>
__device__ __forceinline__ Compute<T> local_d(const T* x, const LocalResponse& p, int64_t i) {
  using C = Compute<T>;
  const int64_t c = i / p.inner % p.channels;
  const int64_t first = std::max<int64_t>(0, c - p.size / 2),
                last = std::min(p.channels - 1, c + (p.size - 1) / 2);
  C sum = 0;
  for (int64_t q = first; q <= last; ++q) {
    const C v = C(widen(x[i + (q - c) * p.inner]));
    sum += v * v;
  }
  return C(p.k) + C(p.alpha / double(p.size)) * sum;
}
// d != null: only d
template <class T>
__global__ void __launch_bounds__(256)
    local_response(T* y, Compute<T>* d, const T* x, LocalResponse p, int64_t size) {
  using C = Compute<T>;
  for (int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x; i < size; i += int64_t(gridDim.x) * 256) {
    const C value = local_d(x, p, i);
    if (d != nullptr)
      d[i] = value;
    else
      y[i] = narrow<T>(C(widen(x[i])) * std::pow(value, C(-p.beta)));
  }
}
template <class T>
__global__ void __launch_bounds__(256)
    local_response_grad(T* grad_x, const T* grad_y, const T* x, const Compute<T>* d, LocalResponse p,
                        int64_t size) {
  using C = Compute<T>;
  for (int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x; i < size; i += int64_t(gridDim.x) * 256) {
    const int64_t c = i / p.inner % p.channels;
    const int64_t first = std::max<int64_t>(0, c - (p.size - 1) / 2),
                  last = std::min(p.channels - 1, c + p.size / 2);
    C sum = 0;
    for (int64_t q = first; q <= last; ++q) {
      const int64_t at = i + (q - c) * p.inner;
      sum += C(widen(grad_y[at])) * C(widen(x[at])) * std::pow(d[at], C(-p.beta - 1));
    }
    grad_x[i] = narrow<T>(C(widen(grad_y[i])) * std::pow(d[i], C(-p.beta)) -
                          C(2 * p.alpha * p.beta / double(p.size)) * C(widen(x[i])) * sum);
  }
}

// ---- on the host

Grid grid_of(const ChannelNorm& p, int64_t width) {
  if (p.batch * p.channels * p.inner >= int64_t(1) << 31)
    throw std::invalid_argument("normalisation on CUDA is limited to 2^31 elements in one call");
  return {p.batch,
          p.channels,
          p.inner,
          p.per_batch,
          Divisor(uint32_t(p.per_group)),
          Divisor(uint32_t(std::max<int64_t>(1, p.inner / width))),
          Divisor(uint32_t(std::max<int64_t>(1, p.channels)))};
}
int64_t slabs_of(const ChannelNorm& p) {
  if (p.inner > 1) return p.batch;
  const int64_t groups = (p.channels + kColumns - 1) / kColumns;
  return std::max<int64_t>(1, std::min({4 * int64_t(multiprocessors()) / std::max<int64_t>(1, groups),
                                        (p.batch + 63) / 64, int64_t(65535)}));
}

// Partial sums of all channels; returns how many slabs there are.
template <class T, bool kMoments>
int64_t sum_channels(const char* op, const Terms<T, kMoments>& terms, const ChannelNorm& p,
                     Compute<T>* partials, Stream stream) {
  const Grid grid = grid_of(p, 1);
  const int64_t slabs = slabs_of(p);
  if (p.inner > 1) {
    const int64_t planes = p.batch * p.channels;
    const bool packed = rows_packed<T>(p.inner, {terms.x, terms.g});
    const bool block = p.inner > 1024;
    int group = 1;
    while (group < 32 && group * kWidest<T> < p.inner) group *= 2;
    launch(op, block ? plane_sums<T, kMoments, true> : plane_sums<T, kMoments, false>,
           dim3(block ? grid_for(planes, 1) : grid_for(planes, 256 / group)), dim3(256), 0, stream, partials,
           terms, grid, group, packed);
  } else {
    const int64_t slab = (p.batch + slabs - 1) / slabs;
    launch(op, column_sums<T, kMoments>,
           dim3(unsigned((p.channels + kColumns - 1) / kColumns), unsigned(slabs)), dim3(kColumns, kSplit), 0,
           stream, partials, terms, grid, slab);
  }
  return slabs;
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

int64_t channel_scratch(Dtype dtype, const ChannelNorm& p) {
  return (slabs_of(p) + 1) * 2 * p.channels * (dtype == Dtype::float64 ? 8 : 4);
}

void channel_gradients(Dtype dtype, void* grad_weight, void* grad_bias, const void* grad_y, const void* x,
                       const double* mean, const double* var, const ChannelNorm& p, void* scratch,
                       Stream stream) {
  if (p.channels == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    C *sums = static_cast<C*>(scratch), *partials = sums + 2 * p.channels;
    int64_t slabs = 0;
    if (p.batch * p.inner > 0) {
      const Terms<T, false> terms{static_cast<const T*>(grad_y), static_cast<const T*>(x), mean, var,
                                  C(p.eps)};
      slabs = sum_channels("norm_gradients", terms, p, partials, stream);
    }
    launch("norm_gradients", finish_gradients<T>, dim3(grid_for(p.channels, 8)), dim3(256), 0, stream,
           static_cast<T*>(grad_weight), static_cast<T*>(grad_bias), sums, static_cast<const C*>(partials),
           slabs, p.channels);
  });
}

void batch_moments(Dtype dtype, double* mean, double* var, const void* x, const ChannelNorm& p, void* scratch,
                   Stream stream) {
  if (p.batch * p.channels * p.inner == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    C* partials = static_cast<C*>(scratch) + 2 * p.channels;
    const Terms<T, true> terms{nullptr, static_cast<const T*>(x), nullptr, nullptr, C(0)};
    const int64_t slabs = sum_channels("batch_norm_moments", terms, p, partials, stream);
    launch("batch_norm_moments", finish_moments<T>, dim3(grid_for(p.channels, 8)), dim3(256), 0, stream, mean,
           var, static_cast<const C*>(partials), static_cast<const T*>(x), slabs, grid_of(p, 1));
  });
}

namespace {

template <bool kGradient>
void apply_batch(const char* op, Dtype dtype, void* out, const void* grad_y, const void* x,
                 const double* mean, const double* var, const void* weight, const void* bias,
                 const void* sums, const ChannelNorm& p, Stream stream) {
  const int64_t size = p.batch * p.channels * p.inner;
  if (size == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    const bool packed = rows_packed<T>(p.inner, {out, grad_y, x});
    const int64_t width = packed ? kWidest<T> : 1;
    launch(op, batch_apply<T, kGradient>, dim3(grid_for(size / width, 256)), dim3(256), 0, stream,
           static_cast<T*>(out), static_cast<const T*>(grad_y), static_cast<const T*>(x), mean, var,
           static_cast<const T*>(weight), static_cast<const T*>(bias), static_cast<const Compute<T>*>(sums),
           grid_of(p, width), Compute<T>(p.eps), size, packed);
  });
}

}  // namespace

void batch_norm_apply(Dtype dtype, void* y, const void* x, const double* mean, const double* var,
                      const void* weight, const void* bias, const ChannelNorm& p, Stream stream) {
  apply_batch<false>("batch_norm", dtype, y, nullptr, x, mean, var, weight, bias, nullptr, p, stream);
}

void batch_norm_grad_x(Dtype dtype, void* grad_x, const void* grad_y, const void* x, const double* mean,
                       const double* var, const void* weight, const void* sums, const ChannelNorm& p,
                       Stream stream) {
  apply_batch<true>("batch_norm_backward", dtype, grad_x, grad_y, x, mean, var, weight, nullptr, sums, p,
                    stream);
}

void local_response_forward(Dtype dtype, void* y, const void* x, const LocalResponse& p, Stream stream) {
  const int64_t size = p.batch * p.channels * p.inner;
  if (size == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    launch("local_response_norm", local_response<T>, dim3(grid_for(size, 256)), dim3(256), 0, stream,
           static_cast<T*>(y), static_cast<Compute<T>*>(nullptr), static_cast<const T*>(x), p, size);
  });
}

void local_response_backward(Dtype dtype, void* grad_x, const void* grad_y, const void* x, void* d,
                             const LocalResponse& p, Stream stream) {
  const int64_t size = p.batch * p.channels * p.inner;
  if (size == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    const dim3 grid(grid_for(size, 256)), block(256);
    launch("local_response_norm_backward", local_response<T>, grid, block, 0, stream,
           static_cast<T*>(nullptr), static_cast<C*>(d), static_cast<const T*>(x), p, size);
    launch("local_response_norm_backward", local_response_grad<T>, grid, block, 0, stream,
           static_cast<T*>(grad_x), static_cast<const T*>(grad_y), static_cast<const T*>(x),
           static_cast<const C*>(d), p, size);
  });
}

}  // namespace fastdl::cuda
