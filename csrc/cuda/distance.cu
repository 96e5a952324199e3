// Rows of two arrays against each other. row_products: x1 . x2, x1 . x1 and x2 . x2 in one pass. The distance
// is r = (sum |d|^p)^(1/p) with d = x1 - x2 + eps; its gradient g sign(d) (|d| / r)^(p - 1), for p = inf g
// sign(d) shared by the largest. Groups of lanes or blocks take rows (rows.h); both arrays are read once, but
// twice for the gradient of p = inf, which counts the largest first. Sums have a fixed order.
#include "cuda/distance.h"

#include <algorithm>

#include "cuda/distance_terms.h"
#include "cuda/rows.h"

namespace fastdl::cuda {
namespace {

constexpr int kMostThreads = 512;  // of a block with a row: powers in double take many registers

template <class T, bool kBlock>
__global__ void __launch_bounds__(kBlock ? 1024 : 256)
    products(T* sums, const T* x1, const T* x2, Rows r, int group, bool packed) {
  using C = Compute<T>;
  RowTeam<kBlock> team(group);
  const RowSlice<T> slice(team, r.length, packed);
  for (; team.any_row(r.rows); team.row += team.step) {
    const bool mine = team.row < r.rows;
    C s[3] = {};
    const auto add = [&](int64_t, const auto& a, const auto& b) {
      FASTDL_UNROLL
      for (int k = 0; k < kWidest<T>; ++k) {
        s[0] += a.v[k] * b.v[k];
        s[1] += a.v[k] * a.v[k];
        s[2] += b.v[k] * b.v[k];
      }
    };
    if (mine) slice.each(C(0), add, x1 + team.row * r.length, x2 + team.row * r.length);
    FASTDL_UNROLL
    for (int i = 0; i < 3; ++i) {
      s[i] = team.sum(s[i]);
      if (mine && team.index == 0) sums[i * r.rows + team.row] = narrow<T>(s[i]);
    }
  }
}

template <class T, bool kBlock>
__global__ void __launch_bounds__(kBlock ? 1024 : 256)
    products_backward(T* grad_x1, T* grad_x2, const T* grad_sums, const T* x1, const T* x2, Rows r, int group,
                      bool packed) {
  using C = Compute<T>;
  RowTeam<kBlock> team(group);
  const RowSlice<T> slice(team, r.length, packed);
  for (; team.row < r.rows; team.row += team.step) {
    C g[3];
    FASTDL_UNROLL
    for (int i = 0; i < 3; ++i) g[i] = C(widen(grad_sums[i * r.rows + team.row]));
    const int64_t base = team.row * r.length;
    const auto write = [&](int64_t j, const auto& a, const auto& b) {
      Values<C, kWidest<T>> to1, to2;
      FASTDL_UNROLL
      for (int k = 0; k < kWidest<T>; ++k) {
        to1.v[k] = g[0] * b.v[k] + 2 * g[1] * a.v[k];
        to2.v[k] = g[0] * a.v[k] + 2 * g[2] * b.v[k];
      }
      if (grad_x1 != nullptr) slice.store(grad_x1 + base, j, to1);
      if (grad_x2 != nullptr) slice.store(grad_x2 + base, j, to2);
    };
    slice.each(C(0), write, x1 + base, x2 + base);
  }
}

template <class T, bool kBlock>
__global__ void __launch_bounds__(kBlock ? kMostThreads : 256, kBlock ? 1 : 3)
    distances(T* distance, const T* x1, const T* x2, Norm norm, Compute<T> p, Compute<T> eps, Rows r,
              int group, bool packed) {
  using C = Compute<T>;
  RowTeam<kBlock> team(group);
  const RowSlice<T> slice(team, r.length, packed);
  for (; team.any_row(r.rows); team.row += team.step) {
    const bool mine = team.row < r.rows;
    C s = 0;
    const auto add = [&](int64_t j, const auto& a, const auto& b) {
      FASTDL_UNROLL
      for (int k = 0; k < kWidest<T>; ++k) {
        const C v = slice.inside(j, k) ? term<T>(std::fabs(a.v[k] - b.v[k] + eps), norm, p) : C(0);
        s = norm == Norm::infinite ? larger(s, v) : s + v;
      }
    };
    if (mine) slice.each(C(0), add, x1 + team.row * r.length, x2 + team.row * r.length);
    s = norm == Norm::infinite ? team.reduce(s, C(0), Larger{}) : team.sum(s);
    if (norm == Norm::two) s = std::sqrt(s);
    if (norm == Norm::any) s = std::pow(s, 1 / p);
    if (mine && team.index == 0) distance[team.row] = narrow<T>(s);
  }
}

template <class T, bool kBlock>
__global__ void __launch_bounds__(kBlock ? kMostThreads : 256)
    distances_backward(T* grad_x1, const T* grad_distance, const T* x1, const T* x2, const T* distance,
                       Norm norm, Compute<T> p, Compute<T> eps, Rows r, int group, bool packed) {
  using C = Compute<T>;
  RowTeam<kBlock> team(group);
  const RowSlice<T> slice(team, r.length, packed);
  for (; team.any_row(r.rows); team.row += team.step) {
    const bool mine = team.row < r.rows;
    const C length = mine ? C(widen(distance[team.row])) : C(0), inverse = 1 / length;
    C g = mine ? C(widen(grad_distance[team.row])) : C(0);
    const int64_t base = team.row * r.length;
    // The distance was rounded to T: so is what is compared with it.
    const auto is_largest = [&](C d) { return C(widen(narrow<T>(std::fabs(d)))) == length; };
    if (norm == Norm::infinite) {
      C count = 0;
      const auto find = [&](int64_t j, const auto& a, const auto& b) {
        FASTDL_UNROLL
        for (int k = 0; k < kWidest<T>; ++k)
          if (slice.inside(j, k) && length != 0 && is_largest(a.v[k] - b.v[k] + eps)) count += 1;
      };
      if (mine) slice.each(C(0), find, x1 + base, x2 + base);
      g /= team.sum(count);
    }
    if (!mine) continue;
    const auto write = [&](int64_t j, auto& a, const auto& b) {
      FASTDL_UNROLL
      for (int k = 0; k < kWidest<T>; ++k) {
        const C v = a.v[k] - b.v[k] + eps;
        C slope = sign(v);
        if (norm == Norm::two)
          slope = v * inverse;
        else if (norm == Norm::any)
          slope = v == 0 ? C(0) : sign(v) * power<T>(std::fabs(v) * inverse, p - 1);
        else if (norm == Norm::infinite)
          slope = is_largest(v) ? sign(v) : C(0);
        a.v[k] = length == 0 || norm == Norm::zero ? C(0) : g * slope;
      }
      slice.store(grad_x1 + base, j, a);
    };
    slice.each(C(0), write, x1 + base, x2 + base);
  }
}

// The kernel for blocks or that for groups of lanes, with what both take last.
template <class T, class... P, class... A>
void launch_rows(const char* op, void (*blocks)(P...), void (*groups)(P...), const Rows& r,
                 std::initializer_list<const void*> arrays, Stream stream, A... arguments) {
  const RowPlan plan = plan_rows(r.rows, r.length, kRowValues<T>);
  launch(op, plan.block ? blocks : groups, dim3(plan.grid),
         dim3(unsigned(std::min(plan.threads, kMostThreads))), 0, stream, arguments..., r, plan.group,
         rows_packed<T>(r.length, arrays));
}

}  // namespace

void row_products_forward(Dtype dtype, void* sums, const void* x1, const void* x2, const Rows& r,
                          Stream stream) {
  if (r.rows == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    launch_rows<T>("row_products", products<T, true>, products<T, false>, r, {x1, x2}, stream,
                   static_cast<T*>(sums), static_cast<const T*>(x1), static_cast<const T*>(x2));
  });
}

void row_products_backward(Dtype dtype, void* grad_x1, void* grad_x2, const void* grad_sums, const void* x1,
                           const void* x2, const Rows& r, Stream stream) {
  if (r.rows * r.length == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    launch_rows<T>("row_products_backward", products_backward<T, true>, products_backward<T, false>, r,
                   {x1, x2, grad_x1, grad_x2}, stream, static_cast<T*>(grad_x1), static_cast<T*>(grad_x2),
                   static_cast<const T*>(grad_sums), static_cast<const T*>(x1), static_cast<const T*>(x2));
  });
}

void pairwise_distance_forward(Dtype dtype, void* distance, const void* x1, const void* x2, double p,
                               double eps, const Rows& r, Stream stream) {
  if (r.rows == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    launch_rows<T>("pairwise_distance", distances<T, true>, distances<T, false>, r, {x1, x2}, stream,
                   static_cast<T*>(distance), static_cast<const T*>(x1), static_cast<const T*>(x2),
                   norm_of(p), C(p), C(eps));
  });
}

void pairwise_distance_backward(Dtype dtype, void* grad_x1, const void* grad_distance, const void* x1,
                                const void* x2, const void* distance, double p, double eps, const Rows& r,
                                Stream stream) {
  if (r.rows * r.length == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    launch_rows<T>("pairwise_distance_backward", distances_backward<T, true>, distances_backward<T, false>, r,
                   {x1, x2, grad_x1}, stream, static_cast<T*>(grad_x1), static_cast<const T*>(grad_distance),
                   static_cast<const T*>(x1), static_cast<const T*>(x2), static_cast<const T*>(distance),
                   norm_of(p), C(p), C(eps));
  });
}

}  // namespace fastdl::cuda
