// gather: y[o, j, i] = x[o, index[o, j, i], i]. Its gradient adds entries with the same index, and scatter
// joins them by other operations, too; the order is that of j, so the bits are the same every time: a column
// (o, i) belongs to one thread where columns lie side by side, else to one warp, which takes 32 entries at a
// time and joins those of one index one after the other. (Few long columns of a gradient go to the sort of
// embedding.cu instead: gather_places numbers what is added to.)
#include "cuda/layout.h"

#include <algorithm>

#include "cuda/errors.h"
#include "cuda/rows.h"

namespace fastdl::cuda {
namespace {

constexpr uint64_t kGather = 5, kGatherBackward = 6, kScatter = 8;
constexpr int kThreads = 256;

template <class Word>
__global__ void __launch_bounds__(kThreads)
    gather(Word* y, const Word* x, const int64_t* index, Gather g, Report report) {
  const int64_t items = g.outer * g.count * g.inner;
  for (int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x; at < items;
       at += int64_t(gridDim.x) * kThreads) {
    const int64_t row = at / g.inner, i = at - row * g.inner, o = row / g.count, e = index[at];
    y[at] = report.out_of_range(at, e, g.extent) ? Word{} : x[(o * g.extent + e) * g.inner + i];
  }
}

template <class C>
__device__ __forceinline__ C joined(Join op, C a, C b) {
  switch (op) {
    case Join::prod:
      return a * b;
    case Join::amax:
      return larger(a, b);
    case Join::amin:
      return smaller(a, b);
    default:
      return a + b;
  }
}

// step: 1, or 0 where one element stands for the whole source.
template <class T>
__global__ void __launch_bounds__(kThreads)
    join_columns(Join op, Compute<T>* to, const T* source, int step, const int64_t* index, Gather g,
                 Divisor inner, Report report) {
  const uint32_t columns = uint32_t(g.outer * g.inner);
  for (uint32_t column = blockIdx.x * kThreads + threadIdx.x; column < columns;
       column += gridDim.x * kThreads) {
    const int64_t o = inner.quotient(column), i = column - o * g.inner;
    for (int64_t j = 0; j < g.count; ++j) {
      const int64_t at = (o * g.count + j) * g.inner + i, e = index[at];
      if (report.out_of_range(at, e, g.extent)) continue;
      Compute<T>& place = to[(o * g.extent + e) * g.inner + i];
      place = joined(op, place, Compute<T>(widen(source[at * step])));
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) join_warps(Join op, Compute<T>* to, const T* source, int step,
                                                       const int64_t* index, Gather g, Report report) {
  const int64_t columns = g.outer * g.inner;
  for (int64_t column = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32; column < columns;
       column += int64_t(gridDim.x) * (kThreads / 32)) {
    const int64_t o = column / g.inner, i = column - o * g.inner;
    for (int64_t first = 0; first < g.count; first += 32) {
      const int64_t j = first + lane_id(), at = (o * g.count + j) * g.inner + i;
      int64_t e = -1 - lane_id();  // no other lane's
      Compute<T> value = 0;
      if (j < g.count && !report.out_of_range(at, index[at], g.extent)) {
        e = index[at];
        value = Compute<T>(widen(source[at * step]));
      }
      int turn = 0;  // entries before this one with the same index
      for (int other = 0; other < 32; ++other) {
        const int64_t its = shuffle(e, other);
        turn += other < lane_id() && its == e;
      }
      for (int now = 0; ballot(turn >= now) != 0; ++now) {
        if (e >= 0 && turn == now) {
          Compute<T>& place = to[(o * g.extent + e) * g.inner + i];
          place = joined(op, place, value);
        }
        sync_warp();
      }
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    places(int64_t* keys, const int64_t* index, Gather g, Report report) {
  const int64_t items = g.outer * g.count * g.inner;
  for (int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x; at < items;
       at += int64_t(gridDim.x) * kThreads) {
    const int64_t row = at / g.inner, i = at - row * g.inner, o = row / g.count, e = index[at];
    keys[at] = report.out_of_range(at, e, g.extent) ? -1 : (o * g.extent + e) * g.inner + i;
  }
}

template <class T>
void join(const char* name, Join op, void* out, const void* from, int step, const int64_t* index,
          const Gather& g, Report report, Stream stream) {
  const int64_t columns = g.outer * g.inner;
  if (columns * g.count == 0) return;
  auto* to = static_cast<Compute<T>*>(out);
  const auto* source = static_cast<const T*>(from);
  if (g.inner >= 32 && columns < int64_t(1) << 31)
    launch(name, join_columns<T>, dim3(grid_for(columns, kThreads)), dim3(kThreads), 0, stream, op, to,
           source, step, index, g, Divisor(uint32_t(g.inner)), report);
  else
    launch(name, join_warps<T>, dim3(grid_for(columns, kThreads / 32)), dim3(kThreads), 0, stream, op, to,
           source, step, index, g, report);
}

}  // namespace

void gather_forward(int bytes, void* y, const void* x, const int64_t* index, const Gather& g,
                    uint64_t* report, Stream stream) {
  const int64_t items = g.outer * g.count * g.inner;
  if (items == 0) return;
  const auto run = [&]<class Word>(Word) {
    launch("gather", gather<Word>, dim3(grid_for(items, kThreads)), dim3(kThreads), 0, stream,
           static_cast<Word*>(y), static_cast<const Word*>(x), index, g, Report{report, kGather});
  };
  if (bytes == 8) return run(uint64_t{});
  if (bytes == 4) return run(uint32_t{});
  if (bytes == 2) return run(uint16_t{});
  run(uint8_t{});
}

void gather_backward(Dtype dtype, void* grad_x, const void* grad_y, const int64_t* index, const Gather& g,
                     uint64_t* report, Stream stream) {
  zero(grad_x, size_t(g.outer * g.extent * g.inner) * (dtype == Dtype::float64 ? 8 : 4), stream);
  by_dtype(dtype, [&]<class T>(T) {
    join<T>("gather_backward", Join::add, grad_x, grad_y, 1, index, g, Report{report, kGatherBackward},
            stream);
  });
}

void scatter_join(Join op, Dtype dtype, bool integers, void* out, const void* source, bool one,
                  const int64_t* index, const Gather& g, uint64_t* report, Stream stream) {
  const auto run = [&]<class T>(T) {
    join<T>("scatter", op, out, source, one ? 0 : 1, index, g, Report{report, kScatter}, stream);
  };
  integers ? run(int64_t{}) : by_dtype(dtype, run);
}

void gather_places(int64_t* keys, const int64_t* index, const Gather& g, uint64_t* report, Stream stream) {
  const int64_t items = g.outer * g.count * g.inner;
  if (items == 0) return;
  launch("gather_places", places, dim3(grid_for(items, kThreads)), dim3(kThreads), 0, stream, keys, index, g,
         Report{report, kGatherBackward});
}

}  // namespace fastdl::cuda
