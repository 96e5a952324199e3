// Embedding: y[j] = weight[index[j]]; bags: sums, means or maxima of some rows.
//
// The gradient adds rows of grad_y that have the same index. Atomic additions would add them in any order;
// instead the entries are sorted by index, stably, and each run of equal indices is summed in order by the
// threads that own its columns: the same bits every time, each row of the table written once. Long runs are
// cut into pieces of one length, which are added in order afterwards. The sort is a radix sort, 8 bits a
// pass, one warp per tile: a lane finds how many before it have its digit from 8 votes, so nothing depends on
// timing. Up to kFew entries need no sort: a block for each entry looks through all of them, one launch
// instead of ten.
#include "cuda/embedding.h"

#include <algorithm>

#include "cuda/errors.h"
#include "cuda/rows.h"

namespace fastdl::cuda {
namespace {

constexpr uint64_t kForward = 3, kBackward = 4;
constexpr int kDigits = 256, kTile = 1024;  // entries of a warp
constexpr int kLanes = 32, kTeams = 8;      // a block: 8 outputs, their columns side by side
constexpr int64_t kPart = 256;              // sorted entries that a team adds at most
constexpr int64_t kFew =
    2048;  // 16 kB of indices, read by as many blocks: some 30 MB of the second-level cache
static_assert(kLanes == kColumns && kTeams == kSplit);  // split_reduce

template <class Word>
__global__ void __launch_bounds__(256) gather_rows(Word* y, const Word* weight, const int64_t* index,
                                                   Embedding e, int64_t per_row, Report report) {
  const int64_t items = e.entries * per_row;
  for (int64_t i = int64_t(blockIdx.x) * 256 + threadIdx.x; i < items; i += int64_t(gridDim.x) * 256) {
    const int64_t j = i / per_row, d = i - j * per_row;
    const int64_t row = index[j];
    y[i] = report.out_of_range(j, row, e.rows) ? Word{} : weight[row * per_row + d];
  }
}

template <class T>
__global__ void __launch_bounds__(kLanes* kTeams, 2)
    sum_bags(T* y, const T* weight, const int64_t* index, const int64_t* offsets, int64_t bags,
             const T* scale, bool mean, Embedding e, Report report) {
  using C = Compute<T>;
  for (int64_t b = int64_t(blockIdx.x) * kTeams + threadIdx.y; b < bags; b += int64_t(gridDim.x) * kTeams) {
    const int64_t start = std::max<int64_t>(0, offsets[b]), end = std::min(e.entries, offsets[b + 1]);
    for (int64_t d = threadIdx.x; d < e.width; d += kLanes) {
      C sum = 0;
      int64_t count = 0;
      for (int64_t j = start; j < end; ++j) {
        const int64_t row = index[j];
        if (report.out_of_range(j, row, e.rows) || row == e.padding_idx) continue;
        const C v = C(widen(weight[row * e.width + d]));
        sum += scale != nullptr ? v * C(widen(scale[j])) : v;
        ++count;
      }
      y[b * e.width + d] = narrow<T>(mean && count > 0 ? sum / C(count) : sum);
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kLanes* kTeams, 2)
    max_bags(T* y, int64_t* chosen, const T* weight, const int64_t* index, const int64_t* offsets,
             int64_t bags, Embedding e, Report report) {
  using C = Compute<T>;
  for (int64_t b = int64_t(blockIdx.x) * kTeams + threadIdx.y; b < bags; b += int64_t(gridDim.x) * kTeams) {
    const int64_t start = std::max<int64_t>(0, offsets[b]), end = std::min(e.entries, offsets[b + 1]);
    for (int64_t d = threadIdx.x; d < e.width; d += kLanes) {
      C best = 0;
      int64_t from = -1;
      for (int64_t j = start; j < end; ++j) {
        const int64_t row = index[j];
        if (report.out_of_range(j, row, e.rows) || row == e.padding_idx) continue;
        const C v = C(widen(weight[row * e.width + d]));
        if (from < 0 || v > best || (v != v && best == best)) best = v, from = row;
      }
      y[b * e.width + d] = narrow<T>(best);
      chosen[b * e.width + d] = from;
    }
  }
}

// ---- the sort

struct Keys {
  uint32_t *key, *entry;
};

// Entries to skip have the key `rows`, behind all others.
__global__ void __launch_bounds__(256)
    make_keys(Keys keys, const int64_t* index, Embedding e, Report report) {
  for (int64_t j = int64_t(blockIdx.x) * 256 + threadIdx.x; j < e.entries; j += int64_t(gridDim.x) * 256) {
    const int64_t row = index[j];
    keys.key[j] =
        report.out_of_range(j, row, e.rows) || row == e.padding_idx ? uint32_t(e.rows) : uint32_t(row);
    keys.entry[j] = uint32_t(j);
  }
}

// How often each digit occurs in each tile: counts (digit, tile).
__global__ void __launch_bounds__(32)
    count_digits(uint32_t* counts, Keys from, int64_t entries, int shift, uint32_t tiles) {
  FASTDL_SHARED(uint32_t, count, kDigits);
  for (int d = int(threadIdx.x); d < kDigits; d += 32) count[d] = 0;
  sync_threads();
  const int64_t start = int64_t(blockIdx.x) * kTile, end = std::min(entries, start + kTile);
  for (int64_t j = start + threadIdx.x; j < end; j += 32) atomic_add(&count[from.key[j] >> shift & 255], 1u);
  sync_threads();
  for (int d = int(threadIdx.x); d < kDigits; d += 32) counts[uint32_t(d) * tiles + blockIdx.x] = count[d];
}

// Exclusive sums, in place, by one block; n is a multiple of kDigits. A thread has neighbouring counts, so that waiting
// for each other is paid once for some thousand.
__global__ void __launch_bounds__(1024) scan_counts(uint32_t* counts, uint32_t n) {
  constexpr int kWide = kWidest<uint32_t>, kPacks = 2, kOwn = kPacks * kWide;
  static_assert(kDigits % kOwn == 0);
  FASTDL_SHARED(uint32_t, warp_sums, 32);
  uint32_t carry = 0;
  for (uint32_t start = 0; start < n; start += 1024 * kOwn) {
    const uint32_t first = start + threadIdx.x * kOwn;
    auto* const own = reinterpret_cast<Pack<uint32_t, kWide>*>(counts + first);
    Pack<uint32_t, kWide> packs[kPacks] = {};
    FASTDL_UNROLL
    for (int k = 0; k < kPacks; ++k)
      if (first < n) packs[k] = own[k];
    uint32_t value = 0;
    FASTDL_UNROLL
    for (int k = 0; k < kOwn; ++k) value += packs[k / kWide].v[k % kWide];
    uint32_t sum = value;  // inclusive, of the warp
    FASTDL_UNROLL
    for (int delta = 1; delta < 32; delta *= 2) {
      const uint32_t other = shuffle_up(sum, delta);
      if (lane_id() >= delta) sum += other;
    }
    if (lane_id() == 31) warp_sums[threadIdx.x / 32] = sum;
    sync_threads();
    uint32_t before = 0, total = 0;
    for (int w = 0; w < 32; ++w) {
      if (w < int(threadIdx.x / 32)) before += warp_sums[w];
      total += warp_sums[w];
    }
    sync_threads();
    uint32_t running = carry + before + sum - value;
    FASTDL_UNROLL
    for (int k = 0; k < kOwn; ++k) {
      uint32_t& count = packs[k / kWide].v[k % kWide];
      running += count;
      count = running - count;
    }
    FASTDL_UNROLL
    for (int k = 0; k < kPacks; ++k)
      if (first < n) own[k] = packs[k];
    carry += total;
  }
}

// Moves each entry to its place; a warp takes its tile in order, 32 entries at a time.
__global__ void __launch_bounds__(32)
    scatter_digits(Keys to, Keys from, const uint32_t* places, int64_t entries, int shift, uint32_t tiles) {
  FASTDL_SHARED(uint32_t, next, kDigits);
  for (int d = int(threadIdx.x); d < kDigits; d += 32) next[d] = places[uint32_t(d) * tiles + blockIdx.x];
  sync_threads();
  const int64_t start = int64_t(blockIdx.x) * kTile, end = std::min(entries, start + kTile);
  for (int64_t first = start; first < end; first += 32) {
    const int64_t j = first + threadIdx.x;
    const bool mine = j < end;
    const uint32_t key = mine ? from.key[j] : 0, digit = key >> shift & 255;
    uint32_t same = ballot(mine);
    FASTDL_UNROLL
    for (int bit = 0; bit < 8; ++bit) {
      const uint32_t ones = ballot(digit >> bit & 1);
      same &= digit >> bit & 1 ? ones : ~ones;
    }
    const uint32_t below = same & ((1u << lane_id()) - 1);
    uint32_t rank = 0, all = 0;
    for (uint32_t bits = below; bits != 0; bits &= bits - 1) ++rank;
    for (uint32_t bits = same; bits != 0; bits &= bits - 1) ++all;
    const uint32_t place = mine ? next[digit] + rank : 0;
    sync_threads();
    if (mine && below == 0) next[digit] += all;  // the first lane of each digit
    sync_threads();
    if (mine) {
      to.key[place] = key;
      to.entry[place] = from.entry[j];
    }
  }
}

// What the sorted entries add to a column of their row.
template <class T>
struct Entries {
  Keys keys;
  const T *grad_y, *scale;
  const int64_t* bag;
  int64_t grad_rows;

  __device__ __forceinline__ Compute<T> sum(int64_t start, int64_t end, int64_t d, int64_t width) const {
    using C = Compute<T>;
    C sum = 0;
    for (int64_t r = start; r < end; ++r) {
      const uint32_t j = keys.entry[r];
      const int64_t row = bag != nullptr ? bag[j] : int64_t(j);
      if (row < 0 || row >= grad_rows) continue;
      const C g = C(widen(grad_y[row * width + d]));
      sum += scale != nullptr ? C(widen(scale[j])) * g : g;
    }
    return sum;
  }
};

// The team at the head of each run of equal keys adds up to kPart entries: all, or else its first piece.
// Partials: of each part, kPart places of the sorted entries, the piece that begins in it and does not begin
// a run (2 part), and the first piece of a run that begins in it (2 part + 1); there is one of either at
// most.
template <class T>
__global__ void __launch_bounds__(kLanes* kTeams, 2)
    sum_runs(T* grad_weight, Compute<T>* partials, Entries<T> entries, bool by_frequency, Embedding e) {
  using C = Compute<T>;
  const uint32_t* key = entries.keys.key;
  for (int64_t i = int64_t(blockIdx.x) * kTeams + threadIdx.y; i < e.entries;
       i += int64_t(gridDim.x) * kTeams) {
    const uint32_t mine = key[i];
    if (mine == uint32_t(e.rows) || (i > 0 && key[i - 1] == mine)) continue;
    const int64_t most = std::min(e.entries, i + kPart);
    int64_t end = i + 1;
    while (end < most && key[end] == mine) ++end;
    const bool whole = end == e.entries || key[end] != mine;
    for (int64_t d = threadIdx.x; d < e.width; d += kLanes) {
      const C sum = entries.sum(i, end, d, e.width);
      if (whole)
        grad_weight[int64_t(mine) * e.width + d] = narrow<T>(by_frequency ? sum / C(end - i) : sum);
      else
        partials[(2 * (i / kPart) + 1) * e.width + d] = sum;
    }
  }
}

// The first place in [low, high) whose key is at least `least`: keys rise.
__device__ __forceinline__ int64_t first_place(const uint32_t* key, int64_t low, int64_t high,
                                               uint32_t least) {
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (key[middle] < least)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// The run across the beginning of a part: where it begins, and its first piece from there on. start < 0:
// none.
struct Across {
  int64_t start = -1, piece = 0;
  uint32_t key = 0;

  __device__ __forceinline__ Across(const uint32_t* keys, int64_t part, const Embedding& e) {
    const int64_t cut = part * kPart;
    key = keys[cut];
    if (key == uint32_t(e.rows) || keys[cut - 1] != key) return;
    start = first_place(keys, 0, cut, key);
    piece = start + (cut - start + kPart - 1) / kPart * kPart;
    if (piece >= e.entries || keys[piece] != key) start = -1;
  }
};

template <class T>
__global__ void __launch_bounds__(kLanes* kTeams, 2)
    sum_pieces(Compute<T>* partials, Entries<T> entries, Embedding e) {
  const uint32_t* key = entries.keys.key;
  for (int64_t part = int64_t(blockIdx.x) * kTeams + threadIdx.y + 1; part * kPart < e.entries;
       part += int64_t(gridDim.x) * kTeams) {
    const Across run(key, part, e);
    if (run.start < 0) continue;
    const int64_t end = first_place(key, run.piece, std::min(e.entries, run.piece + kPart), run.key + 1);
    for (int64_t d = threadIdx.x; d < e.width; d += kLanes)
      partials[2 * part * e.width + d] = entries.sum(run.piece, end, d, e.width);
  }
}

// A block at the second piece of each long run adds its pieces, the teams every eighth.
template <class T>
__global__ void __launch_bounds__(kLanes* kTeams, 2)
    join_pieces(T* grad_weight, const Compute<T>* partials, const uint32_t* key, bool by_frequency,
                Embedding e) {
  using C = Compute<T>;
  for (int64_t part = int64_t(blockIdx.x) + 1; part * kPart < e.entries; part += gridDim.x) {
    const Across run(key, part, e);
    if (run.start < 0 || run.piece != run.start + kPart) continue;
    const int64_t end = first_place(key, run.piece, e.entries, run.key + 1);
    const int64_t pieces = (end - run.start + kPart - 1) / kPart;
    for (int64_t column = 0; column < e.width; column += kLanes) {
      const int64_t d = column + threadIdx.x;
      C sum = 0;
      if (d < e.width)
        for (int64_t p = threadIdx.y; p < pieces; p += kTeams)
          sum += partials[(2 * (part - 1 + p) + (p == 0)) * e.width + d];
      sum = split_reduce(sum, Plus{});
      if (threadIdx.y == 0 && d < e.width)
        grad_weight[int64_t(run.key) * e.width + d] =
            narrow<T>(by_frequency ? sum / C(end - run.start) : sum);
    }
  }
}

// The entries in [begin, end) with this index, added in order for column d; by a whole warp.
template <class T>
struct Matching {
  const T *grad_y, *scale;
  const int64_t *index, *bag;
  int64_t grad_rows, mine;

  __device__ __forceinline__ Compute<T> sum(int64_t begin, int64_t end, int64_t d, int64_t width) const {
    using C = Compute<T>;
    C sum = 0;
    for (int64_t first = begin; first < end; first += kLanes) {
      const int64_t at = first + threadIdx.x;
      // Few have this index: only those are looked at.
      FASTDL_ROLLED
      for (uint32_t hits = ballot(at < end && index[at] == mine); hits != 0; hits &= hits - 1) {
        const int64_t j = first + bits_of((hits & (0 - hits)) - 1);  // what is below the lowest
        const int64_t row = bag != nullptr ? bag[j] : j;
        if (row < 0 || row >= grad_rows || d >= width) continue;
        const C g = C(widen(grad_y[row * width + d]));
        sum += scale != nullptr ? C(widen(scale[j])) * g : g;
      }
    }
    return sum;
  }
};

// Few entries: the block of the first entry with an index adds all that have it. Up to kPart are added in
// order, the teams beside each other; more by all teams, each a slice of the entries.
template <class T>
__global__ void __launch_bounds__(kLanes* kTeams, 2)
    sum_few(T* grad_weight, const T* grad_y, int64_t grad_rows, const int64_t* index, const int64_t* bag,
            const T* scale, bool by_frequency, Embedding e, Report report) {
  using C = Compute<T>;
  FASTDL_SHARED(int, found, 2);  // entries with the index before this one, and all
  const int64_t i = blockIdx.x, mine = index[i];
  if (report.out_of_range(i, mine, e.rows) || mine == e.padding_idx) return;
  const int team = int(threadIdx.y), thread = team * kLanes + int(threadIdx.x);
  if (thread < 2) found[thread] = 0;
  sync_threads();
  for (int64_t j = thread; j < e.entries; j += kLanes * kTeams) {
    if (index[j] != mine) continue;
    atomic_add(&found[1], 1);
    if (j < i) atomic_add(&found[0], 1);
  }
  sync_threads();
  if (found[0] != 0) return;
  const int count = found[1];
  const Matching<T> entries{grad_y, scale, index, bag, grad_rows, mine};
  T* const to = grad_weight + mine * e.width;
  const auto write = [&](int64_t d, C sum) { to[d] = narrow<T>(by_frequency ? sum / C(count) : sum); };
  if (count <= kPart) {
    for (int64_t column = team * kLanes; column < e.width; column += kLanes * kTeams) {
      const int64_t d = column + threadIdx.x;
      const C sum = entries.sum(i, e.entries, d, e.width);
      if (d < e.width) write(d, sum);
    }
    return;
  }
  const int64_t slice = (e.entries + kTeams - 1) / kTeams, begin = team * slice;
  for (int64_t column = 0; column < e.width; column += kLanes) {
    const int64_t d = column + threadIdx.x;
    const C sum = split_reduce(entries.sum(begin, std::min(e.entries, begin + slice), d, e.width), Plus{});
    if (team == 0 && d < e.width) write(d, sum);
  }
}

int64_t tiles_of(const Embedding& e) {
  return (e.entries + kTile - 1) / kTile;
}

struct alignas(16) Word16 {
  uint64_t v[2];
};

}  // namespace

void embedding_forward(int bytes, void* y, const void* weight, const int64_t* index, const Embedding& e,
                       uint64_t* report, Stream stream) {
  if (e.entries * e.width == 0) return;
  const auto run = [&]<class Word>(Word) {
    const int64_t per_row = e.width * bytes / int64_t(sizeof(Word));
    launch("embedding", gather_rows<Word>, dim3(grid_for(e.entries * per_row, 256)), dim3(256), 0, stream,
           static_cast<Word*>(y), static_cast<const Word*>(weight), index, e, per_row,
           Report{report, kForward});
  };
  // The widest words that rows consist of.
  const int64_t row = e.width * bytes;
  const auto fits = [&](int64_t n) {
    return row % n == 0 && aligned(y, size_t(n)) && aligned(weight, size_t(n));
  };
  if (fits(16)) return run(Word16{});
  if (fits(8)) return run(uint64_t{});
  if (fits(4)) return run(uint32_t{});
  if (fits(2)) return run(uint16_t{});
  run(uint8_t{});
}

void embedding_bag_forward(Dtype dtype, void* y, const void* weight, const int64_t* index,
                           const int64_t* offsets, int64_t bags, const void* scale, bool mean,
                           const Embedding& e, uint64_t* report, Stream stream) {
  if (bags * e.width == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    launch("embedding_bag", sum_bags<T>, dim3(grid_for(bags, kTeams)), dim3(kLanes, kTeams), 0, stream,
           static_cast<T*>(y), static_cast<const T*>(weight), index, offsets, bags,
           static_cast<const T*>(scale), mean, e, Report{report, kForward});
  });
}

void embedding_bag_max_forward(Dtype dtype, void* y, int64_t* chosen, const void* weight,
                               const int64_t* index, const int64_t* offsets, int64_t bags, const Embedding& e,
                               uint64_t* report, Stream stream) {
  if (bags * e.width == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    launch("embedding_bag_max", max_bags<T>, dim3(grid_for(bags, kTeams)), dim3(kLanes, kTeams), 0, stream,
           static_cast<T*>(y), chosen, static_cast<const T*>(weight), index, offsets, bags, e,
           Report{report, kForward});
  });
}

int64_t embedding_scratch(const Embedding& e) {
  if (e.entries <= kFew) return 0;
  const int64_t parts = (e.entries + kPart - 1) / kPart;
  return 4 * (4 * e.entries + kDigits * tiles_of(e)) + 2 * parts * e.width * int64_t(sizeof(double));
}

void embedding_backward(Dtype dtype, void* grad_weight, const void* grad_y, int64_t grad_rows,
                        const int64_t* index, const int64_t* bag, const void* scale, bool by_frequency,
                        const Embedding& e, void* scratch, uint64_t* report, Stream stream) {
  zero(grad_weight,
       size_t(e.rows * e.width) * (dtype == Dtype::float64   ? 8
                                   : dtype == Dtype::float32 ? 4
                                                             : 2),
       stream);
  if (e.entries * e.width == 0) return;
  if (e.entries >= int64_t(1) << 31 || e.rows >= int64_t(1) << 31)
    throw std::invalid_argument("embedding_backward on CUDA is limited to 2^31 entries and rows");
  if (e.entries <= kFew) {
    by_dtype(dtype, [&]<class T>(T) {
      launch("embedding_backward", sum_few<T>, dim3(unsigned(e.entries)), dim3(kLanes, kTeams), 0, stream,
             static_cast<T*>(grad_weight), static_cast<const T*>(grad_y), grad_rows, index, bag,
             static_cast<const T*>(scale), by_frequency, e, Report{report, kBackward});
    });
    return;
  }
  uint32_t* words = static_cast<uint32_t*>(scratch);
  const int64_t n = e.entries;
  Keys from{words, words + n}, to{words + 2 * n, words + 3 * n};
  uint32_t* counts = words + 4 * n;
  const uint32_t tiles = uint32_t(tiles_of(e));
  launch("embedding_keys", make_keys, dim3(grid_for(n, 256)), dim3(256), 0, stream, from, index, e,
         Report{report, kBackward});
  for (int shift = 0; shift < 32 && (e.rows >> shift) > 0; shift += 8) {
    launch("embedding_count", count_digits, dim3(tiles), dim3(32), 0, stream, counts, from, n, shift, tiles);
    launch("embedding_scan", scan_counts, dim3(1), dim3(1024), 0, stream, counts, uint32_t(kDigits) * tiles);
    launch("embedding_scatter", scatter_digits, dim3(tiles), dim3(32), 0, stream, to, from,
           static_cast<const uint32_t*>(counts), n, shift, tiles);
    std::swap(from, to);
  }
  by_dtype(dtype, [&]<class T>(T) {
    T* to = static_cast<T*>(grad_weight);
    auto* partials = reinterpret_cast<Compute<T>*>(counts + kDigits * tiles);
    const Entries<T> entries{from, static_cast<const T*>(grad_y), static_cast<const T*>(scale), bag,
                             grad_rows};
    launch("embedding_backward", sum_runs<T>, dim3(grid_for(n, kTeams)), dim3(kLanes, kTeams), 0, stream, to,
           partials, entries, by_frequency, e);
    launch("embedding_backward", sum_pieces<T>, dim3(grid_for(n / kPart, kTeams)), dim3(kLanes, kTeams), 0,
           stream, partials, entries, e);
    launch("embedding_backward", join_pieces<T>, dim3(grid_for(n / kPart, 1)), dim3(kLanes, kTeams), 0,
           stream, to, static_cast<const Compute<T>*>(partials), static_cast<const uint32_t*>(from.key),
           by_frequency, e);
  });
}

}  // namespace fastdl::cuda
