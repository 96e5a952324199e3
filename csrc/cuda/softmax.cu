// Softmax: y_c = exp(x_c - m) / s, m the maximum, s = sum exp(x_c - m); log_softmax: y_c = x_c - m - log s.
// Backward: grad_x = y (grad_y - sum grad_y y), or grad_y - exp(y) sum grad_y.
//
// Rows (inner = 1) that fit in their team's registers are read once and written once; longer ones make one
// pass for the online m and s and read again, which the second-level cache answers. Columns (inner > 1) do
// the same with the neighbours of a position side by side. Nothing is saved but y.
#include "cuda/softmax.h"

#include "cuda/rows.h"

namespace fastdl::cuda {
namespace {

template <class T, class C = Compute<T>>
__device__ __forceinline__ C result(C x, C m, C inverse, C log_s, bool log) {
  return log ? x - m - log_s : exponential<T>(x - m) * inverse;
}

template <class T, bool kBlock>
__global__ void __launch_bounds__(kBlock ? 1024 : 256, kBlock || sizeof(Compute<T>) == 8 ? 1 : 3)
    softmax_rows(T* y, const T* x, int64_t rows, int64_t length, int group, bool packed, bool log) {
  using C = Compute<T>;
  RowTeam<kBlock> team(group);
  const RowSlice<T> slice(team, length, packed);
  for (; team.any_row(rows); team.row += team.step) {
    const bool mine = team.row < rows;
    Values<C, kWidest<T>> row[1][kRowPacks<T>] = {};
    auto& v = row[0];
    if (mine) slice.load(row, {x + team.row * length}, -infinity<C>());
    C m = -infinity<C>();
    FASTDL_UNROLL
    for (int j = 0; j < kRowPacks<T>; ++j) FASTDL_UNROLL
    for (int k = 0; k < kWidest<T>; ++k) m = larger(m, v[j].v[k]);
    m = team.reduce(m, -infinity<C>(), Larger{});
    C s = 0;
    FASTDL_UNROLL
    for (int j = 0; j < kRowPacks<T>; ++j) FASTDL_UNROLL
    for (int k = 0; k < kWidest<T>; ++k) {
      const C e = exponential<T>(v[j].v[k] - m);
      s += e;
      v[j].v[k] = log ? v[j].v[k] - m : e;
    }
    s = team.sum(s);
    if (!mine) continue;
    const C inverse = 1 / s, log_s = log ? std::log(s) : C(0);
    FASTDL_UNROLL
    for (int j = 0; j < kRowPacks<T>; ++j) {
      FASTDL_UNROLL
      for (int k = 0; k < kWidest<T>; ++k) v[j].v[k] = log ? v[j].v[k] - log_s : v[j].v[k] * inverse;
      slice.store(y + team.row * length, j, v[j]);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(1024)
    softmax_long(T* y, const T* x, int64_t rows, int64_t length, bool packed, bool log) {
  using C = Compute<T>;
  RowTeam<true> team(0);
  const RowSlice<T> slice(team, length, packed);
  for (; team.row < rows; team.row += team.step) {
    const T* row = x + team.row * length;
    Online<T> o;
    slice.each(-infinity<C>(), [&](int64_t, const auto& v) { o.add(v); }, row);
    team.reduce(o);
    const C inverse = 1 / o.s, log_s = log ? std::log(o.s) : C(0);
    slice.each(
        C(0),
        [&](int64_t j, auto& v) {
          FASTDL_UNROLL
          for (int k = 0; k < kWidest<T>; ++k) v.v[k] = result<T>(v.v[k], o.m, inverse, log_s, log);
          slice.store(y + team.row * length, j, v);
        },
        row);
  }
}

template <class T>
__global__ void __launch_bounds__(kColumns* kSplit, kColumnBlocks<T>)
    softmax_columns(T* y, const T* x, Classes shape, bool log) {
  using C = Compute<T>;
  for_each_column(shape, [&](const Column& column) {
    Online<T> o;
    column.each(
        [&](int64_t c, const auto& loaded) {
          Values<C, Column::kClasses<T>> v;
          FASTDL_UNROLL
          for (int i = 0; i < Column::kClasses<T>; ++i)
            v.v[i] = column.has(c, i) ? C(widen(loaded.v[i])) : -infinity<C>();
          o.add(v);
        },
        x);
    split_reduce(o);
    const C inverse = 1 / o.s, log_s = log ? std::log(o.s) : C(0);
    column.each(
        [&](int64_t c, const auto& loaded) {
          FASTDL_UNROLL
          for (int i = 0; i < Column::kClasses<T>; ++i)
            if (column.has(c, i))
              y[column.place(c, i)] = narrow<T>(result<T>(C(widen(loaded.v[i])), o.m, inverse, log_s, log));
        },
        x);
  });
}

template <class T, class C = Compute<T>>
__device__ __forceinline__ C slope(C g, C y, C sum, bool log) {
  return log ? g - exponential<T>(y) * sum : y * (g - sum);
}

// kFits: gradient and result stay in registers between the sum and the second pass.
template <class T, bool kBlock, bool kFits>
__global__ void __launch_bounds__(kBlock ? 1024 : 256)
    softmax_backward_rows(T* grad_x, const T* grad_y, const T* y, int64_t rows, int64_t length, int group,
                          bool packed, bool log) {
  using C = Compute<T>;
  constexpr int N = kWidest<T>, kPacks = kFits ? kRowPacks<T> / 2 : 1;
  RowTeam<kBlock> team(group);
  const RowSlice<T> slice(team, length, packed);
  const int64_t packs = kFits ? 1 : slice.packs();
  for (; team.any_row(rows); team.row += team.step) {
    const bool mine = team.row < rows;
    const int64_t base = team.row * length;
    Values<C, N> both[2][kPacks];
    auto &g = both[0], &v = both[1];
    const auto load = [&](int64_t j) { slice.load(both, {grad_y + base, y + base}, C(0), j); };
    C sum = 0;
    for (int64_t j = 0; mine && j < packs; ++j) {
      load(j);
      FASTDL_UNROLL
      for (int i = 0; i < kPacks; ++i) FASTDL_UNROLL
      for (int k = 0; k < N; ++k) sum += log ? g[i].v[k] : g[i].v[k] * v[i].v[k];
    }
    sum = team.sum(sum);
    for (int64_t j = 0; mine && j < packs; ++j) {
      if constexpr (!kFits) load(j);
      FASTDL_UNROLL
      for (int i = 0; i < kPacks; ++i) {
        FASTDL_UNROLL
        for (int k = 0; k < N; ++k) g[i].v[k] = slope<T>(g[i].v[k], v[i].v[k], sum, log);
        slice.store(grad_x + base, j + i, g[i]);
      }
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kColumns* kSplit, kColumnBlocks<T>)
    softmax_backward_columns(T* grad_x, const T* grad_y, const T* y, Classes shape, bool log) {
  using C = Compute<T>;
  for_each_column(shape, [&](const Column& column) {
    C sum = 0;
    column.each(
        [&](int64_t, const auto& g, const auto& v) {  // beyond the end g is 0
          FASTDL_UNROLL
          for (int i = 0; i < Column::kClasses<T>; ++i)
            sum += log ? C(widen(g.v[i])) : C(widen(g.v[i])) * C(widen(v.v[i]));
        },
        grad_y, y);
    sum = split_reduce(sum, Plus{});
    column.each(
        [&](int64_t c, const auto& g, const auto& v) {
          FASTDL_UNROLL
          for (int i = 0; i < Column::kClasses<T>; ++i)
            if (column.has(c, i))
              grad_x[column.place(c, i)] = narrow<T>(slope<T>(C(widen(g.v[i])), C(widen(v.v[i])), sum, log));
        },
        grad_y, y);
  });
}

}  // namespace

void softmax_forward(bool log, Dtype dtype, void* y, const void* x, Classes shape, Stream stream) {
  const int64_t rows = shape.positions(), length = shape.classes;
  if (rows * length == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    T* to = static_cast<T*>(y);
    const T* from = static_cast<const T*>(x);
    if (shape.inner > 1) {
      const ColumnPlan columns = plan_columns(shape);
      return launch("softmax_columns", softmax_columns<T>, columns.grid, columns.block, 0, stream, to, from,
                    shape, log);
    }
    const RowPlan plan = plan_rows(rows, length, kRowValues<T>);
    const bool packed = rows_packed<T>(length, {y, x});
    const dim3 grid(plan.grid), block(plan.threads);
    if (!plan.fits)
      launch("softmax_long", softmax_long<T>, grid, block, 0, stream, to, from, rows, length, packed, log);
    else if (plan.block)
      launch("softmax_rows", softmax_rows<T, true>, grid, block, 0, stream, to, from, rows, length, 0, packed,
             log);
    else
      launch("softmax_rows", softmax_rows<T, false>, grid, block, 0, stream, to, from, rows, length,
             plan.group, packed, log);
  });
}

void softmax_backward(bool log, Dtype dtype, void* grad_x, const void* grad_y, const void* y, Classes shape,
                      Stream stream) {
  const int64_t rows = shape.positions(), length = shape.classes;
  if (rows * length == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    T* to = static_cast<T*>(grad_x);
    const T *g = static_cast<const T*>(grad_y), *out = static_cast<const T*>(y);
    if (shape.inner > 1) {
      const ColumnPlan columns = plan_columns(shape);
      return launch("softmax_backward_columns", softmax_backward_columns<T>, columns.grid, columns.block, 0,
                    stream, to, g, out, shape, log);
    }
    const RowPlan plan = plan_rows(rows, length, kRowValues<T> / 2);  // two arrays share the registers
    const bool packed = rows_packed<T>(length, {grad_x, grad_y, y});
    const auto run = [&](auto kernel) {
      launch("softmax_backward_rows", kernel, dim3(plan.grid), dim3(plan.threads), 0, stream, to, g, out,
             rows, length, plan.group, packed, log);
    };
    if (!plan.fits)
      run(softmax_backward_rows<T, true, false>);
    else if (plan.block)
      run(softmax_backward_rows<T, true, true>);
    else
      run(softmax_backward_rows<T, false, true>);
  });
}

}  // namespace fastdl::cuda
