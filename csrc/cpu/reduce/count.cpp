// Sums and products of integers along the middle axis of (outer, n, inner), in int64; their extremes; and how many
// bytes there are not zero: sums of bools, any and all.
//
//   inner = 1   lanes of bytes count up to 255 vectors, then the lanes are added up; ends and short rows are
//               words of eight bytes
//   inner > 1   a tile of columns' counts as bytes in the first-level cache, for 255 rows at a time
//
// Integers are added as they come, which the compiler does in vectors, rows or a tile of columns at a time.
// Work: outer positions and tiles over threads; where those are too few, n is cut into slices as well, whose
// results are joined. Passes: x once.
#include <algorithm>
#include <bit>
#include <cstring>

#include "cpu/reduce.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/simd.h"

namespace fastdl {
namespace {

using namespace simd;
using Bytes = Vec<uint8_t>;
constexpr int64_t kGrain = 1 << 17;  // bytes worth about 10 us
constexpr int64_t kMost = 255;       // counts that a byte holds
constexpr int64_t kTile = 1024;

// The sum of all bytes.
int64_t sum_of(Bytes bytes) {
  auto v = (Vec<uint64_t>)bytes;
  constexpr uint64_t every_other = 0x00ff00ff00ff00ff;
  v = (v & every_other) + (v >> 8 & every_other);
  v += v >> 32;
  v += v >> 16;
  return int64_t(reduce_add<uint64_t>(v & 0xffff));
}

// How many bytes of a word are not zero.
int64_t count_word(uint64_t word) {
  constexpr uint64_t low = 0x7f7f7f7f7f7f7f7f;
  return std::popcount((((word & low) + low) | word) & ~low);  // the top bits of those bytes
}

// Of n bytes, a multiple of kBytes; not a part of each short row's loop.
[[gnu::noinline]] int64_t count_vectors(const uint8_t* x, int64_t n) {
  int64_t total = 0;
  for (int64_t i = 0; i < n;) {
    Bytes counts{};
    for (const int64_t end = std::min(n, i + kMost * kBytes); i < end; i += kBytes)
      counts -= (Bytes)(load(x + i) != 0);
    total += sum_of(counts);
  }
  return total;
}

// What is left of a row ends a word, which begins in it or before it, but not before `start`.
[[gnu::always_inline]] inline int64_t count_row(const uint8_t* start, const uint8_t* x, int64_t n) {
  const uint8_t* const end = x + n;
  int64_t total = 0;
  if (n >= kBytes) {
    total = count_vectors(x, n & -int64_t(kBytes));
    x += n & -int64_t(kBytes);
  }
  uint64_t word;
  for (; end - x >= 8; x += 8) {
    std::memcpy(&word, x, sizeof word);
    total += count_word(word);
  }
  if (x == end) return total;
  if (end - start >= 8) {
    std::memcpy(&word, end - 8, sizeof word);
    word >>= 8 * (8 - (end - x));
  } else {
    word = 0;
    std::memcpy(&word, x, size_t(end - x));
  }
  return total + count_word(word);
}

// out[c] = the count in column c of n rows that are `pitch` bytes apart.
void count_columns(int64_t* out, const uint8_t* x, int64_t n, int64_t pitch, int64_t columns) {
  alignas(64) uint8_t counts[kTile];
  std::fill_n(out, columns, 0);
  for (int64_t r = 0; r < n;) {
    std::fill_n(counts, columns, uint8_t(0));
    for (const int64_t end = std::min(n, r + kMost); r < end; ++r) {
      const uint8_t* row = x + r * pitch;
      int64_t c = 0;
      for (; c + kBytes <= columns; c += kBytes)
        store<uint8_t>(counts + c, load(counts + c) - (Bytes)(load(row + c) != 0));
      for (; c < columns; ++c) counts[c] = uint8_t(counts[c] + (row[c] != 0));
    }
    for (int64_t c = 0; c < columns; ++c) out[c] += counts[c];
  }
}

// Sums, or products; both wrap.
template <bool product>
int64_t joined(int64_t a, int64_t b) {
  return int64_t(product ? uint64_t(a) * uint64_t(b) : uint64_t(a) + uint64_t(b));
}

template <bool product, class T>
int64_t joined_row(const T* x, int64_t n) {
  int64_t total = product;
  for (int64_t i = 0; i < n; ++i) total = joined<product>(total, x[i]);
  return total;
}

template <bool product, class T>
void joined_columns(int64_t* __restrict out, const T* x, int64_t n, int64_t pitch, int64_t columns) {
  std::fill_n(out, columns, int64_t(product));
  for (int64_t r = 0; r < n; ++r)
    for (int64_t c = 0; c < columns; ++c) out[c] = joined<product>(out[c], x[r * pitch + c]);
}

template <bool largest, class V>
[[gnu::always_inline]] inline V better(V a, V b) {
  return (largest ? a > b : a < b) ? a : b;
}
template <bool largest, class T>
T extreme_row(const T* x, int64_t n) {
  constexpr int w = kWidth<T>;
  T best = x[0];
  int64_t i = 0;
  if (n >= 4 * w) {
    Vec<T> v[4] = {load(x), load(x + w), load(x + 2 * w), load(x + 3 * w)};
    for (i = 4 * w; i + 4 * w <= n; i += 4 * w)
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) v[k] = better<largest>(v[k], load(x + i + k * w));
    v[0] = better<largest>(better<largest>(v[0], v[1]), better<largest>(v[2], v[3]));
    for (int k = 0; k < w; ++k) best = better<largest>(best, T(v[0][k]));
  }
  for (; i < n; ++i) best = better<largest>(best, x[i]);
  return best;
}
template <bool largest, class T>
void extreme_columns(T* out, const T* x, int64_t n, int64_t pitch, int64_t columns) {
  constexpr int w = kWidth<T>;
  std::copy_n(x, columns, out);
  for (int64_t r = 1; r < n; ++r) {
    const T* row = x + r * pitch;
    int64_t c = 0;
    for (; c + w <= columns; c += w) store(out + c, better<largest>(load(out + c), load(row + c)));
    for (; c < columns; ++c) out[c] = better<largest>(out[c], row[c]);
  }
}

// row(x, n) is the fold of n elements in a row, columns(out, x, n, pitch, columns) those of columns; join(a,
// b) is that of two folds. Slices are not empty.
template <class Out, class T>
void fold_up(Out* out, const T* x, int64_t outer, int64_t n, int64_t inner, Out (*row)(const T* x, int64_t n),
             void (*columns)(Out* out, const T* x, int64_t n, int64_t pitch, int64_t columns),
             Out (*join)(Out a, Out b)) {
  const int64_t size = outer * inner, tiles = ceil_div(inner, kTile);
  if (size == 0) return;
  const int64_t wanted = num_threads() * fastdl::detail::kChunksPerThread;
  int64_t slices = 1;
  if (outer * tiles * 2 < wanted)
    slices =
        std::clamp<int64_t>(std::min(n, size * n * int64_t(sizeof(T)) / kGrain), 1, wanted / (outer * tiles));
  memory::Buffer<Out> partial(slices > 1 ? size_t(slices * size) : 0);
  Out* to = slices > 1 ? partial.get() : out;
  const int64_t tasks = slices * outer * tiles;
  const int64_t grain = std::max<int64_t>(1, kGrain / (size * n * int64_t(sizeof(T)) / tasks + 64));
  parallel_for(tasks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      int64_t slice = 0, o = task, column = 0, first = 0, count = n;
      if (inner > 1 || slices > 1) {  // a short row takes less time than these divisions
        slice = task / (outer * tiles), o = task / tiles % outer, column = task % tiles * kTile;
        first = n * slice / slices, count = n * (slice + 1) / slices - first;
      }
      Out* here = to + slice * size + o * inner + column;
      const T* from = x + (o * n + first) * inner + column;
      if (inner == 1)
        *here = row(from, count);
      else
        columns(here, from, count, inner, std::min(kTile, inner - column));
    }
  });
  if (slices == 1) return;
  std::copy_n(to, size, out);
  for (int64_t s = 1; s < slices; ++s)
    for (int64_t k = 0; k < size; ++k) out[k] = join(out[k], partial[s * size + k]);
}

}  // namespace

void count_true(int64_t* out, const uint8_t* x, int64_t outer, int64_t n, int64_t inner) {
  if (inner == 1 && n < kBytes)  // short rows take less time than to share them out one by one
    return parallel_for(outer, kGrain / (n + 8), [=](int64_t begin, int64_t end) {
      for (int64_t o = begin; o < end; ++o) out[o] = count_row(x, x + o * n, n);
    });
  fold_up<int64_t, uint8_t>(
      out, x, outer, n, inner, [](const uint8_t* row, int64_t count) { return count_row(row, row, count); },
      count_columns, joined<false>);
}

template <class T>
void sum_integers(bool product, int64_t* out, const T* x, int64_t outer, int64_t n, int64_t inner) {
  if (product)
    fold_up(out, x, outer, n, inner, joined_row<true, T>, joined_columns<true, T>, joined<true>);
  else
    fold_up(out, x, outer, n, inner, joined_row<false, T>, joined_columns<false, T>, joined<false>);
}

template <class T>
void extreme_integer(bool largest, T* out, const T* x, int64_t outer, int64_t n, int64_t inner) {
  if (largest)
    fold_up<T, T>(out, x, outer, n, inner, extreme_row<true, T>, extreme_columns<true, T>, better<true, T>);
  else
    fold_up<T, T>(out, x, outer, n, inner, extreme_row<false, T>, extreme_columns<false, T>,
                  better<false, T>);
}
#define FASTDL_INSTANTIATE(T) template void extreme_integer<T>(bool, T*, const T*, int64_t, int64_t, int64_t);
FASTDL_INSTANTIATE(uint8_t)
FASTDL_INSTANTIATE(int32_t)
FASTDL_INSTANTIATE(int64_t)
#undef FASTDL_INSTANTIATE

template void sum_integers<int32_t>(bool, int64_t*, const int32_t*, int64_t, int64_t, int64_t);
template void sum_integers<int64_t>(bool, int64_t*, const int64_t*, int64_t, int64_t, int64_t);

}  // namespace fastdl
