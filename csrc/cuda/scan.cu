// y[o, k, i] = x[o, 0, i] joined with .. x[o, k, i]. What is accumulated is a policy, as in reduce.cu: an
// accumulator, an element as one, how two are joined (the earlier first), and what is written.
//
// Along the last axis a block scans a row: lanes by shuffles, warps through shared memory, and what came
// before is carried. Along another axis a thread scans a column; neighbouring threads have neighbouring
// ones. Where rows or columns are few and long, they are cut into chunks: then the chunks are joined and
// scanned before, and x is read twice. The order is fixed, so the bits are the same every time.
#include "cuda/scan.h"

#include <algorithm>

#include "cuda/accumulators.h"
#include "cuda/rows.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kChunk = 8192;  // of a row
constexpr int64_t kLeast = 32;    // elements of a column's chunk

template <class T>
struct SumOrProduct {
  using C = Compute<T>;
  using Accumulator = C;
  T* y;
  bool product;

  __device__ __forceinline__ C start() const { return C(product); }
  __device__ __forceinline__ C element(C x, int64_t) const { return x; }
  __device__ __forceinline__ C operator()(C a, C b) const { return product ? a * b : a + b; }
  __device__ __forceinline__ void finish(int64_t at, C a) const { y[at] = narrow<T>(a); }
};

template <class T>
struct LogSumExp {
  using C = Compute<T>;
  using Accumulator = Exponentials<C>;
  T* y;

  __device__ __forceinline__ Exponentials<C> start() const { return {-infinity<C>(), 0}; }
  __device__ __forceinline__ Exponentials<C> element(C x, int64_t) const { return {x, 1}; }
  __device__ __forceinline__ Exponentials<C> operator()(Exponentials<C> a, Exponentials<C> b) const {
    return a.joined(b);
  }
  __device__ __forceinline__ void finish(int64_t at, Exponentials<C> a) const {
    y[at] = narrow<T>(a.logarithm());
  }
};

template <class T>
struct Extreme {
  using C = Compute<T>;
  using Accumulator = Place<C>;
  T* values;
  int64_t* indices;
  bool largest;

  __device__ __forceinline__ Place<C> start() const { return {0, -1}; }
  __device__ __forceinline__ Place<C> element(C x, int64_t index) const { return {x, index}; }
  // Does not depend on the order: of equals, and of several NaN, the later one counts.
  __device__ __forceinline__ Place<C> operator()(Place<C> a, Place<C> b) const {
    if (b.index < 0) return a;
    if (a.index < 0) return b;
    const bool nan_a = a.value != a.value, nan_b = b.value != b.value;
    if (nan_a != nan_b) return nan_a ? a : b;
    if (nan_a || a.value == b.value) return a.index > b.index ? a : b;
    return (a.value > b.value) == largest ? a : b;
  }
  __device__ __forceinline__ void finish(int64_t at, Place<C> a) const {
    values[at] = narrow<T>(a.value);
    indices[at] = a.index;
  }
};

// Chunks' accumulators, scanned in place.
template <class P>
struct OfChunks : P {
  using A = typename P::Accumulator;
  A* chunks;

  __device__ __forceinline__ A element(A a, int64_t) const { return a; }
  __device__ __forceinline__ void finish(int64_t at, A a) const { chunks[at] = a; }
};

struct Rows {
  int64_t rows, length, chunk, chunks;
  bool from_end;

  // Element i of a row in the order of joining.
  __device__ __forceinline__ int64_t at(int64_t row, int64_t i) const { return row * length + place(i); }
  __device__ __forceinline__ int64_t place(int64_t i) const { return from_end ? length - 1 - i : i; }
};

template <class P, class T>
__device__ __forceinline__ typename P::Accumulator load_element(const P& policy, const T* x, int64_t at,
                                                                int64_t place) {
  if constexpr (std::is_same_v<T, typename P::Accumulator>)
    return policy.element(x[at], place);
  else
    return policy.element(Compute<T>(widen(x[at])), place);
}

template <class T, class P>
__global__ void __launch_bounds__(kThreads)
    join_row_chunks(P policy, typename P::Accumulator* chunks, const T* x, Rows s) {
  for (int64_t item = blockIdx.x; item < s.rows * s.chunks; item += gridDim.x) {
    const int64_t row = item / s.chunks, start = (item - row * s.chunks) * s.chunk;
    const int64_t end = std::min(s.length, start + s.chunk);
    auto a = policy.start();
    for (int64_t i = start + threadIdx.x; i < end; i += kThreads)
      a = policy(a, load_element(policy, x, s.at(row, i), s.place(i)));
    a = block_reduce(a, policy.start(), policy);
    if (threadIdx.x == 0) chunks[item] = a;
  }
}

// before: the row's chunks, scanned; null: one chunk is the row.
template <class T, class P>
__global__ void __launch_bounds__(1024)
    scan_rows(P policy, const T* x, const typename P::Accumulator* before, Rows s) {
  using A = typename P::Accumulator;
  FASTDL_SHARED(A, warp_totals, 32);
  const int warp = int(threadIdx.x / 32), warps = int(blockDim.x / 32);
  for (int64_t item = blockIdx.x; item < s.rows * s.chunks; item += gridDim.x) {
    const int64_t row = item / s.chunks, c = item - row * s.chunks, start = c * s.chunk;
    const int64_t end = std::min(s.length, start + s.chunk);
    A carry = before != nullptr && c > 0 ? before[item - 1] : policy.start();
    for (int64_t first = start; first < end; first += blockDim.x) {
      const int64_t i = first + threadIdx.x;
      A a = i < end ? load_element(policy, x, s.at(row, i), s.place(i)) : policy.start();
      FASTDL_UNROLL
      for (int delta = 1; delta < 32; delta *= 2) {
        const A other = shuffle_up(a, delta);
        if (lane_id() >= delta) a = policy(other, a);
      }
      if (lane_id() == 31) warp_totals[warp] = a;
      sync_threads();
      A total = policy.start(), mine = carry;
      for (int w = 0; w < warps; ++w) {
        if (w < warp) mine = policy(mine, warp_totals[w]);
        total = policy(total, warp_totals[w]);
      }
      sync_threads();
      if (i < end) policy.finish(s.at(row, i), policy(mine, a));
      carry = policy(carry, total);
    }
  }
}

template <class T, class P>
__global__ void __launch_bounds__(kThreads)
    join_column_chunks(P policy, typename P::Accumulator* chunks, const T* x, Rows s, int64_t inner) {
  const int64_t items = s.rows * s.chunks * inner;
  for (int64_t item = int64_t(blockIdx.x) * kThreads + threadIdx.x; item < items;
       item += int64_t(gridDim.x) * kThreads) {
    const int64_t part = item / inner, row = part / s.chunks, start = (part - row * s.chunks) * s.chunk;
    const int64_t end = std::min(s.length, start + s.chunk);
    auto a = policy.start();
    for (int64_t k = start; k < end; ++k)
      a = policy(a, load_element(policy, x, s.at(row, k) * inner + (item - part * inner), s.place(k)));
    chunks[item] = a;
  }
}

template <class T, class P>
__global__ void __launch_bounds__(kThreads)
    scan_columns(P policy, const T* x, const typename P::Accumulator* before, Rows s, int64_t inner) {
  const int64_t items = s.rows * s.chunks * inner;
  for (int64_t item = int64_t(blockIdx.x) * kThreads + threadIdx.x; item < items;
       item += int64_t(gridDim.x) * kThreads) {
    const int64_t part = item / inner, row = part / s.chunks, c = part - row * s.chunks;
    const int64_t end = std::min(s.length, (c + 1) * s.chunk);
    auto a = before != nullptr && c > 0 ? before[item - inner] : policy.start();
    for (int64_t k = c * s.chunk; k < end; ++k) {
      const int64_t at = s.at(row, k) * inner + (item - part * inner);
      a = policy(a, load_element(policy, x, at, s.place(k)));
      policy.finish(at, a);
    }
  }
}

// ---- on the host

// Rows, or columns, are cut where there are too few for the device.
Rows rows_of(const Running& p) {
  int64_t chunk = p.length;
  if (p.inner == 1) {
    if (p.length > 2 * kChunk && p.outer < 2 * multiprocessors()) chunk = kChunk;
  } else if (const int64_t wanted = 1024 * int64_t(multiprocessors()); 2 * p.outer * p.inner <= wanted) {
    const int64_t chunks = std::min(wanted / std::max<int64_t>(1, p.outer * p.inner), p.length / kLeast);
    if (chunks > 1) chunk = (p.length + chunks - 1) / chunks;
  }
  return {p.outer, p.length, chunk, chunk == 0 ? 0 : (p.length + chunk - 1) / chunk, p.from_end};
}

template <class T, class P>
void launch_rows(const char* op, const P& policy, const T* x, const typename P::Accumulator* before,
                 const Rows& s, Stream stream) {
  const int64_t length = std::min(s.length, s.chunk);
  const int threads = length >= 1024 ? 1024 : int(length + 31) / 32 * 32;
  launch(op, scan_rows<T, P>, dim3(grid_for(s.rows * s.chunks, 1, 16)), dim3(unsigned(threads)), 0, stream,
         policy, x, before, s);
}

template <class T, class P>
void scan(const char* op, const P& policy, const void* from, const Running& p, void* scratch, Stream stream) {
  using A = typename P::Accumulator;
  if (p.outer * p.length * p.inner == 0) return;
  const T* x = static_cast<const T*>(from);
  const Rows s = rows_of(p), of_chunks{p.outer, s.chunks, s.chunks, 1, false};
  A* const chunks = s.chunks == 1 ? nullptr : static_cast<A*>(scratch);
  const OfChunks<P> joined{policy, chunks};
  const A* const before = chunks;
  if (p.inner == 1) {
    if (chunks != nullptr) {
      launch(op, join_row_chunks<T, P>, dim3(grid_for(p.outer * s.chunks, 1)), dim3(kThreads), 0, stream,
             policy, chunks, x, s);
      launch_rows<A>(op, joined, before, nullptr, of_chunks, stream);
    }
    return launch_rows<T>(op, policy, x, before, s, stream);
  }
  const dim3 grid(grid_for(p.outer * s.chunks * p.inner, kThreads));
  if (chunks != nullptr) {
    launch(op, join_column_chunks<T, P>, grid, dim3(kThreads), 0, stream, policy, chunks, x, s, p.inner);
    launch(op, scan_columns<A, OfChunks<P>>, dim3(grid_for(p.outer * p.inner, kThreads)), dim3(kThreads), 0,
           stream, joined, before, static_cast<const A*>(nullptr), of_chunks, p.inner);
  }
  launch(op, scan_columns<T, P>, grid, dim3(kThreads), 0, stream, policy, x, before, s, p.inner);
}

}  // namespace

int64_t running_scratch(const Running& p) {
  const Rows s = rows_of(p);
  return s.chunks <= 1 ? 0 : p.outer * s.chunks * p.inner * int64_t(sizeof(Place<double>));
}

void running(Scan op, Dtype dtype, void* y, const void* x, const Running& p, void* scratch, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    T* to = static_cast<T*>(y);
    if (op == Scan::logsumexp)
      scan<T>("running_logsumexp", LogSumExp<T>{to}, x, p, scratch, stream);
    else
      scan<T>("running", SumOrProduct<T>{to, op == Scan::product}, x, p, scratch, stream);
  });
}

void running_extreme(bool largest, Dtype dtype, bool integers, void* values, int64_t* indices, const void* x,
                     const Running& p, void* scratch, Stream stream) {
  const auto run = [&]<class T>(T) {
    scan<T>("running_extreme", Extreme<T>{static_cast<T*>(values), indices, largest}, x, p, scratch, stream);
  };
  integers ? run(int64_t{}) : by_dtype(dtype, run);
}

}  // namespace fastdl::cuda
