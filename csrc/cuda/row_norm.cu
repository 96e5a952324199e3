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
#include "cuda/row_norm.h"

namespace fastdl::cuda {
namespace {

// The variance of a row whose elements are `shift` more than m on average, and whose squared distances from it are
// `square` on average. The team's first thread stores it, and the mean.
template <class C, class Team>
__device__ __forceinline__ C store_moments(double* mean, double* var, const Team& team, C m, C shift,
                                           C square) {
  const C variance = larger(square - shift * shift, C(0));
  if (team.index == 0) {
    if (mean != nullptr) mean[team.row] = double(m) + double(shift);
    var[team.row] = variance;
  }
  return variance;
}

// Blocks whose lanes hold `values` for which a multiprocessor's registers last.
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
    const C r = 1 / std::sqrt(store_moments(mean, var, team, m, shift, moments[1] * share) + eps);
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
    const C r = 1 / std::sqrt(store_moments(mean, var, team, m, shift, moments[1] * share) + eps);
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

}  // namespace fastdl::cuda
