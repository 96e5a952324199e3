// Backward of layer, RMS and group norm, with the gradients of their weights where these are a row's own
// (row_norm.cu says how).
#include "cuda/row_norm.h"

namespace fastdl::cuda {
namespace {

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
    // Divided, not multiplied by 1 / length: gradients are small differences of these.
    const C mean_g = mean != nullptr ? means[0] / C(length) : C(0), mean_gh = means[1] / C(length);
    FASTDL_UNROLL
    for (int j = 0; j < kPacks; ++j) {
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) g[j].v[k] = r * (g[j].v[k] - mean_g - h[j].v[k] * mean_gh);
      H::store(slice, grad_x + base, j, g[j]);
    }
  }
  if constexpr (kSums) {
    C* to = partials + 2 * int64_t(blockIdx.x) * length;
    if constexpr (kBlock) {
      FASTDL_UNROLL
      for (int j = 0; j < kPacks; ++j) FASTDL_UNROLL
      for (int k = 0; k < N; ++k) {
        if (!slice.inside(j, k)) continue;
        to[slice.element(j, k)] = sums[j][0].v[k];
        to[length + slice.element(j, k)] = sums[j][1].v[k];
      }
    } else {
      FASTDL_DYNAMIC_SHARED(C, of_warps);  // (warps, 2, kColumns)
      const int lanes = H::group(group);
      FASTDL_ROLLED  // over the teams of the warp; of whole warps there is nothing to do
          for (int mask = lanes; mask < 32; mask *= 2) {
        FASTDL_UNROLL
        for (int j = 0; j < kPacks; ++j) FASTDL_UNROLL
        for (int k = 0; k < N; ++k) FASTDL_UNROLL
        for (int which = 0; which < 2; ++which) sums[j][which].v[k] += shuffle_xor(sums[j][which].v[k], mask);
      }
      if ((int(threadIdx.x) & 31) < lanes) {
        FASTDL_UNROLL
        for (int which = 0; which < 2; ++which) {
          C* const own = of_warps + (int(threadIdx.x) / 32 * 2 + which) * kColumns;
          FASTDL_UNROLL
          for (int j = 0; j < kPacks; ++j) {
            if constexpr (kPlain) {
              constexpr int kPart = int(16 / sizeof(C));
              FASTDL_UNROLL
              for (int k = 0; k < N; k += kPart) {
                Pack<C, kPart> part;
                FASTDL_UNROLL
                for (int e = 0; e < kPart; ++e) part.v[e] = sums[j][which].v[k + e];
                *reinterpret_cast<Pack<C, kPart>*>(own + slice.element(j, k)) = part;
              }
            } else {
              FASTDL_UNROLL
              for (int k = 0; k < N; ++k) own[slice.element(j, k)] = sums[j][which].v[k];
            }
          }
        }
      }
      sync_threads();
      FASTDL_ROLLED
      for (int n = int(threadIdx.x); n < 2 * int(length); n += int(blockDim.x)) {
        const int which = n >= int(length), i = n - which * int(length);
        C sum = 0;
        FASTDL_UNROLL_BY(4)
        for (int w = 0; w < int(blockDim.x) / 32; ++w) sum += of_warps[(2 * w + which) * kColumns + i];
        to[n] = sum;
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
    const auto run = [&](auto kernel, size_t shared = 0) {
      launch("norm_backward", kernel, grid, block, shared, stream, to, partials, g, from, mean, var, affine,
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
                 : row_norm_backward_once<T, false, kPacks, kPlain, false>,
            sums ? size_t(plan.rows.threads) * 2 * kPacks * kWidest<T> * sizeof(C) : 0);
      });
    }
    if (sums)
      finish_channel_gradients(dtype, grad_weight, grad_bias, nullptr, scratch, plan.sums, p.length, stream);
  });
}

}  // namespace fastdl::cuda
