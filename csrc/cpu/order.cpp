// Sorting rows, wholly or only the first k.
//
// An element becomes an integer key with the same order (negative floats have their bits below the sign
// flipped; NaN is the largest; falling order inverts all bits), with its place behind it: no two entries are
// equal, so any sort is stable. Entries of float are one 64-bit word and long rows of them are sorted by
// radix, a byte of the key at a time; the others are compared. Few of many (topk): one pass compares vectors
// of keys with the k-th best so far; what passes is collected, and 2 k or more are cut back to k.
//
// Work: rows over threads. Passes: x once, and entries in a cache.
#include "cpu/order.h"

#include <algorithm>
#include <limits>

#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/simd.h"

namespace fastdl {
namespace {

using namespace simd;

constexpr int64_t kGrain = 1024;     // elements worth about 10 us
constexpr int64_t kRadixFrom = 256;  // shorter rows are compared

template <class T>
struct Entry {  // of double
  int64_t key, place;
  static Entry of(int64_t key, int64_t place) { return {key, place}; }
  bool operator<(const Entry& other) const {
    return key != other.key ? key < other.key : place < other.place;
  }
};
template <>
struct Entry<float> {
  uint64_t word;
  static Entry of(int32_t key, int64_t place) {
    return {uint64_t(uint32_t(key) ^ 0x80000000u) << 32 | uint64_t(place)};
  }
  bool operator<(const Entry& other) const { return word < other.word; }
};
inline int64_t place_of(const Entry<float>& e) {
  return int64_t(e.word & 0xffffffff);
}
inline int64_t place_of(const Entry<double>& e) {
  return e.place;
}
inline int32_t key_of(const Entry<float>& e) {
  return int32_t(uint32_t(e.word >> 32) ^ 0x80000000u);
}
inline int64_t key_of(const Entry<double>& e) {
  return e.key;
}

template <class T>
[[gnu::always_inline]] inline Vec<Int<T>> keys_of(Vec<T> x, Int<T> invert) {
  constexpr Int<T> most = std::numeric_limits<Int<T>>::max();
  const auto bits = (Vec<Int<T>>)(x + T(0));  // -0 becomes 0
  const Vec<Int<T>> key = bits ^ ((bits >> (8 * int(sizeof(T)) - 1)) & most);
  return (x != x ? broadcast<Int<T>>(most) : key) ^ invert;
}

template <class T>
void make_entries(Entry<T>* to, const T* x, int64_t n, Int<T> invert) {
  constexpr int w = kWidth<T>;
  for (int64_t i = 0; i < n; i += w) {
    const int count = int(std::min<int64_t>(w, n - i));
    const auto keys = keys_of<T>(count == w ? load(x + i) : load_n(x + i, count), invert);
    for (int j = 0; j < count; ++j) to[i + j] = Entry<T>::of(keys[j], i + j);
  }
}

// By the bytes of the key, the lowest first; returns where the sorted entries are.
Entry<float>* radix_sort(Entry<float>* from, Entry<float>* to, int64_t n) {
  uint32_t counts[4][256] = {};
  for (int64_t i = 0; i < n; ++i)
    for (int b = 0; b < 4; ++b) ++counts[b][from[i].word >> (32 + 8 * b) & 255];
  for (int b = 0; b < 4; ++b) {
    uint32_t* next = counts[b];
    if (int64_t(next[from[0].word >> (32 + 8 * b) & 255]) == n) continue;  // all the same
    for (uint32_t i = 0, sum = 0; i < 256; ++i) {
      const uint32_t count = next[i];
      next[i] = sum;
      sum += count;
    }
    for (int64_t i = 0; i < n; ++i) to[next[from[i].word >> (32 + 8 * b) & 255]++] = from[i];
    std::swap(from, to);
  }
  return from;
}

// The k smallest entries of a row, in order, at the beginning of `kept` (room for 2 k + 64 + a vector).
template <class T>
void smallest(Entry<T>* kept, const T* x, int64_t n, int64_t k, Int<T> invert) {
  constexpr int w = kWidth<T>;
  const int64_t room = 2 * k + 64;
  // The best of more than k elements: a bound that few of the others pass.
  const int64_t sample = std::min(n, 2 * k + 32);
  make_entries(kept, x, sample, invert);
  std::nth_element(kept, kept + k - 1, kept + sample);
  Int<T> worst = key_of(kept[k - 1]);
  int64_t count = k, i = sample;
  for (; i < n; i += w) {
    const int here = int(std::min<int64_t>(w, n - i));
    const auto keys = keys_of<T>(here == w ? load(x + i) : load_n(x + i, here), invert);
    // A later element as good as the worst kept one does not replace it.
    if (!any(keys < worst)) continue;
    for (int j = 0; j < here; ++j)
      if (keys[j] < worst) kept[count++] = Entry<T>::of(keys[j], i + j);
    if (count < room) continue;
    std::nth_element(kept, kept + k - 1, kept + count);
    worst = key_of(kept[k - 1]);
    count = k;
  }
  std::nth_element(kept, kept + k - 1, kept + count);
  std::sort(kept, kept + k);
}

}  // namespace

template <class T>
void sort_rows(T* values, int64_t* indices, const T* x, int64_t rows, int64_t n, int64_t k, bool descending) {
  if (rows == 0 || k == 0) return;
  const Int<T> invert = descending ? -1 : 0;
  const bool few = 4 * k < n;
  const int64_t grain = std::max<int64_t>(1, (few ? 8 : 1) * kGrain / n);
  parallel_for(rows, grain, [=](int64_t begin, int64_t end) {
    memory::Buffer<Entry<T>> entries(size_t(few ? 2 * k + 64 + kWidth<T> : 2 * n));
    for (int64_t row = begin; row < end; ++row) {
      const T* from = x + row * n;
      Entry<T>* sorted = entries.get();
      if (few) {
        smallest(sorted, from, n, k, invert);
      } else {
        make_entries(sorted, from, n, invert);
        bool done = false;
        if constexpr (sizeof(T) == 4)
          if (n >= kRadixFrom) {
            sorted = radix_sort(sorted, sorted + n, n);
            done = true;
          }
        if (!done) std::sort(sorted, sorted + n);
      }
      for (int64_t j = 0; j < k; ++j) {
        const int64_t place = place_of(sorted[j]);
        indices[row * k + j] = place;
        values[row * k + j] = from[place];
      }
    }
  });
}

template void sort_rows<float>(float*, int64_t*, const float*, int64_t, int64_t, int64_t, bool);
template void sort_rows<double>(double*, int64_t*, const double*, int64_t, int64_t, int64_t, bool);

}  // namespace fastdl
