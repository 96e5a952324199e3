// Sorting rows, wholly or only the first k, and finding the k-th alone.
//
// An element becomes an integer key with the same order (negative floats have their bits below the sign
// flipped; NaN is the largest; falling order inverts all bits), with its place behind it: no two entries are
// equal, so any sort is stable. Where the keys of a row differ in 32 bits only, which floats do and most
// int64, key less smallest key and place are one 64-bit word; others are pairs. Long rows are sorted by
// radix, a byte of the key at a time and no more bytes than the keys' range has; shorter ones are compared. A
// row of a few vectors is ranked: how many keys come before a key is where it goes, and counting them takes
// no branch; the first few of it are taken one after the other. Few of many (topk): one pass compares vectors of keys
// with the k-th best so far; what passes is collected, and 2 k or more are cut back to k.
//
// Work: rows over threads; where there are fewer long rows than threads, parts of a row: each part counts its
// digits, and the places of part p follow those of the parts before, so the result is the same for any
// number of parts. Passes: x once, and entries in a cache.
#include "cpu/order.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/side_by_side.h"
#include "cpu/simd/simd.h"

namespace fastdl {
namespace {

using namespace simd;

constexpr int64_t kGrain = 1024;        // elements worth about 10 us
constexpr int64_t kRadixFrom = 256;     // shorter rows are compared
constexpr int64_t kSharedFrom = 32768;  // shorter rows are one thread's
// Longer rows take more counting than comparing, or than finding a few elements of them.
template <class T>
constexpr int64_t kRankedUpTo = 16 * kWidth<T>;
template <class T>
constexpr int64_t kFewRankedUpTo = 8 * kWidth<T>;

template <class T>
using Signed = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

struct Word {  // key and place
  uint64_t word;
  static Word of(uint64_t key, int64_t place) { return {key << 32 | uint64_t(place)}; }
  uint64_t key() const { return word >> 32; }
  int64_t place() const { return int64_t(word & 0xffffffff); }
  bool operator<(const Word& other) const { return word < other.word; }
};
struct Pair {
  uint64_t first, second;
  static Pair of(uint64_t key, int64_t place) { return {key, uint64_t(place)}; }
  uint64_t key() const { return first; }
  int64_t place() const { return int64_t(second); }
  bool operator<(const Pair& other) const {
    return first != other.first ? first < other.first : second < other.second;
  }
};
template <class T>
using Entry = std::conditional_t<sizeof(T) == 4, Word, Pair>;  // holds any key of T

// How elements become keys. Integers come as the bits of floats of their size: one copy of the code for both.
template <class T>
struct Order {
  Signed<T> invert;  // 0, or all bits for falling order
  bool integers;
};
// Signed keys; the sign's bit flipped they are unsigned ones of the same order.
template <class T>
[[gnu::always_inline]] inline Vec<Signed<T>> keys_of(Vec<T> x, Order<T> order) {
  if (order.integers) return (Vec<Signed<T>>)x ^ order.invert;
  constexpr Signed<T> most = std::numeric_limits<Signed<T>>::max();
  const auto bits = (Vec<Signed<T>>)(x + T(0));  // -0 becomes 0
  const Vec<Signed<T>> key = bits ^ ((bits >> (8 * int(sizeof(T)) - 1)) & most);
  return (x != x ? broadcast<Signed<T>>(most) : key) ^ order.invert;
}
template <class T>
uint64_t raised(Signed<T> key) {
  constexpr Signed<T> sign = std::numeric_limits<Signed<T>>::min();
  return std::make_unsigned_t<Signed<T>>(key ^ sign);
}
template <class T>
[[gnu::always_inline]] inline Vec<T> load_some(const T* x, int count) {
  return count == kWidth<T> ? load(x) : load_n(x, count);
}

// ranks[i]: how many elements of a short row stand before element i; equal ones keep their order. Room for a
// vector more.
template <class T>
void rank_row(Signed<T>* ranks, const T* x, int64_t n, Order<T> order) {
  constexpr int w = kWidth<T>;
  using Keys = Vec<Signed<T>>;
  alignas(64) Signed<T> keys[kRankedUpTo<T>];
  Keys lane{};
  for (int l = 0; l < w; ++l) lane[l] = Signed<T>(l);
  for (int64_t i = 0; i < n; i += w)
    store(keys + i, keys_of<T>(load_some(x + i, int(std::min<int64_t>(w, n - i))), order));
  for (int64_t i = 0; i < n; i += w) {
    const Keys own = load(keys + i);
    Keys rank{};
    int64_t j = 0;
    for (; j < i; ++j) rank -= keys[j] <= own;
    for (; j < std::min(n, i + w); ++j)
      rank -= (keys[j] < own) | ((keys[j] == own) & (lane > Signed<T>(j - i)));
    for (; j < n; ++j) rank -= keys[j] < own;
    store(ranks + i, rank);
  }
}

// The same of rows of a vector at most, as many as a vector has lanes: ranks[i * kWidth<T> + r] is that of
// element i of row r.
template <class T>
void rank_short_rows(Signed<T>* ranks, const T* x, int count, int64_t n, Order<T> order) {
  constexpr int w = kWidth<T>;
  alignas(64) T columns[w * w];
  Vec<Signed<T>> keys[w];
  interleave(columns, x, n, count, n);
  for (int64_t i = 0; i < n; ++i) keys[i] = keys_of<T>(load(columns + i * w), order);
  for (int64_t i = 0; i < n; ++i) {
    Vec<Signed<T>> rank{};
    for (int64_t j = 0; j < i; ++j) rank -= keys[j] <= keys[i];
    for (int64_t j = i + 1; j < n; ++j) rank -= keys[j] < keys[i];
    store(ranks + i * w, rank);
  }
}

// The places of the first k of a short row, one after the other; false where keys do not tell who was taken.
template <class T>
[[gnu::noinline]] bool first_few(int64_t* places, const T* x, int64_t n, int64_t k, Order<T> order) {
  constexpr int w = kWidth<T>;
  constexpr Signed<T> most = std::numeric_limits<Signed<T>>::max();
  alignas(64) Signed<T> keys[kFewRankedUpTo<T>], lanes[w];
  int64_t i = 0;
  for (; i < n; i += w)
    store(keys + i, keys_of<T>(load_some(x + i, int(std::min<int64_t>(w, n - i))), order));
  std::fill(keys + n, keys + i, most);
  for (int64_t rank = 0; rank < k; ++rank) {
    Vec<Signed<T>> best = load(keys);
    for (i = w; i < n; i += w) {
      const Vec<Signed<T>> own = load(keys + i);
      best = own < best ? own : best;
    }
    store(lanes, best);
    const Signed<T> least = *std::min_element(lanes, lanes + w);
    if (least == most) return false;
    i = 0;
    while (!any(load(keys + i) == least)) i += w;
    while (keys[i] != least) ++i;
    keys[i] = most;
    places[rank] = i;
  }
  return true;
}

template <class T>
int64_t ranked_grain(int64_t n) {  // rows worth about 10 us
  return std::max<int64_t>(1, 32 * kGrain / (n * (n / kWidth<T> + 4)));
}

// Entries of elements [begin, end), with `least` taken from the keys.
template <class T, class E>
void make_entries(E* to, const T* x, int64_t begin, int64_t end, Order<T> order, uint64_t least) {
  constexpr int w = kWidth<T>;
  for (int64_t i = begin; i < end; i += w) {
    const int count = int(std::min<int64_t>(w, end - i));
    const auto keys = keys_of<T>(load_some(x + i, count), order);
    for (int j = 0; j < count; ++j) to[i + j] = E::of(raised<T>(keys[j]) - least, i + j);
  }
}

// f(begin, end) for parts of a row; asking for threads costs as much as a short row.
template <class F>
void alone_or_shared(int64_t n, F&& f) {
  n <= 16 * kGrain ? f(int64_t{0}, n) : parallel_for(n, 16 * kGrain, f);
}

struct Range {
  uint64_t least, bits;  // the smallest key, and how many bits keys less that have
};
// Of the keys of a row; not looked for where they fit anyway.
template <class T>
Range range_of(const T* x, int64_t n, Order<T> order) {
  using Key = Signed<T>;
  if (sizeof(T) == 4 && !order.integers) {
    return {0, 32};
  } else {
    constexpr int w = kWidth<T>;
    const auto extremes = [&](int64_t begin, int64_t end) {
      Vec<Key> low = broadcast(std::numeric_limits<Key>::max()), high = ~low;
      int64_t i = begin;
      for (; i + w <= end; i += w) {
        const auto keys = keys_of<T>(load(x + i), order);
        low = keys < low ? keys : low;
        high = keys > high ? keys : high;
      }
      Key l = low[0], h = high[0];
      for (int j = 1; j < w; ++j) l = std::min(l, low[j]), h = std::max(h, high[j]);
      const auto keys = keys_of<T>(load_some(x + i, int(end - i)), order);
      for (int j = 0; j < int(end - i); ++j) l = std::min(l, keys[j]), h = std::max(h, keys[j]);
      return std::pair{l, h};
    };
    std::pair<Key, Key> all;
    if (n <= 16 * kGrain) {
      all = extremes(0, n);
    } else {
      memory::Buffer<std::pair<Key, Key>> parts{size_t(chunk_count(n, 16 * kGrain))};
      parallel_chunks(n, 16 * kGrain, [&](int64_t chunk, int64_t begin, int64_t end) {
        parts[chunk] = extremes(begin, end);
      });
      all = parts[0];
      for (int64_t i = 1; i < chunk_count(n, 16 * kGrain); ++i)
        all = {std::min(all.first, parts[i].first), std::max(all.second, parts[i].second)};
    }
    const uint64_t low = raised<T>(all.first), high = raised<T>(all.second);
    return {low, uint64_t(std::bit_width(high - low))};
  }
}

// f(entries, bits, least): the entries of a row, keys less `least`, in the narrowest form that holds them, in
// `room` for 2 n of T's.
template <class T, class F>
void with_entries(Entry<T>* room, const T* x, int64_t n, Order<T> order, F&& f) {
  const Range range = range_of(x, n, order);
  const auto go = [&](auto* entries) {
    alone_or_shared(
        n, [&](int64_t begin, int64_t end) { make_entries(entries, x, begin, end, order, range.least); });
    f(entries, int(range.bits), range.least);
  };
  if (sizeof(T) == 4 || range.bits <= 32)
    go(reinterpret_cast<Word*>(room));
  else if constexpr (sizeof(T) == 8)
    go(room);
}

template <class E>
[[gnu::always_inline]] inline int digit_of(const E& entry, int byte) {
  return int(entry.key() >> (8 * byte) & 255);
}
// From counts of digits, part by part, to the places where each part's elements of a digit go.
[[gnu::always_inline]] inline void to_places(uint32_t* counts, int64_t parts) {
  uint32_t sum = 0;
  for (int digit = 0; digit < 256; ++digit)
    for (int64_t part = 0; part < parts; ++part) sum += std::exchange(counts[part * 256 + digit], sum);
}
template <class E>
void move_entries(E* to, const E* from, int64_t begin, int64_t end, int byte, uint32_t* next) {
  for (int64_t i = begin; i < end; ++i) to[next[digit_of(from[i], byte)]++] = from[i];
}

// By the bytes of the key, the lowest first; returns where the sorted entries are. Bytes that are the same
// everywhere are passed over.
template <class E>
E* radix_sort(E* from, E* to, int64_t n, int bits) {
  constexpr int kDigits = int(sizeof(E)) / 2;  // of the key; more of them may be 0 than `bits` says
  uint32_t counts[kDigits][256] = {};
  for (int64_t i = 0; i < n; ++i)
    for (int b = 0; b < kDigits; ++b) ++counts[b][digit_of(from[i], b)];
  for (int b = 0; 8 * b < bits; ++b) {
    if (int64_t(counts[b][digit_of(from[0], b)]) == n) continue;
    to_places(counts[b], 1);
    move_entries(to, from, 0, n, b, counts[b]);
    std::swap(from, to);
  }
  return from;
}
// The same by several threads.
template <class E>
E* radix_sort(E* from, E* to, int64_t n, int bits, int64_t parts) {
  if (parts == 1) return radix_sort(from, to, n, bits);
  memory::Buffer<uint32_t> counts{size_t(parts * 256)};
  for (int b = 0; 8 * b < bits; ++b) {
    parallel_tasks(parts, [&](int64_t part) {
      uint32_t* own = counts + part * 256;
      std::fill(own, own + 256, 0u);
      for (int64_t i = n * part / parts; i < n * (part + 1) / parts; ++i) ++own[digit_of(from[i], b)];
    });
    int64_t first = 0;  // elements with the first one's digit
    for (int64_t part = 0; part < parts; ++part) first += counts[part * 256 + digit_of(from[0], b)];
    if (first == n) continue;
    to_places(counts, parts);
    parallel_tasks(parts, [&](int64_t part) {
      move_entries(to, from, n * part / parts, n * (part + 1) / parts, b, counts + part * 256);
    });
    std::swap(from, to);
  }
  return from;
}

// The k smallest entries of a row, in order, at the beginning of `kept` (room for 2 k + 64 + a vector).
template <class T>
void smallest(Entry<T>* kept, const T* x, int64_t n, int64_t k, Order<T> order) {
  constexpr int w = kWidth<T>;
  using E = Entry<T>;
  const int64_t room = 2 * k + 64;
  const auto bound = [&](int64_t count) {
    std::nth_element(kept, kept + k - 1, kept + count);
    return Signed<T>(kept[k - 1].key() ^ raised<T>(0));
  };
  constexpr Signed<T> most = std::numeric_limits<Signed<T>>::max();
  constexpr int kGroups = 4;        // vectors of smallest keys, each lane's of a group of elements
  constexpr int64_t kFirst = 1024;  // elements whose keys are read for that alone
  Signed<T> worst = most;
  if (k <= kGroups * w / 2 && n >= 4 * kGroups * w) {
    Vec<Signed<T>> least[kGroups];
    for (auto& group : least) group = broadcast(most);
    for (int64_t i = 0; i + kGroups * w <= std::min(n, kFirst); i += kGroups * w)
#pragma GCC unroll 4
      for (int g = 0; g < kGroups; ++g) {
        const auto keys = keys_of<T>(load(x + i + g * w), order);
        least[g] = keys < least[g] ? keys : least[g];
      }
    for (int g = 0; g < kGroups * w; ++g) kept[g] = E::of(raised<T>(least[g / w][g % w]), g);
    worst = bound(kGroups * w);  // k elements reach it, and few others
  }
  int64_t count = 0, i = 0;
  if (worst < most) {
    ++worst;
  } else {  // the best of more than k elements
    count = k;
    i = std::min(n, 2 * k + 32);
    make_entries(kept, x, 0, i, order, 0);
    worst = bound(i);
  }
  for (; i < n; i += w) {
    const int here = int(std::min<int64_t>(w, n - i));
    const auto keys = keys_of<T>(load_some(x + i, here), order);
    // A later element as good as the worst kept one does not replace it.
    if (!any(keys < worst)) continue;
    for (int j = 0; j < here; ++j)
      if (keys[j] < worst) kept[count++] = E::of(raised<T>(keys[j]), i + j);
    if (count < room) continue;
    worst = bound(count);
    count = k;
  }
  std::nth_element(kept, kept + k - 1, kept + count);
  std::sort(kept, kept + k);
}

// f(row, room, parts) for every row, with a thread's room for `count` entries.
template <class T, class F>
void for_rows(int64_t rows, int64_t n, int64_t grain, int64_t count, F&& f) {
  const auto run = [&](int64_t begin, int64_t end, int64_t parts) __attribute__((noinline)) {
    memory::Buffer<Entry<T>> room{size_t(count)};
    for (int64_t row = begin; row < end; ++row) f(row, room.get(), parts);
  };
  const int64_t parts =
      std::min<int64_t>(num_threads(), n / 8192);  // of a row, each with a thread of its own
  if (rows < parts && n >= kSharedFrom) return run(0, rows, parts);
  parallel_for(rows, std::max<int64_t>(1, grain / n),
               [&](int64_t begin, int64_t end) { run(begin, end, 1); });
}

// The entries of a row in order.
template <class T, class F>
void with_sorted(Entry<T>* room, const T* x, int64_t n, Order<T> order, int64_t parts, F&& f) {
  with_entries(room, x, n, order, [&](auto* entries, int bits, uint64_t least) {
    if (n < kRadixFrom)
      std::sort(entries, entries + n);
    else
      entries = radix_sort(entries, entries + n, n, bits, parts);
    f(entries, least);
  });
}

template <class T>
void sort_in(T* values, int64_t* indices, const T* x, int64_t rows, int64_t n, int64_t k, Order<T> order) {
  if (rows == 0 || k == 0) return;
  const auto put = [=](int64_t row, int64_t i, int64_t rank) {
    if (rank >= k) return;
    indices[row * k + rank] = i;
    std::memcpy(values + row * k + rank, x + row * n + i, sizeof(T));
  };
  const bool few = 4 * k < n;
  constexpr int64_t w = kWidth<T>;
  if (n <= w)
    return parallel_for(ceil_div(rows, w), ceil_div(ranked_grain<T>(n), w), [&](int64_t begin, int64_t end) {
      alignas(64) Signed<T> ranks[w * w];
      for (int64_t row = begin * w; row < std::min(rows, end * w); ++row) {
        const int64_t r = row % w;
        if (r == 0) rank_short_rows(ranks, x + row * n, int(std::min(w, rows - row)), n, order);
        for (int64_t i = 0; i < n; ++i) put(row, i, ranks[i * w + r]);
      }
    });
  if (n <= (few ? kFewRankedUpTo<T> : kRankedUpTo<T>))
    return parallel_for(rows, ranked_grain<T>(n), [&](int64_t begin, int64_t end) {
      alignas(64) Signed<T> ranks[kRankedUpTo<T>];
      const bool one_by_one = few && 80 * k < n * (n / w + 4);  // by what both cost
      for (int64_t row = begin; row < end; ++row) {
        const T* from = x + row * n;
        if (one_by_one && first_few(indices + row * k, from, n, k, order)) {
          for (int64_t j = 0; j < k; ++j) put(row, indices[row * k + j], j);
          continue;
        }
        rank_row(ranks, from, n, order);
        for (int64_t i = 0; i < n; ++i) put(row, i, ranks[i]);
      }
    });
  const auto write = [&](int64_t row, const auto* sorted, uint64_t least) {
    alone_or_shared(k, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j) {
        const int64_t place = sorted[j].place();
        indices[row * k + j] = place;
        if (order.integers) {  // the key is the element: no walk through memory
          const auto value = Signed<T>(raised<T>(Signed<T>(sorted[j].key() + least)) ^ order.invert);
          std::memcpy(values + row * k + j, &value, sizeof(T));
        } else {
          std::memcpy(values + row * k + j, x + row * n + place, sizeof(T));
        }
      }
    });
  };
  for_rows<T>(rows, n, (few ? 8 : 1) * kGrain, few ? 2 * k + 64 + kWidth<T> : 2 * n,
              [&](int64_t row, Entry<T>* room, int64_t parts) {
                const T* from = x + row * n;
                if (few) {
                  smallest(room, from, n, k, order);
                  return write(row, room, 0);
                }
                with_sorted(room, from, n, order, parts,
                            [&](const auto* sorted, uint64_t least) { write(row, sorted, least); });
              });
}

template <class T>
void select_in(int64_t* indices, const T* x, int64_t rows, int64_t n, int64_t k, Order<T> order) {
  if (n <= kFewRankedUpTo<T>)
    return parallel_for(rows, ranked_grain<T>(n), [&](int64_t begin, int64_t end) {
      alignas(64) Signed<T> ranks[kFewRankedUpTo<T>];
      for (int64_t row = begin; row < end; ++row) {
        rank_row(ranks, x + row * n, n, order);
        indices[row] = std::find(ranks, ranks + n, Signed<T>(k)) - ranks;
      }
    });
  for_rows<T>(rows, n, 2 * kGrain, n, [&](int64_t row, Entry<T>* room, int64_t) {
    with_entries(room, x + row * n, n, order, [&](auto* entries, int, uint64_t) {
      std::nth_element(entries, entries + k, entries + n);
      indices[row] = entries[k].place();
    });
  });
}

template <class T>
void mode_in(int64_t* indices, const T* x, int64_t rows, int64_t n, Order<T> order) {
  for_rows<T>(rows, n, kGrain, 2 * n, [&](int64_t row, Entry<T>* room, int64_t parts) {
    with_sorted(room, x + row * n, n, order, parts, [&](const auto* sorted, uint64_t) {
      int64_t longest = 0, last = 0;
      for (int64_t begin = 0, end; begin < n; begin = end) {
        end = begin + 1;
        const T value = x[row * n + sorted[begin].place()];
        if (order.integers || value == value)  // each NaN is a value of its own
          while (end < n && sorted[end].key() == sorted[begin].key()) ++end;
        if (end - begin > longest) longest = end - begin, last = end - 1;
      }
      indices[row] = sorted[last].place();
    });
  });
}

template <class T>
using Form = std::conditional_t<sizeof(T) == 4, float, double>;

}  // namespace

template <class T>
void sort_rows(T* values, int64_t* indices, const T* x, int64_t rows, int64_t n, int64_t k, bool descending) {
  using F = Form<T>;
  sort_in<F>(reinterpret_cast<F*>(values), indices, reinterpret_cast<const F*>(x), rows, n, k,
             {descending ? -1 : 0, std::is_integral_v<T>});
}

template <class T>
void select_rows(int64_t* indices, const T* x, int64_t rows, int64_t n, int64_t k) {
  using F = Form<T>;
  select_in<F>(indices, reinterpret_cast<const F*>(x), rows, n, k, {0, std::is_integral_v<T>});
}

template <class T>
void mode_rows(int64_t* indices, const T* x, int64_t rows, int64_t n) {
  using F = Form<T>;
  mode_in<F>(indices, reinterpret_cast<const F*>(x), rows, n, {0, std::is_integral_v<T>});
}

#define FASTDL_INSTANTIATE(T)                                                          \
  template void mode_rows<T>(int64_t*, const T*, int64_t, int64_t);                    \
  template void sort_rows<T>(T*, int64_t*, const T*, int64_t, int64_t, int64_t, bool); \
  template void select_rows<T>(int64_t*, const T*, int64_t, int64_t, int64_t);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
FASTDL_INSTANTIATE(int32_t)
FASTDL_INSTANTIATE(int64_t)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl
