// Elements become entries: a key of unsigned bits in the order asked for, and the place in the row. No two are
// equal, so any way of sorting is stable and gives the same bits every time.
//
// Tiles of up to 2048 entries are sorted bitonically, pairs less than 64 apart in a warp's registers, others in
// shared memory; of few entries asked for, only as many runs are kept as can have one of them. A longer row
// is many tiles: where few are asked for, the first of each tile are a shorter row, again; otherwise sorted
// runs are merged in pairs. A block makes 2048 entries of such a pair, and finds by a search in 32 parts
// which ones of both runs these are.
#include "cuda/sort.h"

#include <algorithm>

#include "cuda/numeric.h"

namespace fastdl::cuda {
namespace {

constexpr uint32_t kTile = 2048, kRun = 64, kLeast = 512;  // entries of a block at most, of a warp, at least
constexpr int64_t kFew = 256;                              // so many of a row need no whole sort
constexpr int kMergers = 256, kEach = int(kTile) / kMergers;

// A narrow entry is one number.
struct Wide {
  uint64_t key;
  uint32_t place, unused;
};
template <class T>
using Entry = std::conditional_t<sizeof(T) == 4, uint64_t, Wide>;

__device__ __forceinline__ bool before(uint64_t a, uint64_t b) {
  return a < b;
}
__device__ __forceinline__ bool before(const Wide& a, const Wide& b) {
  return a.key < b.key || (a.key == b.key && a.place < b.place);
}
__device__ __forceinline__ uint32_t place_of(uint64_t a) {
  return uint32_t(a);
}
__device__ __forceinline__ uint32_t place_of(const Wide& a) {
  return a.place;
}

template <class T>
__device__ __forceinline__ Entry<T> entry_of(T x, uint32_t place, bool descending) {
  using Bits = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  constexpr Bits kSign = Bits(1) << (8 * sizeof(T) - 1);
  Bits key;
  memcpy(&key, &x, sizeof(T));
  if constexpr (std::is_floating_point_v<T>) {
    if (x == 0) key = 0;  // both zeros
    key = x != x ? ~Bits(0) : key & kSign ? ~key : key | kSign;
  } else {
    key ^= kSign;
  }
  if (descending) key = ~key;
  if constexpr (sizeof(T) == 4)
    return uint64_t(key) << 32 | place;
  else
    return {key, place, 0};
}
// Behind all others.
template <class E>
__device__ __forceinline__ E nothing() {
  if constexpr (sizeof(E) == 8)
    return ~uint64_t(0);
  else
    return {~uint64_t(0), ~uint32_t(0), 0};
}

// Where entries come from: the elements, or entries made before.
template <class T>
struct Elements {
  const T* x;
  bool descending;
  __device__ __forceinline__ Entry<T> operator()(int64_t row, uint32_t n, uint32_t i) const {
    return entry_of(x[row * n + i], i, descending);
  }
};
template <class E>
struct Entries {
  const E* entries;
  __device__ __forceinline__ E operator()(int64_t row, uint32_t n, uint32_t i) const {
    return entries[row * n + i];
  }
};
// Where they go to: number i of a part of a row, of which `most` are kept.
template <class T>
struct Results {
  T* values;
  int64_t* indices;
  const T* x;
  int64_t n;
  __device__ __forceinline__ void operator()(int64_t row, uint32_t most, uint32_t i, Entry<T> e) const {
    const uint32_t place = place_of(e);
    values[row * most + i] = x[row * n + place];
    indices[row * most + i] = place;
  }
};
template <class E>
struct Kept {
  E* entries;
  __device__ __forceinline__ void operator()(int64_t row, uint32_t most, uint32_t i, E e) const {
    entries[row * most + i] = e;
  }
};

template <class E>
__device__ __forceinline__ void in_order(E& a, E& b, bool ascending) {
  if (before(b, a) == ascending) {
    const E t = a;
    a = b;
    b = t;
  }
}
// One step: the partner in the lane `distance` away has the other half of a pair.
template <class E>
__device__ __forceinline__ E with_lane(E mine, int distance, bool ascending) {
  const E other = shuffle_xor(mine, distance);
  const bool first = ((lane_id() & distance) == 0) == ascending;
  return before(other, mine) == first ? other : mine;
}

// The part of a bitonic merge, of runs of `length`, that stays within 64 entries: a lane has two, 32 apart.
template <class E>
__device__ __forceinline__ void merge_in_warp(E& a, E& b, uint32_t at, uint32_t length, int distance) {
  const bool up_a = (at & length) == 0, up_b = ((at + 32) & length) == 0;
  if (distance == 32) in_order(a, b, up_a);
  FASTDL_UNROLL
  for (int d = 16; d > 0; d /= 2) {
    if (d > distance) continue;
    a = with_lane(a, d, up_a);
    b = with_lane(b, d, up_b);
  }
}

struct Tiles {
  int64_t parts;  // of all rows
  uint32_t n, per_row, size, keep, most;
};

// Several parts of rows, one behind the other, `size` entries each: the first `keep` (a power of two) of each
// are sorted, and `most` of them go on.
template <class E, class From, class To>
__global__ void __launch_bounds__(int(kTile) / 2) sort_tiles(From from, To to, Tiles t) {
  FASTDL_DYNAMIC_SHARED(E, s);
  const uint32_t threads = blockDim.x, thread = threadIdx.x, parts = 2 * threads / t.size;
  const uint32_t at = thread / 32 * kRun + (thread & 31), local = at & (t.size - 1);
  for (int64_t start = int64_t(blockIdx.x) * parts; start < t.parts; start += int64_t(gridDim.x) * parts) {
    const int64_t part = start + at / t.size, row = part / t.per_row;
    const uint32_t first = uint32_t(part - row * t.per_row) * t.size + local;
    const auto load = [&](uint32_t i) {
      return part < t.parts && i < t.n ? from(row, t.n, i) : nothing<E>();
    };
    E a = load(first), b = load(first + 32);
    FASTDL_UNROLL
    for (uint32_t length = 2; length <= kRun; length *= 2)
      merge_in_warp(a, b, local, length, int(length) / 2);
    s[at] = a, s[at + 32] = b;
    sync_threads();
    // Merges runs of `length`, up or down by where they stand.
    const auto merge = [&](uint32_t length, uint32_t current) {
      for (uint32_t distance = length / 2; distance >= kRun; distance /= 2) {
        const uint32_t i = 2 * thread - (thread & (distance - 1));
        in_order(s[i], s[i + distance], (i & (t.size - 1) & length) == 0);
        sync_threads();
      }
      if (local < current) {
        a = s[at], b = s[at + 32];
        merge_in_warp(a, b, local, length, 32);
        s[at] = a, s[at + 32] = b;
      }
      sync_threads();
    };
    for (uint32_t length = 2 * kRun; length <= t.keep; length *= 2) merge(length, t.size);
    // Of a run up and one down, element by element, the smaller ones are the first of both.
    const uint32_t halves = t.size / 2, mine = thread & (halves - 1), base = thread / halves * t.size;
    for (uint32_t current = t.size; current > t.keep;) {
      current /= 2;
      const uint32_t i = base + 2 * mine - (mine & (t.keep - 1));
      E best = nothing<E>();
      if (mine < current) best = before(s[i], s[i + t.keep]) ? s[i] : s[i + t.keep];
      sync_threads();
      if (mine < current) s[base + mine] = best;
      sync_threads();
      merge(t.keep, current);
    }
    for (uint32_t i = thread; i < parts * t.most; i += threads) {
      const uint32_t which = i / t.most, k = i - which * t.most;
      if (start + which < t.parts) to(start + which, t.most, k, s[which * t.size + k]);
    }
    sync_threads();
  }
}

// How many of the first `d` entries of both runs together, merged, are those of a: a warp asks at 32 places
// at a time.
template <class E>
__device__ __forceinline__ uint32_t share_of(const E* a, uint32_t of_a, const E* b, uint32_t of_b,
                                             uint32_t d) {
  uint32_t low = d > of_b ? d - of_b : 0, high = std::min(d, of_a);
  while (low < high) {
    const auto place = [&](int lane) {
      return low + uint32_t(uint64_t(high - low) * uint32_t(lane + 1) / 33);
    };
    const uint32_t i = place(lane_id());
    const uint32_t votes = ballot(before(a[i], b[d - 1 - i]));  // first ones that are, then ones that are not
    int yes = votes == ~0u ? 32 : 0;
    for (int more = 16; more > 0 && yes < 32; more /= 2)
      if (votes >> (yes + more - 1) & 1) yes += more;
    const uint32_t new_low = yes > 0 ? place(yes - 1) + 1 : low;
    if (yes < 32) high = place(yes);
    low = new_low;
  }
  return low;
}

// Where an entry lies in shared memory: threads kEach entries apart are to find different banks.
__device__ __forceinline__ uint32_t spread(uint32_t i) {
  return i + i / 16;
}

// A block's entries of two neighbouring runs merged.
template <class E, class To>
__global__ void __launch_bounds__(kMergers)
    merge_runs(const E* entries, To to, int64_t rows, uint32_t n, uint32_t run, uint32_t most) {
  FASTDL_DYNAMIC_SHARED(E, s);
  FASTDL_SHARED(uint32_t, split, 2);
  const uint32_t per_row = (most + kTile - 1) / kTile, thread = threadIdx.x;
  for (int64_t item = blockIdx.x; item < rows * per_row; item += gridDim.x) {
    const int64_t row = item / per_row;
    const uint32_t start = uint32_t(item - row * per_row) * kTile, pair = start / (2 * run) * (2 * run);
    const E* a = entries + row * n + pair;
    const uint32_t of_a = std::min(run, n - pair), of_b = std::min(run, n - pair - of_a);
    const E* b = a + of_a;
    const uint32_t d = start - pair, size = of_a + of_b - d < kTile ? of_a + of_b - d : kTile;
    if (thread < 64) {
      const uint32_t share = share_of(a, of_a, b, of_b, d + thread / 32 * size);
      if (lane_id() == 0) split[thread / 32] = share;
    }
    sync_threads();
    const uint32_t a0 = split[0], mine_a = split[1] - a0, b0 = d - a0, mine_b = size - mine_a;
    for (uint32_t i = thread; i < size; i += kMergers)
      s[spread(i)] = i < mine_a ? a[a0 + i] : b[b0 + i - mine_a];
    sync_threads();
    const uint32_t first = std::min(thread * kEach, size);
    uint32_t low = first > mine_b ? first - mine_b : 0, high = std::min(first, mine_a);
    while (low < high) {
      const uint32_t middle = (low + high) / 2;
      if (before(s[spread(middle)], s[spread(mine_a + first - 1 - middle)]))
        low = middle + 1;
      else
        high = middle;
    }
    uint32_t i = low, j = first - low;
    E merged[kEach];
    FASTDL_UNROLL
    for (int k = 0; k < kEach; ++k) {
      const bool from_a = j >= mine_b || (i < mine_a && before(s[spread(i)], s[spread(mine_a + j)]));
      const uint32_t at = from_a ? i++ : mine_a + j++;
      merged[k] = s[spread(at < kTile ? at : 0)];  // beyond the end nobody looks
    }
    sync_threads();
    FASTDL_UNROLL
    for (int k = 0; k < kEach; ++k)
      if (first + k < size) s[spread(first + k)] = merged[k];
    sync_threads();
    for (uint32_t k = thread; k < size; k += kMergers)
      if (start + k < most) to(row, most, start + k, s[spread(k)]);
    sync_threads();
  }
}

// ---- on the host

uint32_t power_of_two_from(int64_t n, uint32_t least) {
  uint32_t p = least;
  while (p < n) p *= 2;
  return p;
}
bool by_first_ones(const Sort& p) {
  return p.k <= kFew || p.n <= int64_t(kTile);
}

template <class E, class From, class To>
void launch_tiles(const From& from, const To& to, int64_t rows, int64_t n, int64_t most, Stream stream) {
  const uint32_t size = std::min(kTile, power_of_two_from(n, kRun));
  const uint32_t all = std::max(size, kLeast);  // entries of a block
  const int64_t per_row = ceil_div(n, size);
  const Tiles t{
      rows * per_row, uint32_t(n), uint32_t(per_row), size, std::min(size, power_of_two_from(most, kRun)),
      uint32_t(most)};
  launch("sort", sort_tiles<E, From, To>, dim3(grid_for(t.parts, all / size, 64)), dim3(all / 2),
         all * sizeof(E), stream, from, to, t);
}

template <class T>
void sort_as(T* values, int64_t* indices, const T* x, const Sort& p, void* scratch, Stream stream) {
  using E = Entry<T>;
  const Elements<T> elements{x, p.descending};
  const Results<T> results{values, indices, x, p.n};
  if (p.n <= int64_t(kTile)) return launch_tiles<E>(elements, results, p.rows, p.n, p.k, stream);
  E* one = static_cast<E*>(scratch);
  if (by_first_ones(p)) {
    int64_t n = ceil_div(p.n, kTile) * p.k;
    E* other = one + p.rows * n;
    launch_tiles<E>(elements, Kept<E>{one}, p.rows, p.n, p.k, stream);
    for (; n > int64_t(kTile); n = ceil_div(n, kTile) * p.k, std::swap(one, other))
      launch_tiles<E>(Entries<E>{one}, Kept<E>{other}, p.rows, n, p.k, stream);
    return launch_tiles<E>(Entries<E>{one}, results, p.rows, n, p.k, stream);
  }
  const int64_t n = ceil_div(p.n, kTile) * kTile;  // whole tiles
  E* other = one + p.rows * n;
  launch_tiles<E>(elements, Kept<E>{one}, p.rows, p.n, kTile, stream);
  const auto merge = [&](const auto& to, int64_t run, int64_t most) {
    launch("sort", merge_runs<E, std::decay_t<decltype(to)>>,
           dim3(grid_for(p.rows * ceil_div(most, kTile), 1, 64)), dim3(kMergers),
           (kTile + kTile / 16) * sizeof(E), stream, static_cast<const E*>(one), to, p.rows, uint32_t(n),
           uint32_t(run), uint32_t(most));
  };
  int64_t run = kTile;
  for (; 2 * run < n; run *= 2, std::swap(one, other)) merge(Kept<E>{other}, run, n);
  merge(results, run, p.k);
}

template <class F>
void by_key(SortKey type, F&& f) {
  switch (type) {
    case SortKey::float32:
      return f(float{});
    case SortKey::float64:
      return f(double{});
    case SortKey::int32:
      return f(int32_t{});
    case SortKey::int64:
      return f(int64_t{});
  }
}

}  // namespace

int64_t sort_scratch(SortKey type, const Sort& p) {
  if (p.n <= int64_t(kTile)) return 0;
  const int64_t tiles = ceil_div(p.n, kTile),
                item = type == SortKey::float32 || type == SortKey::int32 ? 8 : 16;
  return p.rows * item * 2 * tiles * (by_first_ones(p) ? p.k : int64_t(kTile));
}

void sort(SortKey type, void* values, int64_t* indices, const void* x, const Sort& p, void* scratch,
          Stream stream) {
  if (p.rows * p.k == 0) return;
  by_key(type, [&]<class T>(T) {
    sort_as<T>(static_cast<T*>(values), indices, static_cast<const T*>(x), p, scratch, stream);
  });
}

}  // namespace fastdl::cuda
