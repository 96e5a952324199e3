// gather: y[o, j, i] = x[o, index[o, j, i], i]. Its gradient adds entries with the same index; the order is
// that of j, so the bits are the same every time: a column (o, i) belongs to one thread where columns lie
// side by side, else to one warp, which takes 32 entries at a time and adds those of one index one after the
// other. (Few long columns go to the sort of embedding.cu instead: gather_places numbers what is added to.)
//
// running_sum: y[o, k, i] = x[o, 0, i] + .. + x[o, k, i]. Along the last axis a block scans a row, along
// another one a thread a column. Where these are few and long, they are cut into chunks: then the chunks'
// sums are scanned before, and x is read twice.
#include "cuda/layout.h"

#include <algorithm>

#include "cuda/errors.h"
#include "cuda/rows.h"

namespace fastdl::cuda {
namespace {

constexpr uint64_t kGather = 5, kGatherBackward = 6;
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

template <class T>
__global__ void __launch_bounds__(kThreads)
    gather_add_columns(Compute<T>* grad_x, const T* grad_y, const int64_t* index, Gather g, Divisor inner,
                       Report report) {
  const uint32_t columns = uint32_t(g.outer * g.inner);
  for (uint32_t column = blockIdx.x * kThreads + threadIdx.x; column < columns;
       column += gridDim.x * kThreads) {
    const int64_t o = inner.quotient(column), i = column - o * g.inner;
    for (int64_t j = 0; j < g.count; ++j) {
      const int64_t at = (o * g.count + j) * g.inner + i, e = index[at];
      if (!report.out_of_range(at, e, g.extent))
        grad_x[(o * g.extent + e) * g.inner + i] += Compute<T>(widen(grad_y[at]));
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    gather_add_warps(Compute<T>* grad_x, const T* grad_y, const int64_t* index, Gather g, Report report) {
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
        value = Compute<T>(widen(grad_y[at]));
      }
      int turn = 0;  // entries before this one with the same index
      for (int other = 0; other < 32; ++other) {
        const int64_t its = shuffle(e, other);
        turn += other < lane_id() && its == e;
      }
      for (int now = 0; ballot(turn >= now) != 0; ++now) {
        if (e >= 0 && turn == now) grad_x[(o * g.extent + e) * g.inner + i] += value;
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

// ---- running sums

constexpr int64_t kChunk = 8192;  // of a row
constexpr int64_t kLeast = 32;    // elements of a column's chunk

struct Scan {
  int64_t rows, length, chunk, chunks;
  bool from_end;

  // Element i of a row in the order of adding.
  __device__ __forceinline__ int64_t at(int64_t row, int64_t i) const {
    return row * length + (from_end ? length - 1 - i : i);
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads) chunk_sums(Compute<T>* sums, const T* x, Scan s) {
  using C = Compute<T>;
  for (int64_t item = blockIdx.x; item < s.rows * s.chunks; item += gridDim.x) {
    const int64_t row = item / s.chunks, start = (item - row * s.chunks) * s.chunk;
    const int64_t end = std::min(s.length, start + s.chunk);
    C sum = 0;
    for (int64_t i = start + threadIdx.x; i < end; i += kThreads) sum += C(widen(x[s.at(row, i)]));
    sum = block_reduce(sum, C(0), Plus{});
    if (threadIdx.x == 0) sums[item] = sum;
  }
}

// before: the running sums of the row's chunks; null: one chunk is the row.
template <class T>
__global__ void __launch_bounds__(1024) scan_rows(T* y, const T* x, const Compute<T>* before, Scan s) {
  using C = Compute<T>;
  FASTDL_SHARED(C, warp_sums, 32);
  const int warp = int(threadIdx.x / 32), warps = int(blockDim.x / 32);
  for (int64_t item = blockIdx.x; item < s.rows * s.chunks; item += gridDim.x) {
    const int64_t row = item / s.chunks, c = item - row * s.chunks, start = c * s.chunk;
    const int64_t end = std::min(s.length, start + s.chunk);
    C carry = before != nullptr && c > 0 ? before[item - 1] : C(0);
    for (int64_t first = start; first < end; first += blockDim.x) {
      const int64_t i = first + threadIdx.x;
      C sum = i < end ? C(widen(x[s.at(row, i)])) : C(0);
      FASTDL_UNROLL
      for (int delta = 1; delta < 32; delta *= 2) {
        const C other = shuffle_up(sum, delta);
        if (lane_id() >= delta) sum += other;
      }
      if (lane_id() == 31) warp_sums[warp] = sum;
      sync_threads();
      C total = 0, mine = carry;
      for (int w = 0; w < warps; ++w) {
        if (w < warp) mine += warp_sums[w];
        total += warp_sums[w];
      }
      sync_threads();
      if (i < end) y[s.at(row, i)] = narrow<T>(mine + sum);
      carry += total;
    }
  }
}

// Along another axis than the last: neighbouring threads have neighbouring columns.
template <class T>
__global__ void __launch_bounds__(kThreads)
    column_chunk_sums(Compute<T>* sums, const T* x, Scan s, int64_t inner) {
  using C = Compute<T>;
  const int64_t items = s.rows * s.chunks * inner;
  for (int64_t item = int64_t(blockIdx.x) * kThreads + threadIdx.x; item < items;
       item += int64_t(gridDim.x) * kThreads) {
    const int64_t part = item / inner, row = part / s.chunks, start = (part - row * s.chunks) * s.chunk;
    const int64_t end = std::min(s.length, start + s.chunk);
    C sum = 0;
    for (int64_t k = start; k < end; ++k) sum += C(widen(x[s.at(row, k) * inner + (item - part * inner)]));
    sums[item] = sum;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    scan_columns(T* y, const T* x, const Compute<T>* before, Scan s, int64_t inner) {
  using C = Compute<T>;
  const int64_t items = s.rows * s.chunks * inner;
  for (int64_t item = int64_t(blockIdx.x) * kThreads + threadIdx.x; item < items;
       item += int64_t(gridDim.x) * kThreads) {
    const int64_t part = item / inner, row = part / s.chunks, c = part - row * s.chunks;
    const int64_t end = std::min(s.length, (c + 1) * s.chunk);
    C sum = before != nullptr && c > 0 ? before[item - inner] : C(0);
    for (int64_t k = c * s.chunk; k < end; ++k) {
      const int64_t at = s.at(row, k) * inner + (item - part * inner);
      sum += C(widen(x[at]));
      y[at] = narrow<T>(sum);
    }
  }
}

// Rows, or columns, are cut where there are too few for the device.
Scan scan_of(int64_t rows, int64_t length, int64_t inner, bool from_end) {
  int64_t chunk = length;
  if (inner == 1) {
    if (length > 2 * kChunk && rows < 2 * multiprocessors()) chunk = kChunk;
  } else if (const int64_t wanted = 1024 * int64_t(multiprocessors()); 2 * rows * inner <= wanted) {
    const int64_t chunks = std::min(wanted / std::max<int64_t>(1, rows * inner), length / kLeast);
    if (chunks > 1) chunk = (length + chunks - 1) / chunks;
  }
  return {rows, length, chunk, chunk == 0 ? 0 : (length + chunk - 1) / chunk, from_end};
}

template <class T>
void launch_scan(T* y, const T* x, const Compute<T>* before, const Scan& s, Stream stream) {
  const int64_t items = s.rows * s.chunks, length = std::min(s.length, s.chunk);
  const int threads = length >= 1024 ? 1024 : int(length + 31) / 32 * 32;
  launch("running_sum", scan_rows<T>, dim3(grid_for(items, 1, 16)), dim3(unsigned(threads)), 0, stream, y, x,
         before, s);
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
  const int64_t columns = g.outer * g.inner;
  if (columns * g.count == 0) return;
  const Report bad{report, kGatherBackward};
  by_dtype(dtype, [&]<class T>(T) {
    auto* to = static_cast<Compute<T>*>(grad_x);
    const auto* from = static_cast<const T*>(grad_y);
    if (g.inner >= 32 && columns < int64_t(1) << 31)
      launch("gather_backward", gather_add_columns<T>, dim3(grid_for(columns, kThreads)), dim3(kThreads), 0,
             stream, to, from, index, g, Divisor(uint32_t(g.inner)), bad);
    else
      launch("gather_backward", gather_add_warps<T>, dim3(grid_for(columns, kThreads / 32)), dim3(kThreads),
             0, stream, to, from, index, g, bad);
  });
}

void gather_places(int64_t* keys, const int64_t* index, const Gather& g, uint64_t* report, Stream stream) {
  const int64_t items = g.outer * g.count * g.inner;
  if (items == 0) return;
  launch("gather_places", places, dim3(grid_for(items, kThreads)), dim3(kThreads), 0, stream, keys, index, g,
         Report{report, kGatherBackward});
}

int64_t running_sum_scratch(int64_t outer, int64_t length, int64_t inner) {
  const Scan s = scan_of(outer, length, inner, false);
  return s.chunks <= 1 ? 0 : outer * s.chunks * inner;
}

void running_sum(Dtype dtype, void* y, const void* x, int64_t outer, int64_t length, int64_t inner,
                 bool from_end, void* scratch, Stream stream) {
  if (outer * length * inner == 0) return;
  const Scan s = scan_of(outer, length, inner, from_end);
  const Scan of_chunks{outer, s.chunks, s.chunks, 1, false};
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    auto* to = static_cast<T*>(y);
    const auto* from = static_cast<const T*>(x);
    auto* sums = s.chunks == 1 ? nullptr : static_cast<C*>(scratch);
    if (inner == 1) {
      if (sums != nullptr) {
        launch("running_sum_chunks", chunk_sums<T>, dim3(grid_for(outer * s.chunks, 1)), dim3(kThreads), 0,
               stream, sums, from, s);
        launch_scan<C>(sums, sums, nullptr, of_chunks, stream);
      }
      return launch_scan<T>(to, from, sums, s, stream);
    }
    const dim3 grid(grid_for(outer * s.chunks * inner, kThreads));
    if (sums != nullptr) {
      launch("running_sum_chunks", column_chunk_sums<T>, grid, dim3(kThreads), 0, stream, sums, from, s,
             inner);
      launch("running_sum_chunks", scan_columns<C>, dim3(grid_for(outer * inner, kThreads)), dim3(kThreads),
             0, stream, sums, static_cast<const C*>(sums), static_cast<const C*>(nullptr), of_chunks, inner);
    }
    launch("running_sum", scan_columns<T>, grid, dim3(kThreads), 0, stream, to, from,
           static_cast<const C*>(sums), s, inner);
  });
}

}  // namespace fastdl::cuda
