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
//
// What keeps such passes from the memory's speed is instructions and registers, so lanes hold 8, 16, 24 or 32
// values, as few as a row needs, and rows that are moved by packs and have weights of their own (kPlain) have
// kernels without a question for each element.
#include "cuda/norm_statistics.h"

namespace fastdl::cuda {
namespace {

// Values of a row that a lane has where rows of up to 32 times as many are a warp's; by steps of kUnit.
constexpr int kUnit = 8;
template <class T>
constexpr int kWideValues = sizeof(Compute<T>) == 8 ? 8 : 32;

template <class T>
struct Affine {  // of a row
  const T *weight, *bias;
  int64_t groups, channels;
  Divisor inner;
  bool plain;   // element i of every row has number i
  bool shared;  // a pack's elements have one number

  __device__ __forceinline__ int64_t first(int64_t row) const { return plain ? 0 : row % groups * channels; }
  // The parameters of pack j of a row whose first has the number `first`.
  template <class J>
  __device__ __forceinline__ Values<Compute<T>, kWidest<T>> load(const RowSlice<T>& slice, const T* from,
                                                                 int64_t first, J j) const {
    using C = Compute<T>;
    if (plain) return slice.load(from, j, C(0));
    Values<C, kWidest<T>> r;
    if (shared) {
      const auto element = uint32_t(slice.element(j, 0));
      const C one = slice.inside(j, 0) ? C(widen(from[first + int64_t(inner.quotient(element))])) : C(0);
      FASTDL_UNROLL
      for (int k = 0; k < kWidest<T>; ++k) r.v[k] = one;
      return r;
    }
    FASTDL_UNROLL
    for (int k = 0; k < kWidest<T>; ++k)
      r.v[k] = slice.inside(j, k)
                   ? C(widen(from[first + int64_t(inner.quotient(uint32_t(slice.element(j, k))))]))
                   : C(0);
    return r;
  }
  // x w + b of a pack
  template <class J>
  __device__ __forceinline__ void apply(const RowSlice<T>& slice, int64_t first, J j,
                                        Values<Compute<T>, kWidest<T>>& x) const {
    if (weight != nullptr) {
      const auto w = load(slice, weight, first, j);
      FASTDL_UNROLL
      for (int k = 0; k < kWidest<T>; ++k) x.v[k] *= w.v[k];
    }
    if (bias != nullptr) {
      const auto b = load(slice, bias, first, j);
      FASTDL_UNROLL
      for (int k = 0; k < kWidest<T>; ++k) x.v[k] += b.v[k];
    }
  }
};

// What a thread holds of a row: kPacks packs.
template <class T, bool kBlock, int kPacks, bool kPlain>
struct Held {
  static constexpr int N = kWidest<T>;
  using C = Compute<T>;
  // Groups of lanes have no more values than they need, so only the last kUnit of them can lie beyond the end.
  static constexpr int kCertain = kPlain && !kBlock ? kPacks - kUnit / N : 0;

  // More values than kRowValues: only a whole warp has them.
  static __device__ __forceinline__ int group(int given) { return kPacks * N > kRowValues<T> ? 32 : given; }
  static __device__ __forceinline__ bool inside(const RowSlice<T>& slice, int j, int k) {
    return j < kCertain || slice.inside(j, k);
  }
  // The parameters of pack j, or `absent` ones.
  static __device__ __forceinline__ Values<C, N> parameters(const RowSlice<T>& slice, const T* from, int j,
                                                            C absent) {
    Pack<T, N> none;
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) none.v[k] = narrow<T>(absent);
    Loaded<T, N> pack(none);
    if (from != nullptr && inside(slice, j, 0))
      pack = Loaded<T, N>(*reinterpret_cast<const Pack<T, N>*>(from + slice.element(j, 0)));
    Values<C, N> r;
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) r.v[k] = C(widen(pack[k]));
    return r;
  }
  static __device__ __forceinline__ void apply(const Affine<T>& affine, const RowSlice<T>& slice,
                                               int64_t number, int j, Values<C, N>& x) {
    if constexpr (kPlain) {
      const auto w = parameters(slice, affine.weight, j, C(1)), b = parameters(slice, affine.bias, j, C(0));
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) x.v[k] = x.v[k] * w.v[k] + b.v[k];
    } else {
      affine.apply(slice, number, j, x);
    }
  }
  // Backward has no bias.
  static __device__ __forceinline__ void weigh(const Affine<T>& affine, const RowSlice<T>& slice,
                                               int64_t number, int j, Values<C, N>& x) {
    if constexpr (kPlain) {
      const auto w = parameters(slice, affine.weight, j, C(1));
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) x.v[k] *= w.v[k];
    } else {
      affine.apply(slice, number, j, x);
    }
  }
  static __device__ __forceinline__ void store(const RowSlice<T>& slice, T* row, int j,
                                               const Values<C, N>& x) {
    if constexpr (!kPlain)
      slice.store(row, j, x);
    else if (inside(slice, j, 0))
      slice.store_pack(row, slice.element(j, 0), x);
  }
};

// Threads of a block whose lanes hold `values`, and blocks for which a multiprocessor's registers last.
constexpr int forward_blocks(int values, bool plain) {
  return plain ? values > 16 ? 3 : 4 : 1;
}
template <class T, bool kBlock, int kPacks, bool kPlain>
__global__ void __launch_bounds__(kBlock ? 1024 : 256,
                                  kBlock ? 1 : forward_blocks(kPacks * kWidest<T>, kPlain))
    row_norm(T* y, double* mean, double* var, const T* x, Affine<T> affine, int64_t rows, int64_t length,
             Compute<T> eps, int group, bool packed) {
  using C = Compute<T>;
  using H = Held<T, kBlock, kPacks, kPlain>;
  constexpr int N = kWidest<T>;
  RowTeam<kBlock> team(H::group(group));
  const RowSlice<T> slice(team, length, kPlain || packed);
  const C share = 1 / C(length);
  for (; team.any_row(rows); team.row += team.step) {
    const bool mine = team.row < rows;
    const int64_t base = team.row * length;
    Values<C, N> held[1][kPacks];
    auto& d = held[0];  // x, then its distance from the mean
    C m = 0, moments[2] = {0, 0};
    if (mine) slice.load(held, {x + base}, C(0));
    if (mean != nullptr) {
      if (mine) {
        FASTDL_UNROLL
        for (int j = 0; j < kPacks; ++j) FASTDL_UNROLL
        for (int k = 0; k < N; ++k) m += d[j].v[k];
      }
      m = team.sum(m) * share;
    }
    if (mine) {
      FASTDL_UNROLL
      for (int j = 0; j < kPacks; ++j) FASTDL_UNROLL
      for (int k = 0; k < N; ++k) {
        d[j].v[k] = H::inside(slice, j, k) ? d[j].v[k] - m : C(0);
        moments[0] += d[j].v[k];
        moments[1] += d[j].v[k] * d[j].v[k];
      }
    }
    team.sum(moments);
    if (!mine) continue;
    const C shift = mean != nullptr ? moments[0] * share : C(0);
    const C variance = larger(moments[1] * share - shift * shift, C(0));
    if (team.index == 0) {
      if (mean != nullptr) mean[team.row] = double(m) + double(shift);
      var[team.row] = variance;
    }
    const C r = 1 / std::sqrt(variance + eps);
    const int64_t number = kPlain ? 0 : affine.first(team.row);
    FASTDL_UNROLL
    for (int j = 0; j < kPacks; ++j) {
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) d[j].v[k] = (d[j].v[k] - shift) * r;
      H::apply(affine, slice, number, j, d[j]);
      H::store(slice, y + base, j, d[j]);
    }
  }
}

// Rows beyond a block's registers are read for each pass.
constexpr int kLongThreads = 512;
template <class T>
__global__ void __launch_bounds__(kLongThreads, 2)
    row_norm_long(T* y, double* mean, double* var, const T* x, Affine<T> affine, int64_t rows, int64_t length,
                  Compute<T> eps, int, bool packed) {
  using C = Compute<T>;
  constexpr int N = kWidest<T>;
  RowTeam<true> team(0);
  const RowSlice<T> slice(team, length, packed);
  const C share = 1 / C(length);
  for (; team.row < rows; team.row += team.step) {
    const T* row = x + team.row * length;
    C m = 0, moments[2] = {0, 0};
    if (mean != nullptr) {
      const auto add = [&](int64_t, const Values<C, N>& a) {
        FASTDL_UNROLL
        for (int k = 0; k < N; ++k) m += a.v[k];
      };
      slice.each(C(0), add, row);
      m = team.sum(m) * share;
    }
    const auto add = [&](int64_t j, const Values<C, N>& a) {
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) {
        const C d = slice.inside(j, k) ? a.v[k] - m : C(0);
        moments[0] += d;
        moments[1] += d * d;
      }
    };
    slice.each(C(0), add, row);
    team.sum(moments);
    const C shift = mean != nullptr ? moments[0] * share : C(0);
    const C variance = larger(moments[1] * share - shift * shift, C(0));
    if (team.index == 0) {
      if (mean != nullptr) mean[team.row] = double(m) + double(shift);
      var[team.row] = variance;
    }
    const C r = 1 / std::sqrt(variance + eps);
    const int64_t number = affine.first(team.row);
    const auto write = [&](int64_t j, Values<C, N>& a) {
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) a.v[k] = ((a.v[k] - m) - shift) * r;
      affine.apply(slice, number, j, a);
      slice.store(y + team.row * length, j, a);
    };
    slice.each(C(0), write, row);
  }
}

// Threads of a block whose lanes hold `values` of a row's gradient and as many of x, and, where sums are made,
// of these; and blocks for which a multiprocessor's registers last.
template <class T>
constexpr int lane_threads(int values) {
  return values * int(sizeof(Compute<T>)) > 4 * kUnit ? 128 : 256;
}
template <class T>
constexpr int lane_blocks(int values) {
  return values > 24 || sizeof(Compute<T>) == 8 ? 2 : values == 16 ? 4 : 3;
}
constexpr int kMostSums = 512, kBlocksOfSums = 2;

// Backward of rows whose gradient and normalised x stay in registers, with the sums for weights (kSums) or
// without. partials (blocks, 2, length): sums of g and of g h.
template <class T, bool kBlock, int kPacks, bool kPlain, bool kSums>
__global__ void __launch_bounds__(kBlock ? kSums ? kMostSums : 1024 : lane_threads<T>(kPacks * kWidest<T>),
                                  kBlock   ? kSums && kPlain && sizeof(Compute<T>) == 4 ? kBlocksOfSums : 1
                                  : kPlain ? lane_blocks<T>(kPacks * kWidest<T>)
                                           : 1)
    row_norm_backward_once(T* grad_x, Compute<T>* partials, const T* grad_y, const T* x, const double* mean,
                           const double* var, Affine<T> affine, int64_t rows, int64_t length, Compute<T> eps,
                           int group, bool packed) {
  using C = Compute<T>;
  using H = Held<T, kBlock, kPacks, kPlain>;
  constexpr int N = kWidest<T>, kColumns = kBlock ? 1 : 32 * N * kPacks;
  RowTeam<kBlock> team(H::group(group));
  const RowSlice<T> slice(team, length, kPlain || packed);
  const C share = 1 / C(length);
  Values<C, N> sums[kSums ? kPacks : 1][2] = {};
  for (; team.any_row(rows); team.row += team.step) {
    const bool mine = team.row < rows;
    const int64_t base = team.row * length, number = mine && !kPlain ? affine.first(team.row) : 0;
    Values<C, N> both[2][kPacks];
    auto &g = both[0], &h = both[1];
    C means[2] = {0, 0}, r = 0;
    if (mine) {
      const Statistics<C> s = statistics<C>(mean, var, team.row, eps);
      r = s.r;
      slice.load(both, {grad_y + base, x + base}, C(0));
      FASTDL_UNROLL
      for (int j = 0; j < kPacks; ++j) {
        FASTDL_UNROLL
        for (int k = 0; k < N; ++k) {
          h[j].v[k] = H::inside(slice, j, k) ? s.normalised(h[j].v[k]) : C(0);
          if constexpr (kSums) {
            sums[j][0].v[k] += g[j].v[k];
            sums[j][1].v[k] += g[j].v[k] * h[j].v[k];
          }
        }
        H::weigh(affine, slice, number, j, g[j]);
        FASTDL_UNROLL
        for (int k = 0; k < N; ++k) {
          means[0] += g[j].v[k];
          means[1] += g[j].v[k] * h[j].v[k];
        }
      }
    }
    team.sum(means);
    if (!mine) continue;
    const C mean_g = mean != nullptr ? means[0] * share : C(0), mean_gh = means[1] * share;
    FASTDL_UNROLL
    for (int j = 0; j < kPacks; ++j) {
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) g[j].v[k] = r * (g[j].v[k] - mean_g - h[j].v[k] * mean_gh);
      H::store(slice, grad_x + base, j, g[j]);
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
      affine.apply(slice, number, j, g);
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
Affine<T> affine_of(const void* weight, const void* bias, const RowNorm& p, bool packed) {
  return {static_cast<const T*>(weight),
          static_cast<const T*>(bias),
          p.groups,
          p.length / p.inner,
          Divisor(uint32_t(p.inner)),
          plain(p),
          packed && p.inner % kWidest<T> == 0};
}
void check_length(const RowNorm& p) {
  if (p.length >= int64_t(1) << 31)
    throw std::invalid_argument("normalisation on CUDA: rows must be below 2^31");
}

// A plan for lanes with `values` of a row, for whole warps with up to kWideValues a lane, or for blocks with
// `values`.
template <class T>
RowPlan plan_teams(const RowNorm& p, int values) {
  const bool wide = p.length > 32 * values && p.length <= 32 * kWideValues<T>;
  RowPlan plan = plan_rows(p.rows, p.length, wide ? kWideValues<T> : values);
  if (wide) plan.group = 32;
  return plan;
}
// How many units a lane needs.
int64_t units(const RowNorm& p, const RowPlan& plan) {
  return ceil_div(p.length, int64_t(plan.group) * kUnit);
}
// Calls f<packs, kPlain>() for rows of groups of lanes.
template <class T, class F>
void by_packs(int64_t units, bool fast, F&& f) {
  constexpr int kPacks = kUnit / kWidest<T>;
  if constexpr (sizeof(Compute<T>) == 8)
    return fast ? f.template operator()<kPacks, true>() : f.template operator()<kPacks, false>();
  else if (!fast)
    return units > 2   ? f.template operator()<4 * kPacks, false>()
           : units > 1 ? f.template operator()<2 * kPacks, false>()
                       : f.template operator()<kPacks, false>();
  else if (units == 1)
    return f.template operator()<kPacks, true>();
  else if (units == 2)
    return f.template operator()<2 * kPacks, true>();
  else if (units == 3)
    return f.template operator()<3 * kPacks, true>();
  else
    return f.template operator()<4 * kPacks, true>();
}

constexpr int kManyBlocks = 64;  // of a multiprocessor: rows are dealt out as blocks end

// Backward: the plan, and how many blocks leave sums for the weights, 0: no block does.
struct BackwardPlan {
  RowPlan rows;
  int64_t sums;
};
template <class T>
BackwardPlan plan_backward(const RowNorm& p) {
  BackwardPlan plan{plan_teams<T>(p, kRowValues<T> / 2), 0};
  RowPlan& rows = plan.rows;
  const int64_t values = kUnit * (rows.block ? 1 : units(p, rows));
  if (!rows.block) rows.threads = lane_threads<T>(int(values));
  const int64_t teams = rows.block ? 1 : rows.threads / rows.group;
  rows.grid = grid_for(p.rows, teams, kManyBlocks);
  if (!rows.fits || !plain(p) || (rows.block && rows.threads > kMostSums)) return plan;
  // Blocks that stay on their multiprocessor: sums are few, and their threads' registers allow no more.
  rows.grid = grid_for(p.rows, teams,
                       rows.block ? kBlocksOfSums * kMostSums / rows.threads : lane_blocks<T>(int(values)));
  plan.sums = rows.grid;
  return plan;
}

}  // namespace

void row_norm_forward(Dtype dtype, void* y, double* mean, double* var, const void* x, const void* weight,
                      const void* bias, const RowNorm& p, Stream stream) {
  if (p.rows * p.length == 0) return;
  check_length(p);
  by_dtype(dtype, [&]<class T>(T) {
    RowPlan plan = plan_teams<T>(p, kRowValues<T>);
    bool packed = rows_packed<T>(p.length, {y, x});
    if (plain(p)) packed = packed && aligned(weight, 16) && aligned(bias, 16);
    if (!plan.fits) {
      plan.threads = kLongThreads;
      plan.grid = grid_for(p.rows, 1, 2048 / kLongThreads);
    }
    if (!plan.block) plan.grid = grid_for(p.rows, plan.threads / plan.group, kManyBlocks);
    const bool fast = packed && plain(p);
    const auto run = [&](auto kernel) {
      launch("norm_forward", kernel, dim3(plan.grid), dim3(plan.threads), 0, stream, static_cast<T*>(y), mean,
             var, static_cast<const T*>(x), affine_of<T>(weight, bias, p, packed), p.rows, p.length,
             Compute<T>(p.eps), plan.group, packed);
    };
    if (!plan.fits)
      run(row_norm_long<T>);
    else if (plan.block)
      run(fast ? row_norm<T, true, kRowPacks<T>, true> : row_norm<T, true, kRowPacks<T>, false>);
    else
      by_packs<T>(units(p, plan), fast,
                  [&]<int kPacks, bool kPlain>() { run(row_norm<T, false, kPacks, kPlain>); });
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
    const BackwardPlan plan = plan_backward<T>(p);
    bool packed = rows_packed<T>(p.length, {grad_x, grad_y, x});
    if (plain(p)) packed = packed && aligned(weight, 16);
    T* to = static_cast<T*>(grad_x);
    const T *g = static_cast<const T*>(grad_y), *from = static_cast<const T*>(x);
    const Affine<T> affine = affine_of<T>(weight, nullptr, p, packed);
    const dim3 grid(plan.rows.grid), block(plan.rows.threads);
    if (!plan.rows.fits)
      return launch("norm_backward", row_norm_backward_twice<T>, grid, block, 0, stream, to, g, from, mean,
                    var, affine, p.rows, p.length, C(p.eps), packed);
    const bool sums = scratch != nullptr && plan.sums > 0, fast = packed && plain(p);
    C* partials = sums ? static_cast<C*>(scratch) + 2 * p.length : nullptr;
    const auto run = [&](auto kernel) {
      launch("norm_backward", kernel, grid, block, 0, stream, to, partials, g, from, mean, var, affine,
             p.rows, p.length, C(p.eps), plan.rows.group, packed);
    };
    if (plan.rows.block) {
      constexpr int kPacks = kRowPacks<T> / 2;
      if (fast)
        run(sums ? row_norm_backward_once<T, true, kPacks, true, true>
                 : row_norm_backward_once<T, true, kPacks, true, false>);
      else
        run(sums ? row_norm_backward_once<T, true, kPacks, false, true>
                 : row_norm_backward_once<T, true, kPacks, false, false>);
    } else {
      by_packs<T>(units(p, plan.rows), fast, [&]<int kPacks, bool kPlain>() {
        run(sums ? row_norm_backward_once<T, false, kPacks, kPlain, true>
                 : row_norm_backward_once<T, false, kPacks, kPlain, false>);
      });
    }
    if (sums) finish_channel_gradients(dtype, grad_weight, grad_bias, scratch, plan.sums, p.length, stream);
  });
}

}  // namespace fastdl::cuda
