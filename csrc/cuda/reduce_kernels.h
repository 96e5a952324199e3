// Reductions over axes, for any policy (reduce_policy.h): five kernels, of which reduce_plan.h chooses.
//
// The innermost axis is reduced: short rows that do not start at multiples of 16 bytes come to shared memory
// as one piece (tiles), others have some lanes or a block each. It stays: threads have packs of neighbouring
// columns, and several share one where columns are few; the rows of a narrow matrix are read as one piece.
// With too few outputs to fill the device each is cut into slices, and a second launch merges them in order.
// x is read once, by 16 bytes wherever it can be, and a thread has up to 128 bytes on their way. Which operation
// a fold is gets asked once for what was loaded together: asked once for all, each would have all code of its own.
#pragma once

#include "cuda/reduce_plan.h"
#include "cuda/reduce_policy.h"
#include "cuda/rows.h"

namespace fastdl::cuda {
namespace {

struct Task {
  Axes kept, reduced;
  uint32_t outputs, packs;  // packs of the reduced elements of one output
  uint32_t slices, per_slice;
};

// Packs that a thread loads before it adds the first: `most`, or fewer where the policy's code is long.
template <class P>
constexpr int ahead(int most = 8) {
  if constexpr (requires { P::kAhead; })
    return P::kAhead < most ? P::kAhead : most;
  else
    return most;
}

// Calls visit(all) for some of the packs first + index, first + index + step, .. below end that were loaded
// together; all(f) calls f(i, pack i) for each of them. Whether all of the next ones are there is asked for the
// whole team, whose indices are below step.
template <int N, int kAhead, class T, class F>
__device__ __forceinline__ void each_pack(const T* from, const Axes& axes, uint32_t first, uint32_t index,
                                          uint32_t end, uint32_t step, F&& visit) {
  const int64_t stride = step * axes.first_stride;
  const auto some = [&]<int kCount, bool kWhole>(std::integral_constant<int, kCount>,
                                                 std::bool_constant<kWhole>, uint32_t start) {
    const uint32_t i = start + index;
    Loaded<T, N> loaded[kCount];
    const auto load = [&](int j, const T* at) {
      loaded[j] = Loaded<T, N>(*reinterpret_cast<const Pack<T, N>*>(at));
    };
    if (axes.others == 0) {
      const T* at = from + i * axes.first_stride;
      FASTDL_UNROLL
      for (int j = 0; j < kCount; ++j, at += stride)
        if (kWhole || i + j * step < end) load(j, at);
    } else {
      FASTDL_UNROLL
      for (int j = 0; j < kCount; ++j)
        if (kWhole || i + j * step < end) load(j, from + axes.offset(i + j * step));
    }
    visit([&](auto&& f) {
      FASTDL_UNROLL
      for (int j = 0; j < kCount; ++j)
        if (kWhole || i + j * step < end) f(i + j * step, loaded[j]);
    });
  };
  constexpr std::integral_constant<int, kAhead> many;
  constexpr std::integral_constant<int, (kAhead < 4 ? kAhead : 4)> few;
  uint32_t start = first;
  if constexpr (kAhead > 1)
    for (; start + many * step <= end; start += many * step) some(many, std::true_type{}, start);
  for (; start < end; start += few * step) some(few, std::false_type{}, start);
}

// Of rows in shared memory, of `width` accumulators each, the first becomes what they merge to.
template <class A, class P>
__device__ __forceinline__ void merge_shared(A* shared, uint32_t rows, uint32_t width, const P& policy) {
  const uint32_t threads = blockDim.x * blockDim.y, thread = threadIdx.y * blockDim.x + threadIdx.x;
  sync_threads();
  while (rows > 1) {
    const uint32_t half = (rows + 1) / 2;
    for (uint32_t i = thread; i < (rows - half) * width; i += threads)
      shared[i] = policy(shared[i], shared[i + half * width]);
    rows = half;
    sync_threads();
  }
}
template <class A, class P>
__device__ __forceinline__ A block_merge(A a, const P& policy) {
  FASTDL_SHARED(A, partial, 32);
  a = warp_reduce(a, policy);
  const int warps = int(blockDim.x) / 32;
  sync_threads();
  if (lane_id() == 0) partial[threadIdx.x / 32] = a;
  sync_threads();
  return warp_reduce(lane_id() < warps ? partial[lane_id()] : policy.start(), policy);
}

// ---- the innermost axis is reduced

// A block's rows, of the matrix x, are copied to shared memory; `group` lanes reduce one.
template <class T, class P>
__global__ void __launch_bounds__(256)
    reduce_tiles(P policy, const T* x, Task t, uint32_t rows, uint32_t group) {
  FASTDL_DYNAMIC_SHARED(T, tile);
  using C = Compute<T>;
  constexpr uint32_t N = kWidest<T>;
  const uint32_t first = blockIdx.x * rows, length = t.packs;
  const uint32_t mine = std::min(rows, t.outputs - first), size = mine * length;
  const T* from = x + int64_t(first) * length;
  for (uint32_t i = threadIdx.x; i < size / N; i += 256) cp_async_16(tile + i * N, from + i * N);
  for (uint32_t i = size / N * N + threadIdx.x; i < size; i += 256) tile[i] = from[i];
  cp_async_commit();
  cp_async_wait<0>();
  sync_threads();
  const uint32_t lane = threadIdx.x & (group - 1), shift = uint32_t(bits_of(group - 1));
  with_operation(policy, [&](const auto& fixed) {
    for (uint32_t row = threadIdx.x >> shift; row < rows; row += 256 >> shift) {
      const T* at = tile + (row < mine ? row : 0) * length;
      const C x0 = C(widen(*at));
      auto a = fixed.start();
      for (uint32_t k = lane; k < length; k += group) fixed.add(a, C(widen(at[k])), x0, k);
      a = lanes_reduce(a, int(group), fixed);
      if (row < mine && lane == 0) fixed.finish(first + row, a, x0);
    }
  });
}

template <class T, class P, int N, bool kBlock>
__global__ void __launch_bounds__(256)
    reduce_rows(P policy, typename P::Accumulator* partials, const T* x, Task t, int group) {
  using C = Compute<T>;
  RowTeam<kBlock> team(group);
  const int64_t items = kBlock ? int64_t(t.outputs) * t.slices : t.outputs;
  for (; team.any_row(items); team.row += team.step) {
    const bool mine = team.row < items;
    uint32_t output = mine ? uint32_t(team.row) : 0, slice = 0;
    if constexpr (kBlock) {
      const uint32_t item = output;
      output = item / t.slices;
      slice = item - output * t.slices;
    }
    const T* from = x + t.kept.offset(output);
    const C x0 = t.packs > 0 ? C(widen(*from)) : C(0);
    auto a = policy.start();
    const uint32_t first = slice * t.per_slice, end = mine ? std::min(t.packs, first + t.per_slice) : 0;
    const auto add = [&](const auto& all) {
      with_operation(policy, [&](const auto& fixed) {
        all([&](uint32_t i, const Loaded<T, N>& pack) {
          FASTDL_UNROLL
          for (int k = 0; k < N; ++k) fixed.add(a, C(widen(pack[k])), x0, i * N + k);
        });
      });
    };
    each_pack<N, ahead<P>(kBlock ? 8 : 4)>(from, t.reduced, first, uint32_t(team.index), end,
                                           uint32_t(team.size), add);
    if constexpr (kBlock)
      a = block_merge(a, policy);
    else
      a = lanes_reduce(a, team.size, policy);
    if (!mine || team.index != 0) continue;
    if (!kBlock || t.slices == 1)
      policy.finish(output, a, x0);
    else
      partials[team.row] = a;
  }
}
// ---- the innermost axis stays

// A block has blockDim.x packs of columns, each shared by blockDim.y threads.
template <class T, class P, int V>
__global__ void __launch_bounds__(512)
    reduce_columns(P policy, typename P::Accumulator* partials, const T* x, Task t) {
  FASTDL_DYNAMIC_SHARED(typename P::Accumulator, shared);
  using C = Compute<T>;
  const uint32_t width = blockDim.x * V, groups = (t.outputs + width - 1) / width;
  for (uint32_t item = blockIdx.x; item < groups * t.slices; item += gridDim.x) {
    const uint32_t slice = item / groups, start = (item - slice * groups) * width;
    const uint32_t output = start + threadIdx.x * V;
    const bool mine = output < t.outputs;
    const T* from = x + t.kept.offset(mine ? output : 0);
    typename P::Accumulator a[V];
    C x0[V];
    FASTDL_UNROLL
    for (int k = 0; k < V; ++k) {
      a[k] = policy.start();
      x0[k] = t.packs > 0 ? C(widen(from[k])) : C(0);
    }
    const uint32_t first = slice * t.per_slice, end = mine ? std::min(t.packs, first + t.per_slice) : 0;
    const auto add = [&](const auto& all) {
      with_operation(policy, [&](const auto& fixed) {
        all([&](uint32_t i, const Loaded<T, V>& pack) {
          FASTDL_UNROLL
          for (int k = 0; k < V; ++k) fixed.add(a[k], C(widen(pack[k])), x0[k], i);
        });
      });
    };
    each_pack<V, ahead<P>()>(from, t.reduced, first, threadIdx.y, end, blockDim.y, add);
    if (blockDim.y == 1) {  // then there are no slices
      if (!mine) continue;
      if constexpr (requires { policy.finish_side_by_side(output, a); }) {
        policy.finish_side_by_side(output, a);
      } else {
        FASTDL_UNROLL
        for (int k = 0; k < V; ++k) policy.finish(output + k, a[k], x0[k]);
      }
      continue;
    }
    sync_threads();  // the previous item's have been read
    FASTDL_UNROLL
    for (int k = 0; k < V; ++k) shared[threadIdx.y * width + threadIdx.x * V + k] = a[k];
    merge_shared(shared, blockDim.y, width, policy);
    for (uint32_t c = threadIdx.y * blockDim.x + threadIdx.x; c < width && start + c < t.outputs;
         c += blockDim.x * blockDim.y) {
      if (t.slices == 1)
        policy.finish(start + c, shared[c], t.packs > 0 ? C(widen(x[t.kept.offset(start + c)])) : C(0));
      else
        partials[int64_t(slice) * t.outputs + start + c] = shared[c];
    }
  }
}
struct Matrix {
  Divisor columns;
  uint32_t threads;  // at work: their packs are whole rows
  uint32_t rows;     // so many
  uint32_t rest;     // elements beyond the last pack
};
template <class T, class P>
__global__ void __launch_bounds__(256)
    reduce_matrix(P policy, typename P::Accumulator* partials, const T* x, Task t, Matrix m) {
  constexpr int V = kWidest<T>;
  FASTDL_SHARED(typename P::Accumulator, shared, 256 * V);
  using C = Compute<T>;
  const uint32_t n = m.columns.divisor, matrices = t.outputs / n, thread = threadIdx.x;
  const bool works = thread < m.threads;
  for (uint32_t item = blockIdx.x; item < matrices * t.slices; item += gridDim.x) {
    const uint32_t matrix = item / t.slices, slice = item - matrix * t.slices;
    const T* from = x + t.kept.offset(matrix * n);
    typename P::Accumulator a[V];
    C x0[V];
    uint32_t row[V];
    const uint32_t first = slice * t.per_slice, end = std::min(t.packs, first + t.per_slice);
    uint32_t passed = first / m.threads * m.rows;
    FASTDL_UNROLL
    for (int k = 0; k < V; ++k) {
      a[k] = policy.start();
      row[k] = m.columns.quotient(thread * V + k);
      x0[k] = C(widen(from[thread * V + k - row[k] * n]));
    }
    const auto add = [&](const auto& all) {
      with_operation(policy, [&](const auto& fixed) {
        all([&](uint32_t, const Loaded<T, V>& pack) {
          FASTDL_UNROLL
          for (int k = 0; k < V; ++k) fixed.add(a[k], C(widen(pack[k])), x0[k], row[k] + passed);
          passed += m.rows;
        });
      });
    };
    each_pack<V, ahead<P>()>(from, t.reduced, first, thread, works ? end : 0, m.threads, add);
    if (end == t.packs && (end - first) % m.threads == thread) {  // the next one's turn
      const T* last = from + int64_t(t.packs) * V;
      with_operation(policy, [&](const auto& fixed) {
        FASTDL_UNROLL
        for (int k = 0; k < V; ++k)
          if (uint32_t(k) < m.rest) fixed.add(a[k], C(widen(last[k])), x0[k], row[k] + passed);
      });
    }
    sync_threads();  // the previous item's have been read
    FASTDL_UNROLL
    for (int k = 0; k < V; ++k)
      if (works) shared[thread * V + k] = a[k];
    merge_shared(&shared[0], m.rows, n, policy);
    for (uint32_t c = thread; c < n; c += 256) {
      if (t.slices == 1)
        policy.finish(matrix * n + c, shared[c], C(widen(from[c])));
      else
        partials[int64_t(slice) * t.outputs + matrix * n + c] = shared[c];
    }
  }
}
// Partial results lie `of_output` and `of_slice` apart; blockDim.y threads share an output.
template <class T, class P>
__global__ void __launch_bounds__(256)
    reduce_slices(P policy, const typename P::Accumulator* partials, const T* x, Task t, int64_t of_output,
                  int64_t of_slice) {
  using C = Compute<T>;
  FASTDL_SHARED(typename P::Accumulator, shared, 256);
  const uint32_t output = blockIdx.x * blockDim.x + threadIdx.x;
  const bool mine = output < t.outputs;
  const typename P::Accumulator* from = partials + (mine ? output : 0) * of_output;
  auto a = policy.start();
  FASTDL_UNROLL_BY(4)
  for (uint32_t s = threadIdx.y; s < t.slices; s += blockDim.y) a = policy(a, from[s * of_slice]);
  shared[threadIdx.y * blockDim.x + threadIdx.x] = a;
  merge_shared(&shared[0], blockDim.y, blockDim.x, policy);
  if (mine && threadIdx.y == 0)
    policy.finish(output, shared[threadIdx.x], C(widen(x[t.kept.offset(output)])));
}

// ---- on the host

template <class T, class P>
void reduce(const char* op, const P& policy, const Reduce& problem, bool ordered, void* scratch,
            Stream stream) {
  using A = typename P::Accumulator;
  constexpr int kWide = kWidest<T>;
  const Plan plan = plan_of(problem, ordered);
  if (plan.outputs == 0) return;
  const T* x = static_cast<const T*>(problem.x);
  A* partials = static_cast<A*>(scratch);
  AxisList reduced = plan.reduced;
  const bool by_rows = plan.way <= Way::blocks, packed = plan.pack > 1;
  if (by_rows && packed) reduced.back() = {reduced.back().extent / kWide, kWide};
  Task t;
  t.kept = numbered(plan.kept);
  t.reduced = numbered(reduced);
  t.outputs = uint32_t(plan.outputs);
  t.packs = uint32_t(by_rows ? plan.length / plan.pack : plan.length);
  t.slices = uint32_t(plan.slices);
  t.per_slice = uint32_t(plan.per_slice);
  const dim3 block(plan.x, plan.y);
  switch (plan.way) {
    case Way::tiles:
      launch(op, reduce_tiles<T, P>, dim3(unsigned(ceil_div(plan.outputs, plan.rows))), block,
             size_t(plan.rows * plan.length) * sizeof(T), stream, policy, x, t, uint32_t(plan.rows),
             uint32_t(plan.group));
      return;
    case Way::lanes:
    case Way::blocks: {
      const bool blocks = plan.way == Way::blocks;
      const unsigned grid =
          blocks ? grid_for(plan.outputs * plan.slices, 1) : grid_for(plan.outputs, 256 / plan.group);
      const auto go = [&](auto kernel) {
        launch(op, kernel, dim3(grid), block, 0, stream, policy, partials, x, t, plan.group);
      };
      if (packed)
        blocks ? go(reduce_rows<T, P, kWide, true>) : go(reduce_rows<T, P, kWide, false>);
      else
        blocks ? go(reduce_rows<T, P, 1, true>) : go(reduce_rows<T, P, 1, false>);
      break;
    }
    case Way::columns: {
      const int64_t width = int64_t(plan.x) * plan.pack;
      const unsigned grid =
          grid_for(ceil_div(plan.outputs, width) * plan.slices, 1, int(2048 / (plan.x * plan.y)));
      launch(op, packed ? reduce_columns<T, P, kWide> : reduce_columns<T, P, 1>, dim3(grid), block,
             plan.y == 1 ? 0 : size_t(plan.y * width) * sizeof(A), stream, policy, partials, x, t);
      break;
    }
    case Way::matrix: {
      const int64_t n = plan.kept.back().extent, size = n * plan.length;
      const Matrix m{Divisor(uint32_t(n)), uint32_t(plan.group), uint32_t(plan.group * kWide / n),
                     uint32_t(size % kWide)};
      t.packs = uint32_t(size / kWide);
      t.reduced = numbered({{t.packs, kWide}});
      launch(op, reduce_matrix<T, P>, dim3(grid_for(plan.outputs / n * plan.slices, 1)), block, 0, stream,
             policy, partials, x, t, m);
      break;
    }
  }
  if (plan.slices == 1) return;
  // Slices of a row lie side by side, otherwise those of neighbouring outputs.
  const unsigned across = by_rows ? 1 : unsigned(std::min<int64_t>(32, power_of_two_below(plan.outputs)));
  launch(op, reduce_slices<T, P>, dim3(unsigned(ceil_div(plan.outputs, across))), dim3(across, 256 / across),
         0, stream, policy, static_cast<const A*>(partials), x, t, by_rows ? plan.slices : 1,
         by_rows ? 1 : plan.outputs);
}

}  // namespace
}  // namespace fastdl::cuda
