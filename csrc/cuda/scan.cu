// y[o, k, i] = x[o, 0, i] joined with .. x[o, k, i]. What is accumulated is a policy, as in reduce.cu: an
// accumulator, an element as one, how two are joined (the earlier first), and what is written.
//
// Along the last axis a block scans a row: a thread joins neighbours, lanes go on by shuffles, warps through
// shared memory, and what came before is carried. Many short rows come to shared memory as one piece, and a
// thread scans each. Along another axis a thread scans a column; neighbouring threads have neighbouring ones.
// Where rows or columns are few and long, they are cut into chunks: then the chunks are joined and scanned
// before, and x is read twice. The order is fixed, so the bits are the same every time.
#include "cuda/scan.h"

#include <algorithm>

#include "cuda/accumulators.h"
#include "cuda/rows.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kChunk = 8192;  // of a row
constexpr int64_t kLeast = 32;    // elements of a column's chunk
constexpr int64_t kShort = 64;    // rows of a tile
constexpr int64_t kTileBytes = 40 << 10;

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
  template <int N>
  __device__ __forceinline__ void finish_pack(int64_t at, const C (&a)[N]) const {
    Pack<T, N> pack;
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) pack.v[k] = narrow<T>(a[k]);
    *reinterpret_cast<Pack<T, N>*>(y + at) = pack;
  }
  bool packed() const { return aligned(y, 16); }
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
  template <int N>
  __device__ __forceinline__ void finish_pack(int64_t at, const Exponentials<C> (&a)[N]) const {
    Pack<T, N> pack;
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) pack.v[k] = narrow<T>(a[k].logarithm());
    *reinterpret_cast<Pack<T, N>*>(y + at) = pack;
  }
  bool packed() const { return aligned(y, 16); }
};

template <class T>
struct Extreme {
  using C = Compute<T>;
  using Accumulator = Place<C>;
  T* values;
  int64_t* indices;
  bool largest;

  __device__ __forceinline__ Place<C> start() const {
    using Limits = std::numeric_limits<C>;
    if constexpr (Limits::has_infinity)
      return {largest ? -infinity<C>() : infinity<C>(), -1};
    else
      return {largest ? Limits::min() : Limits::max(), -1};
  }
  __device__ __forceinline__ Place<C> element(C x, int64_t index) const { return {x, index}; }
  // Does not depend on the order: of equals, and of several NaN, the later one counts.
  __device__ __forceinline__ Place<C> operator()(Place<C> a, Place<C> b) const {
    const bool nan_a = a.value != a.value, nan_b = b.value != b.value;
    const bool same = a.value == b.value || (nan_a && nan_b);
    const bool better = nan_b || (!nan_a && (largest ? b.value > a.value : b.value < a.value));
    return (same ? b.index > a.index : better) ? b : a;
  }
  __device__ __forceinline__ void finish(int64_t at, Place<C> a) const {
    values[at] = narrow<T>(a.value);
    indices[at] = a.index;
  }
  template <int N>
  __device__ __forceinline__ void finish_pack(int64_t at, const Place<C> (&a)[N]) const {
    Pack<T, N> pack;
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) pack.v[k] = narrow<T>(a[k].value);
    *reinterpret_cast<Pack<T, N>*>(values + at) = pack;
    FASTDL_UNROLL
    for (int k = 0; k < N; k += 2)
      *reinterpret_cast<Pack<int64_t, 2>*>(indices + at + k) = {{a[k].index, a[k + 1].index}};
  }
  bool packed() const { return aligned(values, 16) && aligned(indices, 16); }
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
__device__ __forceinline__ typename P::Accumulator as_accumulator(const P& policy, T x, int64_t place) {
  if constexpr (std::is_same_v<T, typename P::Accumulator>)
    return policy.element(x, place);
  else
    return policy.element(Compute<T>(widen(x)), place);
}

template <class T, class P>
__global__ void __launch_bounds__(kThreads)
    join_row_chunks(P policy, typename P::Accumulator* chunks, const T* x, Rows s) {
  for (int64_t item = blockIdx.x; item < s.rows * s.chunks; item += gridDim.x) {
    const int64_t row = item / s.chunks, start = (item - row * s.chunks) * s.chunk;
    const int64_t end = std::min(s.length, start + s.chunk);
    auto a = policy.start();
    for (int64_t i = start + threadIdx.x; i < end; i += kThreads)
      a = policy(a, as_accumulator(policy, x[s.at(row, i)], s.place(i)));
    a = block_reduce(a, policy.start(), policy);
    if (threadIdx.x == 0) chunks[item] = a;
  }
}

// Elements of a thread.
template <class T>
constexpr int kJoined = sizeof(T) <= 4 ? 8 : 4;

template <class A, class P>
__device__ __forceinline__ A joined_lanes(A a, int lanes, const P& policy) {
  for (int delta = 1; delta < lanes; delta *= 2) {
    const A other = shuffle_up(a, delta);
    if (lane_id() >= delta) a = policy(other, a);
  }
  return a;
}

// before: the row's chunks, scanned; null: one chunk is the row. N elements are moved at once: then all rows
// and chunks are whole packs.
template <class T, class P, int N>
__global__ void __launch_bounds__(kThreads)
    scan_rows(P policy, const T* x, const typename P::Accumulator* before, Rows s) {
  using A = typename P::Accumulator;
  constexpr int kEach = kJoined<T>, kPacks = kEach / N;
  FASTDL_SHARED(A, warp_totals, 2 * kThreads / 32);  // of this round and of the one before
  const int warp = int(threadIdx.x / 32), warps = int(blockDim.x / 32);
  int round = 0;
  for (int64_t item = blockIdx.x; item < s.rows * s.chunks; item += gridDim.x) {
    const int64_t row = item / s.chunks, c = item - row * s.chunks, start = c * s.chunk;
    const int64_t end = std::min(s.length, start + s.chunk);
    A carry = before != nullptr && c > 0 ? before[item - 1] : policy.start();
    for (int64_t first = start; first < end; first += int64_t(blockDim.x) * kEach, round ^= 1) {
      const int64_t mine = first + int64_t(threadIdx.x) * kEach;
      // Where pack q starts in memory; from the end its elements are in the opposite order.
      const auto place = [&](int q) { return s.place(mine + q * N) - (s.from_end ? N - 1 : 0); };
      Loaded<T, N> loaded[kPacks];
      FASTDL_UNROLL
      for (int q = 0; q < kPacks; ++q)
        if (mine + q * N < end)
          loaded[q] = Loaded<T, N>(*reinterpret_cast<const Pack<T, N>*>(x + row * s.length + place(q)));
      A a[kEach];
      FASTDL_UNROLL
      for (int k = 0; k < kEach; ++k) {
        const int q = k / N, j = k % N;
        a[k] = policy.start();
        if (mine + q * N < end) {
          const T element = s.from_end ? loaded[q][N - 1 - j] : loaded[q][j];
          a[k] = as_accumulator(policy, element, s.place(mine + k));
        }
        if (k > 0) a[k] = policy(a[k - 1], a[k]);
      }
      const A until = joined_lanes(a[kEach - 1], 32, policy);
      A previous = shuffle_up(until, 1), total = shuffle(until, 31);
      if (lane_id() == 0) previous = policy.start();
      A ahead = carry;
      if (warps > 1) {
        const int at = round * (kThreads / 32);
        if (lane_id() == 0) warp_totals[at + warp] = total;
        sync_threads();
        const A of_warps =
            joined_lanes(lane_id() < warps ? warp_totals[at + lane_id()] : policy.start(), warps, policy);
        const A of_previous = shuffle(of_warps, warp == 0 ? 0 : warp - 1);
        if (warp > 0) ahead = policy(carry, of_previous);
        total = shuffle(of_warps, warps - 1);
      }
      ahead = policy(ahead, previous);
      carry = policy(carry, total);
      FASTDL_UNROLL
      for (int q = 0; q < kPacks; ++q) {
        if (mine + q * N >= end) break;
        A done[N];
        FASTDL_UNROLL
        for (int j = 0; j < N; ++j) done[j] = policy(ahead, a[q * N + (s.from_end ? N - 1 - j : j)]);
        const int64_t at = row * s.length + place(q);
        if constexpr (N > 1)
          policy.template finish_pack<N>(at, done);
        else
          policy.finish(at, done[0]);
      }
    }
  }
}

// A block's short rows: a thread scans each of them in shared memory. Rows there are an odd number of
// accumulators, so that neighbouring threads find different banks.
template <class T, class P>
__global__ void __launch_bounds__(kThreads)
    scan_tiles(P policy, const T* x, int64_t rows, uint32_t length, Divisor by_length, bool from_end) {
  using A = typename P::Accumulator;
  FASTDL_DYNAMIC_SHARED(A, tile);
  const int64_t first = int64_t(blockIdx.x) * blockDim.x;
  const uint32_t mine = uint32_t(std::min<int64_t>(blockDim.x, rows - first)), size = mine * length;
  const uint32_t pitch = length | 1, step = blockDim.x;
  const int64_t start = first * length;
  constexpr int kAhead = 4;
  for (uint32_t i = threadIdx.x; i < size; i += kAhead * step) {
    T loaded[kAhead];
    FASTDL_UNROLL
    for (int j = 0; j < kAhead; ++j)
      if (i + j * step < size) loaded[j] = x[start + i + j * step];
    FASTDL_UNROLL
    for (int j = 0; j < kAhead; ++j)
      if (i + j * step < size) {
        const uint32_t row = by_length.quotient(i + j * step), k = i + j * step - row * length;
        tile[row * pitch + k] = as_accumulator(policy, loaded[j], k);
      }
  }
  sync_threads();
  if (threadIdx.x < mine) {
    A* const at = tile + threadIdx.x * pitch;
    A a = policy.start();
    for (uint32_t i = 0; i < length; ++i) {
      const uint32_t k = from_end ? length - 1 - i : i;
      a = policy(a, at[k]);
      at[k] = a;
    }
  }
  sync_threads();
  for (uint32_t i = threadIdx.x; i < size; i += step) {
    const uint32_t row = by_length.quotient(i);
    policy.finish(start + i, tile[row * pitch + i - row * length]);
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
      a = policy(a, as_accumulator(policy, x[s.at(row, k) * inner + (item - part * inner)], s.place(k)));
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
      a = policy(a, as_accumulator(policy, x[at], s.place(k)));
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

template <class T, class P, int N = 1>
void launch_rows(const char* op, const P& policy, const T* x, const typename P::Accumulator* before,
                 const Rows& s, Stream stream) {
  const int64_t wanted = ceil_div(std::min(s.length, s.chunk), kJoined<T>);
  const int threads = wanted >= kThreads ? kThreads : int(wanted + 31) / 32 * 32;
  launch(op, scan_rows<T, P, N>, dim3(grid_for(s.rows * s.chunks, 1, 16)), dim3(unsigned(threads)), 0, stream,
         policy, x, before, s);
}

// Are rows so short, and so many, that a thread each is enough?
template <class T, class P>
bool scanned_tiles(const char* op, const P& policy, const T* x, const Running& p, Stream stream) {
  const int64_t row = (p.length | 1) * int64_t(sizeof(typename P::Accumulator));
  if (p.length > kShort || 32 * row > kTileBytes || p.outer >= int64_t(1) << 36) return false;
  int64_t threads = kThreads;
  while (threads * row > kTileBytes) threads /= 2;
  launch(op, scan_tiles<T, P>, dim3(unsigned(ceil_div(p.outer, threads))), dim3(unsigned(threads)),
         size_t(threads * row), stream, policy, x, p.outer, uint32_t(p.length), Divisor(uint32_t(p.length)),
         p.from_end);
  return true;
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
    if (scanned_tiles(op, policy, x, p, stream)) return;
    if (chunks != nullptr) {
      launch(op, join_row_chunks<T, P>, dim3(grid_for(p.outer * s.chunks, 1)), dim3(kThreads), 0, stream,
             policy, chunks, x, s);
      launch_rows<A>(op, joined, before, nullptr, of_chunks, stream);
    }
    if (p.length % kWidest<T> == 0 && aligned(x, 16) && policy.packed())
      return launch_rows<T, P, kWidest<T>>(op, policy, x, before, s, stream);
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
