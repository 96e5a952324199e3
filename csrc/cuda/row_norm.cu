// Layer, RMS and group norm: h = (x - mean) / sqrt(var + eps), y = h w + b.
//   grad_x = r (g w - mean(g w) - h mean(g w h)),  r = 1 / sqrt(var + eps)   (RMS: without mean and mean(g w))
//   grad_w = sum of g h over the rows,  grad_b = sum of g
//
// Rows that fit in their team's registers are read once: the mean, then squares around it. Teams are lanes of
// a warp for up to 1024 elements, which saves the block's barriers, else a block. Longer rows are read again.
// Where weights are a row's own (layer and RMS norm) a thread always has the same elements of its rows, so
// the pass that writes grad_x also sums their gradients, in registers over its rows, then over the block's
// teams in order; a second launch adds the blocks' sums (batch_norm.cu, which also has the gradients of all
// other weights). x and grad_y are read once for everything.
#include "cuda/norm_statistics.h"

namespace fastdl::cuda {
namespace {

// Values of a row that a lane has where rows of up to 32 times as many are a warp's.
template <class T>
constexpr int kWideValues = sizeof(Compute<T>) == 8 ? 8 : 32;

template <class T>
struct Affine {  // of a row
  const T *weight, *bias;
  int64_t groups, channels;
  Divisor inner;
  bool plain;  // element i of every row has number i

  __device__ __forceinline__ int64_t first(int64_t row) const { return plain ? 0 : row % groups * channels; }
  // The parameters of pack j of a row whose first has the number `first`.
  __device__ __forceinline__ Values<Compute<T>, kWidest<T>> load(const RowSlice<T>& slice, const T* from,
                                                                 int64_t first, int64_t j) const {
    if (plain) return slice.load(from, j, Compute<T>(0));
    Values<Compute<T>, kWidest<T>> r;
    FASTDL_UNROLL
    for (int k = 0; k < kWidest<T>; ++k)
      r.v[k] = slice.inside(j, k)
                   ? Compute<T>(widen(from[first + int64_t(inner.quotient(uint32_t(slice.element(j, k))))]))
                   : Compute<T>(0);
    return r;
  }
};

// kPacks: of a row in a thread's registers; 0: the row is read again for each pass.
template <class T, bool kBlock, int kPacks>
__global__ void __launch_bounds__(kBlock ? 1024 : 256, kBlock                  ? 1
                                                       : kPacks > kRowPacks<T> ? 2
                                                                               : 3)
    row_norm(T* y, double* mean, double* var, const T* x, Affine<T> affine, int64_t rows, int64_t length,
             Compute<T> eps, int group, bool packed) {
  using C = Compute<T>;
  constexpr int N = kWidest<T>;
  RowTeam<kBlock> team(group);
  const RowSlice<T> slice(team, length, packed);
  const C count = C(length);
  for (; team.any_row(rows); team.row += team.step) {
    const bool mine = team.row < rows;
    const T* row = x + team.row * length;
    Values<C, N> held[1][kPacks > 0 ? kPacks : 1];
    // Calls f(j, pack) for this thread's packs of the row, from memory or from registers.
    const auto each = [&](bool load, auto f) {
      if (!mine) return;
      if constexpr (kPacks > 0) {
        if (load) slice.load(held, {row}, C(0));
        FASTDL_UNROLL
        for (int j = 0; j < kPacks; ++j) f(j, held[0][j]);
      } else {
        slice.each(C(0), f, row);
      }
    };
    C m = 0;
    if (mean != nullptr) {
      each(true, [&](int64_t, const Values<C, N>& a) {
        FASTDL_UNROLL
        for (int k = 0; k < N; ++k) m += a.v[k];
      });
      m = team.sum(m) / count;
    }
    C first = 0, second = 0;
    each(mean == nullptr, [&](int64_t j, const Values<C, N>& a) {
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) {
        const C d = slice.inside(j, k) ? a.v[k] - m : C(0);
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
    const int64_t number = affine.first(team.row);
    each(false, [&](int64_t j, const Values<C, N>& a) {
      Values<C, N> out;
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) out.v[k] = ((a.v[k] - m) - shift) * r;
      if (affine.weight != nullptr) {
        const auto w = affine.load(slice, affine.weight, number, j);
        FASTDL_UNROLL
        for (int k = 0; k < N; ++k) out.v[k] *= w.v[k];
      }
      if (affine.bias != nullptr) {
        const auto b = affine.load(slice, affine.bias, number, j);
        FASTDL_UNROLL
        for (int k = 0; k < N; ++k) out.v[k] += b.v[k];
      }
      slice.store(y + team.row * length, j, out);
    });
  }
}

// Threads of a block: where rows are a warp's, where sums are made, too.
template <class T>
constexpr int lane_threads(int packs) {
  return packs > kRowPacks<T> / 2 ? 128 : 256;
}
constexpr int kMostSums = 512;

// Backward of rows whose gradient and normalised x stay in registers, with the sums for weights (kSums) or
// without. partials (blocks, 2, length): sums of g and of g h.
template <class T, bool kBlock, int kPacks, bool kSums>
__global__ void __launch_bounds__(kBlock ? kSums ? kMostSums : 1024 : lane_threads<T>(kPacks), kBlock ? 1 : 2)
    row_norm_backward_once(T* grad_x, Compute<T>* partials, const T* grad_y, const T* x, const double* mean,
                           const double* var, Affine<T> affine, int64_t rows, int64_t length, Compute<T> eps,
                           int group, bool packed) {
  using C = Compute<T>;
  constexpr int N = kWidest<T>, kColumns = kBlock ? 1 : 32 * N * kPacks;
  RowTeam<kBlock> team(group);
  const RowSlice<T> slice(team, length, packed);
  Values<C, N> sums[kSums ? kPacks : 1][2] = {};
  for (; team.any_row(rows); team.row += team.step) {
    const bool mine = team.row < rows;
    const int64_t base = team.row * length, number = mine ? affine.first(team.row) : 0;
    Values<C, N> both[2][kPacks];
    auto &g = both[0], &h = both[1];
    C sum = 0, dot = 0;
    if (mine) {
      slice.load(both, {grad_y + base, x + base}, C(0));
      const Statistics<C> s = statistics<C>(mean, var, team.row, eps);
      FASTDL_UNROLL
      for (int j = 0; j < kPacks; ++j) {
        FASTDL_UNROLL
        for (int k = 0; k < N; ++k) {
          h[j].v[k] = slice.inside(j, k) ? s.normalised(h[j].v[k]) : C(0);
          if constexpr (kSums) {
            sums[j][0].v[k] += g[j].v[k];
            sums[j][1].v[k] += g[j].v[k] * h[j].v[k];
          }
        }
        if (affine.weight != nullptr) {
          const auto w = affine.load(slice, affine.weight, number, j);
          FASTDL_UNROLL
          for (int k = 0; k < N; ++k) g[j].v[k] *= w.v[k];
        }
        FASTDL_UNROLL
        for (int k = 0; k < N; ++k) {
          sum += g[j].v[k];
          dot += g[j].v[k] * h[j].v[k];
        }
      }
    }
    sum = mean != nullptr ? team.sum(sum) / C(length) : C(0);
    dot = team.sum(dot) / C(length);
    if (!mine) continue;
    const C r = 1 / std::sqrt(C(var[team.row]) + eps);
    FASTDL_UNROLL
    for (int j = 0; j < kPacks; ++j) {
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) g[j].v[k] = r * (g[j].v[k] - sum - h[j].v[k] * dot);
      slice.store(grad_x + base, j, g[j]);
    }
  }
  if constexpr (kSums) {
    // Calls f(number, sum of g, sum of g h) for this thread's elements of a row.
    const auto each = [&](auto f) {
      FASTDL_UNROLL
      for (int j = 0; j < kPacks; ++j) FASTDL_UNROLL
      for (int k = 0; k < N; ++k)
        if (slice.inside(j, k)) f(slice.element(j, k), sums[j][0].v[k], sums[j][1].v[k]);
    };
    C* to = partials + 2 * int64_t(blockIdx.x) * length;
    if constexpr (kBlock) {
      each([&](int64_t i, C a, C b) {
        to[i] = a;
        to[length + i] = b;
      });
    } else {
      FASTDL_SHARED(C, total, 2 * kColumns);
      FASTDL_UNROLL
      for (int j = 0; j < kPacks; ++j) FASTDL_UNROLL
      for (int k = 0; k < N; ++k) FASTDL_UNROLL
      for (int which = 0; which < 2; ++which)  // over the teams of the warp
        for (int mask = group; mask < 32; mask *= 2)
          sums[j][which].v[k] += shuffle_xor(sums[j][which].v[k], mask);
      const int warp = int(threadIdx.x) / 32;
      const bool first = (int(threadIdx.x) & 31) < group;
      for (int w = 0; w < int(blockDim.x) / 32; ++w) {
        if (warp == w && first)
          each([&](int64_t i, C a, C b) {
            total[i] = w == 0 ? a : total[i] + a;
            total[kColumns + i] = w == 0 ? b : total[kColumns + i] + b;
          });
        sync_threads();
      }
      for (int i = int(threadIdx.x); i < int(length); i += int(blockDim.x)) {
        to[i] = total[i];
        to[length + i] = total[kColumns + i];
      }
    }
  }
}

// Rows beyond a block's registers are read twice.
template <class T>
__global__ void __launch_bounds__(1024)
    row_norm_backward_twice(T* grad_x, const T* grad_y, const T* x, const double* mean, const double* var,
                            Affine<T> affine, int64_t rows, int64_t length, Compute<T> eps, bool packed) {
  using C = Compute<T>;
  constexpr int N = kWidest<T>;
  RowTeam<true> team(0);
  const RowSlice<T> slice(team, length, packed);
  for (; team.row < rows; team.row += team.step) {
    const int64_t base = team.row * length, number = affine.first(team.row);
    const Statistics<C> s = statistics<C>(mean, var, team.row, eps);
    // g w and normalised x
    const auto prepare = [&](int64_t j, Values<C, N>& g, Values<C, N>& h) {
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) h.v[k] = slice.inside(j, k) ? s.normalised(h.v[k]) : C(0);
      if (affine.weight == nullptr) return;
      const auto w = affine.load(slice, affine.weight, number, j);
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) g.v[k] *= w.v[k];
    };
    C sum = 0, dot = 0;
    slice.each(
        C(0),
        [&](int64_t j, auto& g, auto& h) {
          prepare(j, g, h);
          FASTDL_UNROLL
          for (int k = 0; k < N; ++k) {
            sum += g.v[k];
            dot += g.v[k] * h.v[k];
          }
        },
        grad_y + base, x + base);
    sum = mean != nullptr ? team.sum(sum) / C(length) : C(0);
    dot = team.sum(dot) / C(length);
    slice.each(
        C(0),
        [&](int64_t j, auto& g, auto& h) {
          prepare(j, g, h);
          FASTDL_UNROLL
          for (int k = 0; k < N; ++k) g.v[k] = s.r * (g.v[k] - sum - h.v[k] * dot);
          slice.store(grad_x + base, j, g);
        },
        grad_y + base, x + base);
  }
}

// ---- on the host

bool plain(const RowNorm& p) {
  return p.groups == 1 && p.inner == 1;
}
template <class T>
Affine<T> affine_of(const void* weight, const void* bias, const RowNorm& p) {
  return {static_cast<const T*>(weight),
          static_cast<const T*>(bias),
          p.groups,
          p.length / p.inner,
          Divisor(uint32_t(p.inner)),
          plain(p)};
}
void check_length(const RowNorm& p) {
  if (p.length >= int64_t(1) << 31)
    throw std::invalid_argument("normalisation on CUDA: rows must be below 2^31");
}

// A plan for lanes with `values` of a row, or kWideValues, or for blocks with `values`.
template <class T>
RowPlan plan_teams(const RowNorm& p, int values) {
  const bool wide = p.length > 32 * values && p.length <= 32 * kWideValues<T>;
  return plan_rows(p.rows, p.length, wide ? kWideValues<T> : values);
}

// Backward: the plan, and how many blocks leave sums for the weights, 0: no block does.
struct BackwardPlan {
  RowPlan rows;
  int64_t sums;
};
template <class T>
BackwardPlan plan_backward(const RowNorm& p) {
  BackwardPlan plan{plan_teams<T>(p, kRowValues<T> / 2), 0};
  const int packs = p.length > 32 * (kRowValues<T> / 2) ? kWideValues<T> / kWidest<T> : kRowPacks<T> / 2;
  const int threads = plan.rows.block ? plan.rows.threads : lane_threads<T>(packs);
  const int64_t teams = plan.rows.block ? 1 : threads / plan.rows.group;
  plan.rows.threads = threads;
  plan.rows.grid = grid_for(p.rows, teams, plan.rows.block ? 2048 / threads : 8);
  if (!plan.rows.fits || !plain(p) || (plan.rows.block && threads > kMostSums)) return plan;
  // Blocks that stay on their multiprocessor: sums are few, and their threads' registers allow no more.
  plan.rows.grid = grid_for(p.rows, teams, plan.rows.block ? kMostSums / threads : threads == 128 ? 2 : 3);
  plan.sums = plan.rows.grid;
  return plan;
}

}  // namespace

void row_norm_forward(Dtype dtype, void* y, double* mean, double* var, const void* x, const void* weight,
                      const void* bias, const RowNorm& p, Stream stream) {
  if (p.rows * p.length == 0) return;
  check_length(p);
  by_dtype(dtype, [&]<class T>(T) {
    constexpr int N = kWidest<T>;
    const RowPlan plan = plan_teams<T>(p, kRowValues<T>);
    bool packed = rows_packed<T>(p.length, {y, x});
    if (plain(p)) packed = packed && aligned(weight, 16) && aligned(bias, 16);
    const auto run = [&](auto kernel) {
      launch("norm_forward", kernel, dim3(plan.grid), dim3(plan.threads), 0, stream, static_cast<T*>(y), mean,
             var, static_cast<const T*>(x), affine_of<T>(weight, bias, p), p.rows, p.length,
             Compute<T>(p.eps), plan.group, packed);
    };
    if (!plan.fits)
      run(row_norm<T, true, 0>);
    else if (plan.block)
      run(row_norm<T, true, kRowPacks<T>>);
    else if (p.length <= 32 * kRowValues<T>)
      run(row_norm<T, false, kRowPacks<T>>);
    else
      run(row_norm<T, false, kWideValues<T> / N>);
  });
}

int64_t row_norm_scratch(Dtype dtype, const RowNorm& p) {
  int64_t bytes = 0;
  if (p.rows * p.length == 0) return bytes;
  by_dtype(dtype, [&]<class T>(T) {
    const int64_t sums = plan_backward<T>(p).sums;
    if (sums > 0) bytes = (sums + 1) * 2 * p.length * int64_t(sizeof(Compute<T>));
  });
  return bytes;
}

void row_norm_backward(Dtype dtype, void* grad_x, void* grad_weight, void* grad_bias, const void* grad_y,
                       const void* x, const void* weight, const double* mean, const double* var,
                       const RowNorm& p, void* scratch, Stream stream) {
  if (p.rows * p.length == 0) return;
  check_length(p);
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    constexpr int N = kWidest<T>, kNarrow = kRowPacks<T> / 2, kWide = kWideValues<T> / N;
    const BackwardPlan plan = plan_backward<T>(p);
    bool packed = rows_packed<T>(p.length, {grad_x, grad_y, x});
    if (plain(p)) packed = packed && aligned(weight, 16);
    T* to = static_cast<T*>(grad_x);
    const T *g = static_cast<const T*>(grad_y), *from = static_cast<const T*>(x);
    const Affine<T> affine = affine_of<T>(weight, nullptr, p);
    const dim3 grid(plan.rows.grid), block(plan.rows.threads);
    if (!plan.rows.fits)
      return launch("norm_backward", row_norm_backward_twice<T>, grid, block, 0, stream, to, g, from, mean,
                    var, affine, p.rows, p.length, C(p.eps), packed);
    const bool sums = scratch != nullptr && plan.sums > 0;
    C* partials = sums ? static_cast<C*>(scratch) + 2 * p.length : nullptr;
    const auto run = [&]<bool kBlock, int kPacks>(std::bool_constant<kBlock>,
                                                  std::integral_constant<int, kPacks>) {
      launch("norm_backward",
             sums ? row_norm_backward_once<T, kBlock, kPacks, true>
                  : row_norm_backward_once<T, kBlock, kPacks, false>,
             grid, block, 0, stream, to, partials, g, from, mean, var, affine, p.rows, p.length, C(p.eps),
             plan.rows.group, packed);
    };
    using Narrow = std::integral_constant<int, kNarrow>;
    if (plan.rows.block)
      run(std::true_type{}, Narrow{});
    else if (p.length <= 32 * N * kNarrow)
      run(std::false_type{}, Narrow{});
    else
      run(std::false_type{}, std::integral_constant<int, kWide>{});
    if (sums) finish_channel_gradients(dtype, grad_weight, grad_bias, scratch, plan.sums, p.length, stream);
  });
}

}  // namespace fastdl::cuda
