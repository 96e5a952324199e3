// Reductions over the rows of a matrix: who works on a row, and in which registers it lies.
//
// Short rows go to groups of 1, 2, .. 32 lanes, so that a warp works on 32 to 1 of them; longer ones have a
// block each. A row of up to kRowValues elements per thread is held in registers between passes over it:
// memory is read once. Elements are moved in 16-byte packs where every row starts at a multiple of them;
// otherwise lanes take single elements side by side. Partial results are combined in a fixed order.
#pragma once

#include "cuda/numeric.h"

namespace fastdl::cuda {

// Over the `size` lanes of aligned groups (1, 2, .. 32): all of the warp's lanes take part. (A loop is less code than
// five questions.)
template <class C, class F>
__device__ __forceinline__ C lanes_reduce(C v, int size, F f) {
  FASTDL_ROLLED
  for (int mask = size / 2; mask > 0; mask /= 2) v = f(v, shuffle_xor(v, mask));
  return v;
}
// The same of a known size, so that several of these overlap.
template <int kSize, class C, class F>
__device__ __forceinline__ C lanes_reduce(C v, F f) {
  FASTDL_UNROLL
  for (int mask = kSize / 2; mask > 0; mask /= 2) v = f(v, shuffle_xor(v, mask));
  return v;
}
template <class C, class F>
__device__ __forceinline__ C warp_reduce(C v, F f) {
  return lanes_reduce<32>(v, f);
}
// Over a block of one dimension; every thread has the result.
template <class C, class F>
__device__ __forceinline__ C block_reduce(C v, C identity, F f) {
  FASTDL_SHARED(C, partial, 32);
  v = warp_reduce(v, f);
  const int warps = int(blockDim.x) / 32;
  if (warps == 1) return v;
  sync_threads();  // the previous reduction has been read
  if (lane_id() == 0) partial[threadIdx.x / 32] = v;
  sync_threads();
  return warp_reduce(lane_id() < warps ? partial[lane_id()] : identity, f);
}

struct Plus {
  template <class C>
  __device__ __forceinline__ C operator()(C a, C b) const {
    return a + b;
  }
};
// Two sums over a block of one dimension; every thread has the results.
template <class C>
__device__ __forceinline__ void block_sums(C (&v)[2]) {
  FASTDL_SHARED(C, partial, 64);
  FASTDL_UNROLL
  for (int i = 0; i < 2; ++i) v[i] = warp_reduce(v[i], Plus{});
  const int warps = int(blockDim.x) / 32, lane = lane_id();
  if (warps == 1) return;
  sync_threads();  // the previous reduction has been read
  if (lane == 0) {
    FASTDL_UNROLL
    for (int i = 0; i < 2; ++i) partial[32 * i + int(threadIdx.x) / 32] = v[i];
  }
  sync_threads();
  FASTDL_UNROLL
  for (int i = 0; i < 2; ++i) v[i] = warp_reduce(lane < warps ? partial[32 * i + lane] : C(0), Plus{});
}
struct Larger {
  template <class C>
  __device__ __forceinline__ C operator()(C a, C b) const {
    return larger(a, b);
  }
};

// The running maximum m and s = sum of exp(x - m): one pass for softmax and its relatives.
template <class T>
struct Online {
  using C = Compute<T>;
  C m = -infinity<C>(), s = 0;

  // All elements so far -inf: they count for nothing, and exp(-inf - -inf) would be NaN.
  __device__ __forceinline__ void rescale(C maximum) {
    if (m != maximum) {
      s *= exponential<T>(m - maximum);
      m = maximum;
    }
  }
  template <int N>
  __device__ __forceinline__ void add(const Values<C, N>& x) {
    C maximum = m;
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) maximum = larger(maximum, x.v[k]);
    if (maximum == -infinity<C>()) return;
    rescale(maximum);
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) s += exponential<T>(x.v[k] - m);
  }
};

// Who works on a row.
template <bool kBlock>
struct RowTeam {
  int size, index;    // threads on the row, and which of them this one is
  int64_t row, step;  // the first row, and how far to the next
  int before = 0;     // teams of the warp with lower lanes

  __device__ __forceinline__ explicit RowTeam(int group) {
    if constexpr (kBlock) {
      size = int(blockDim.x);
      index = int(threadIdx.x);
      row = blockIdx.x;
      step = gridDim.x;
    } else {
      // A group is a power of two: divisions by others are some thirty instructions each.
      const int shift = bits_of(uint32_t(group) - 1);
      size = group;
      index = int(threadIdx.x) & (group - 1);
      const uint32_t per_block = blockDim.x >> shift;
      row = int64_t(blockIdx.x) * per_block + (threadIdx.x >> shift);
      step = int64_t(gridDim.x) * per_block;
      before = int(threadIdx.x & 31) >> shift;
    }
  }
  // Threads of a warp whose row does not exist still take part in its shuffles: loop while any has one.
  __device__ __forceinline__ bool any_row(int64_t rows) const {
    if constexpr (kBlock)
      return row < rows;
    else
      return row - before < rows;  // the first row of the warp
  }
  template <class C, class F>
  __device__ __forceinline__ C reduce(C v, C identity, F f) const {
    if constexpr (kBlock)
      return block_reduce(v, identity, f);
    else
      return lanes_reduce(v, size, f);
  }
  template <class C>
  __device__ __forceinline__ C sum(C v) const {
    return reduce(v, C(0), Plus{});
  }
  template <class C>
  __device__ __forceinline__ void sum(C (&v)[2]) const {
    if constexpr (kBlock) {
      block_sums(v);
    } else {
      FASTDL_ROLLED
      for (int mask = size / 2; mask > 0; mask /= 2) {
        FASTDL_UNROLL
        for (int i = 0; i < 2; ++i) v[i] += shuffle_xor(v[i], mask);
      }
    }
  }
  template <class T>
  __device__ __forceinline__ void reduce(Online<T>& o) const {
    using C = Compute<T>;
    const C m = reduce(o.m, -infinity<C>(), Larger{});
    if (m != -infinity<C>()) o.rescale(m);
    o.s = sum(o.s);
  }
};

// Elements a thread keeps in registers.
template <class T>
constexpr int kRowValues = sizeof(Compute<T>) == 8 ? 8 : 16;
template <class T>
constexpr int kRowPacks = kRowValues<T> / kWidest<T>;

struct RowPlan {
  bool block;  // a block per row, else a group of lanes
  bool fits;   // the row fits in the registers of its team
  int group, threads;
  unsigned grid;
};
inline RowPlan plan_rows(int64_t rows, int64_t length, int values) {
  RowPlan p{};
  p.block = length > 32 * values;
  if (p.block) {
    const int64_t wanted = (length + values - 1) / values;
    p.threads = wanted > 1024 ? 1024 : int(wanted + 31) / 32 * 32;
    p.fits = int64_t(p.threads) * values >= length;
    const int64_t most = int64_t(multiprocessors()) * (2048 / p.threads);
    p.grid = unsigned(rows < most ? rows : most);
  } else {
    // As few lanes as hold the row, so that none has packs beyond its end, but lines of 128 bytes side by
    // side.
    p.group = 1;
    while (p.group < 32 && (int64_t(p.group) * values < length || (p.group < 8 && p.group * 4 < length)))
      p.group *= 2;
    p.threads = 256;
    p.fits = true;
    p.grid = grid_for(rows, p.threads / p.group);
  }
  return p;
}

template <class T>
bool rows_packed(int64_t length, std::initializer_list<const void*> arrays) {
  if (length % kWidest<T> != 0) return false;
  for (const void* array : arrays)
    if (!aligned(array, 16)) return false;
  return true;
}

// Pack j of a thread: N consecutive elements of the row (packed), or N elements side by side with the team's
// others. Where j is an int, places are 32-bit: rows that registers hold.
template <class T>
struct RowSlice {
  static constexpr int N = kWidest<T>;
  using C = Compute<T>;
  int64_t length;
  int size, index;
  bool packed;

  template <bool kBlock>
  __device__ __forceinline__ RowSlice(const RowTeam<kBlock>& team, int64_t length, bool packed)
      : length(length), size(team.size), index(team.index), packed(packed) {}
  __device__ __forceinline__ int64_t packs() const {
    return (length + int64_t(size) * N - 1) / (int64_t(size) * N);
  }
  template <class J>
  __device__ __forceinline__ J element(J j, int k) const {
    return packed ? (j * size + index) * N + k : (j * N + k) * size + index;
  }
  // Is element k of pack j one of the row? Packs as a whole, where they are moved as one.
  template <class J>
  __device__ __forceinline__ bool inside(J j, int k) const {
    return (packed ? element(j, 0) : element(j, k)) < J(length);
  }
  template <class J>
  __device__ __forceinline__ Values<C, N> load(const T* row, J j, C fill) const {
    Values<C, N> r;
    const J first = element(j, 0);
    if (packed) {
      if (first < J(length)) {
        const auto pack = *reinterpret_cast<const Pack<T, N>*>(row + first);
        FASTDL_UNROLL
        for (int k = 0; k < N; ++k) r.v[k] = widen(pack.v[k]);
      } else {
        FASTDL_UNROLL
        for (int k = 0; k < N; ++k) r.v[k] = fill;
      }
    } else {
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) {
        const J i = first + k * size;
        r.v[k] = i < J(length) ? C(widen(row[i])) : fill;
      }
    }
    return r;
  }
  // Packs from, from + 1, .. of some rows: all are on their way before one is waited for.
  template <int kRows, int kPacks, class J = int>
  __device__ __forceinline__ void load(Values<C, N> (&v)[kRows][kPacks], const T* const (&rows)[kRows],
                                       C fill, J from = 0) const {
    if (!packed) {
      FASTDL_UNROLL
      for (int j = 0; j < kPacks; ++j) FASTDL_UNROLL
      for (int r = 0; r < kRows; ++r) v[r][j] = load(rows[r], from + j, fill);
      return;
    }
    Loaded<T, N> loaded[kRows][kPacks];
    FASTDL_UNROLL
    for (int j = 0; j < kPacks; ++j) FASTDL_UNROLL
    for (int r = 0; r < kRows; ++r)
      if (inside(from + j, 0))
        loaded[r][j] = Loaded<T, N>(*reinterpret_cast<const Pack<T, N>*>(rows[r] + element(from + j, 0)));
    FASTDL_UNROLL
    for (int j = 0; j < kPacks; ++j) FASTDL_UNROLL
    for (int r = 0; r < kRows; ++r) FASTDL_UNROLL
    for (int k = 0; k < N; ++k) v[r][j].v[k] = inside(from + j, 0) ? C(widen(loaded[r][j][k])) : fill;
  }
  // Calls f(j, pack j of each row) for all packs of one or two rows that no registers hold, and perhaps for
  // one more, which is beyond the end. Two packs are on their way.
  template <class F, class... Row>
  __device__ __forceinline__ void each(C fill, F&& f, const Row*... rows) const {
    constexpr int kAhead = 2 / sizeof...(Row);
    const T* const all[] = {rows...};
    for (int64_t j = 0, end = packs(); j < end; j += kAhead) {
      Values<C, N> v[sizeof...(Row)][kAhead];
      load(v, all, fill, j);
      FASTDL_UNROLL
      for (int i = 0; i < kAhead; ++i) {
        if constexpr (sizeof...(Row) == 1)
          f(j + i, v[0][i]);
        else
          f(j + i, v[0][i], v[1][i]);
      }
    }
  }
  __device__ __forceinline__ void store_pack(T* row, int64_t first, const Values<C, N>& x) const {
    Pack<T, N> pack;
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) pack.v[k] = narrow<T>(x.v[k]);
    *reinterpret_cast<Pack<T, N>*>(row + first) = pack;
  }
  template <class J>
  __device__ __forceinline__ void store(T* row, J j, const Values<C, N>& x) const {
    const J first = element(j, 0);
    if (packed) {
      if (first < J(length)) store_pack(row, first, x);
    } else {
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) {
        const J i = first + k * size;
        if (i < J(length)) row[i] = narrow<T>(x.v[k]);
      }
    }
  }
};

// Packs of any row, for passes that keep nothing of it in registers. A row may start anywhere within 16 bytes:
// what lies before the first and behind the last aligned pack is moved element by element. Arrays used with one
// slice must start alike.
template <class T>
struct ShiftedSlice {
  static constexpr int N = kWidest<T>;
  int64_t whole, ends;  // packs; elements at the row's ends
  int size, index, head;

  template <bool kBlock>
  __device__ __forceinline__ ShiftedSlice(const RowTeam<kBlock>& team, int64_t length, const T* row,
                                          bool vectors)
      : size(team.size), index(team.index) {
    const int skew = int(reinterpret_cast<uintptr_t>(row) / sizeof(T) % N);
    head = skew == 0 ? 0 : N - skew;
    whole = vectors && length > head ? (length - head) / N : 0;
    if (whole == 0) head = 0;
    ends = length - whole * N;
  }
  // Calls packs(kAll, first, stride) for this thread's packs, kAhead at a time, which start at the elements
  // first + i stride; where kAll is false only those below `end()` are there. Then element(i) for those at the
  // ends.
  template <int kAhead, class Packs, class Element>
  __device__ __forceinline__ void each(Packs&& packs, Element&& element) const {
    const int64_t stride = int64_t(size) * N, last = end();
    int64_t first = head + int64_t(index) * N;
    for (; first + (kAhead - 1) * stride < last; first += kAhead * stride)
      packs(std::true_type{}, first, stride);
    if (first < last) packs(std::false_type{}, first, stride);
    for (int64_t i = index; i < ends; i += size) element(i < head ? i : i + whole * N);
  }
  __device__ __forceinline__ int64_t end() const { return head + whole * N; }
  // As they lie in memory: nothing waits for them yet.
  template <bool kAll, int kAhead>
  __device__ __forceinline__ void fetch(std::bool_constant<kAll>, Loaded<T, N> (&packs)[kAhead], const T* row,
                                        int64_t first, int64_t stride) const {
    FASTDL_UNROLL
    for (int i = 0; i < kAhead; ++i)
      if (kAll || first + i * stride < end())
        packs[i] = Loaded<T, N>(*reinterpret_cast<const Pack<T, N>*>(row + first + i * stride));
  }
  static __device__ __forceinline__ void store(T* row, int64_t first, const Values<Compute<T>, N>& x) {
    Pack<T, N> pack;
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) pack.v[k] = narrow<T>(x.v[k]);
    store_16(row + first, &pack);
  }
};

// May a ShiftedSlice of one array serve the other: do packs of 16 bytes lie alike in both?
inline bool start_alike(const void* a, const void* b) {
  return (reinterpret_cast<uintptr_t>(a) - reinterpret_cast<uintptr_t>(b)) % 16 == 0;
}

// A block of positions side by side, each shared by some threads: reductions over axes that are not the last
// one. Neighbouring threads read neighbouring positions. Blocks are kColumns x kSplit, or 2 or 4 or 8 times as
// wide with so many times fewer threads a position.
constexpr int kColumns = 32, kSplit = 8;

template <class C, class F>
__device__ __forceinline__ C split_reduce(C v, F f) {
  FASTDL_SHARED(C, partial, kSplit * kColumns);
  const int columns = int(blockDim.x), split = int(blockDim.y);
  if (split == 1) return v;
  sync_threads();  // the previous reduction has been read
  partial[int(threadIdx.y) * columns + int(threadIdx.x)] = v;
  sync_threads();
  C r = partial[threadIdx.x];
  FASTDL_UNROLL
  for (int i = 1; i < kSplit; ++i)
    if (i < split) r = f(r, partial[i * columns + int(threadIdx.x)]);
  return r;
}
template <class T>
__device__ __forceinline__ void split_reduce(Online<T>& o) {
  using C = Compute<T>;
  const C m = split_reduce(o.m, Larger{});
  if (m != -infinity<C>()) o.rescale(m);
  o.s = split_reduce(o.s, Plus{});
}

// Where position p starts: (p / inner) * classes * inner + p % inner.
__device__ __forceinline__ int64_t position_start(const Classes& shape, int64_t p) {
  const bool narrow = shape.positions() < int64_t(1)
                                              << 31;  // 64-bit divisions take some hundred instructions
  const int64_t outer = narrow ? int64_t(uint32_t(p) / uint32_t(shape.inner)) : p / shape.inner;
  return outer * (shape.classes - 1) * shape.inner + p;
}

// A position and the part of its classes that this thread has, a few at a time: number(c, i) is c + i split.
struct Column {
  template <class T>
  static constexpr int kClasses = sizeof(T) == 8 ? 4 : 8;
  int64_t position, base, inner, end;
  int split;
  bool mine;  // else there is no such position, but the thread takes part in reductions

  __device__ __forceinline__ int64_t number(int64_t c, int i) const { return c + i * split; }
  __device__ __forceinline__ bool has(int64_t c, int i) const { return number(c, i) < end; }
  __device__ __forceinline__ int64_t place(int64_t c, int i) const {
    return base + c * inner + i * (split * inner);
  }
  // Calls f(first class, values of each array there, as many as it has): all are loaded before one is used.
  template <class F, class T, class... More>
  __device__ __forceinline__ void each(F&& f, const T* array, const More*... arrays) const {
    for (int64_t c = threadIdx.y; c < end; c += kClasses<T> * split) f(c, load(array, c), load(arrays, c)...);
  }
  template <class T>
  __device__ __forceinline__ Pack<T, kClasses<T>> load(const T* array, int64_t c) const {
    Pack<T, kClasses<T>> r{};
    FASTDL_UNROLL
    for (int i = 0; i < kClasses<T>; ++i)
      if (has(c, i)) r.v[i] = array[place(c, i)];
    return r;
  }
};
template <class F>
__device__ __forceinline__ void for_each_column(const Classes& shape, F&& f) {
  const int64_t positions = shape.positions();
  const int columns = int(blockDim.x);
  for (int64_t first = int64_t(blockIdx.x) * columns; first < positions;
       first += int64_t(gridDim.x) * columns) {
    const int64_t p = first + threadIdx.x;
    const bool mine = p < positions;
    f(Column{p, mine ? position_start(shape, p) : 0, shape.inner, mine ? shape.classes : 0, int(blockDim.y),
             mine});
  }
}

// Four blocks on a multiprocessor leave a thread registers for kClasses loads of two arrays.
template <class T>
constexpr int kColumnBlocks = sizeof(T) == 8 ? 2 : 4;

struct ColumnPlan {
  dim3 grid, block;
};
// Threads share a position where there are too few positions for the device, or many classes, but have four
// classes at least.
inline ColumnPlan plan_columns(const Classes& shape) {
  int64_t split = 1;
  const int64_t positions = shape.positions(), wanted = 1024 * int64_t(multiprocessors());
  while (split < kSplit && shape.classes >= 8 * split &&
         (positions * split < wanted || shape.classes > 32 * split))
    split *= 2;
  const int64_t columns = kColumns * kSplit / split;
  return {dim3(grid_for(positions, columns, 64)), dim3(unsigned(columns), unsigned(split))};
}

}  // namespace fastdl::cuda
