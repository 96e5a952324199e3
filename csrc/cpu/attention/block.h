// What forward and backward share. Scores are computed transposed: a tile has one key per row and one query
// per lane, so that maxima, sums and rescaling are vertical, and the weights lie as the matrix engine's B
// panel for the product that follows. Scores are in units of log 2 (scale * log2(e) is folded into the packed
// queries), so exponentials are powers of two.
#pragma once

#include <algorithm>
#include <cmath>

#include "cpu/attention/attention.h"
#include "cpu/gemm/pack.h"
#include "cpu/gemm/panels.h"
#include "cpu/gemm/tile.h"
#include "cpu/simd/math.h"
#include "cpu/simd/philox.h"

namespace fastdl::attention {

using namespace simd;
namespace detail = simd::detail;

template <class T>
inline constexpr int kLanes = tile::kNR<T>;  // queries of a tile
template <class T>
inline constexpr int kVectors = kLanes<T> / kWidth<T>;
inline constexpr int kTiles = 2;  // tiles that pass over a block of keys together
template <class T>
inline constexpr int kQueries = kTiles * kLanes<T>;  // queries of a block
template <class T>
inline constexpr int kStrip = tile::kMR<T>;  // keys that the register tile holds
template <class T>
inline constexpr int kKeys = (kStrip<T> > 8 ? 8 : 16) * kStrip<T>;  // keys of a block

inline constexpr double kLog2E = 1.4426950408889634074;

// 2^x for x <= 0 (a little above, after rounding, is fine): 2 units in the last place for float, 1 for
// double. Below the normal numbers, at -infinity too, exactly 0; NaN stays NaN.
template <class T>
[[gnu::always_inline]] inline Vec<T> power_of_two(Vec<T> x) {
  const Vec<T> shifted = x + detail::kRounder<T>;
  const Vec<T> r = x - (shifted - detail::kRounder<T>);
  Vec<T> q;  // (2^r - 1) / r on [-1/2, 1/2], relative error of the power 9e-8 and 8e-18
  if constexpr (detail::kSingle<T>)
    q = detail::polynomial<T>(r, 0.0013264728769368976, 0.0096715131831001493, 0.05550733744476951,
                              0.24022242077091516, 0.69314697759511457);
  else
    q = detail::polynomial<T>(r, 4.4549605981865185635e-10, 7.0725859492692233873e-09,
                              1.0178062445845773668e-07, 1.3215442587921689303e-06, 1.5252733829836119235e-05,
                              0.00015403530441736049887, 0.0013333558146416935562, 0.0096181291076068882451,
                              0.055504108664821596997, 0.24022650695910097163, 0.69314718055994528623);
  constexpr int shift = detail::kMantissaBits<T>;
  // Unsigned: far below the normal numbers the bits are junk, and may wrap around.
  const Vec<T> power = (Vec<T>)(((VecUnsigned<T>)shifted + detail::kExponentBias<T>) << shift);
  const Vec<T> y = (q * r + T(1)) * power;
  return x < T(1 - detail::kExponentBias<T>) ? Vec<T>{} : y;
}

// Lanes past the last query are computed like the others and never used.
template <class T>
inline int whole_vectors(int64_t lanes) {
  return int(ceil_div(lanes, kWidth<T>));
}

// What one head of queries takes on one thread, for products that sum up to `size` and a fixed part: whole vectors of
// queries are computed, and what is read and written is packed.
template <class T>
double head_microseconds(const Problem& p, int64_t size, double fixed) {
  const int64_t lanes = whole_vectors<T>(p.queries) * kWidth<T>;
  const int64_t visible = p.causal ? (std::min(p.keys, p.queries) + 1) / 2 : p.keys;
  return fixed + 1.3e-4 * double((p.keys + p.queries) * size) +
         tile::product_microseconds<T>(lanes, visible, size + 16);
}

// to = from * factor, n numbers.
template <class T>
inline void scale_row(T* to, const T* from, int64_t n, T factor) {
  int64_t e = 0;
  for (; e + kWidth<T> <= n; e += kWidth<T>) store<T>(to + e, load(from + e) * factor);
  if (e < n) store_n(to + e, load_n(from + e, int(n - e)) * factor, int(n - e));
}

template <class T>
inline T dot(const T* x, const T* y, int64_t n) {
  Vec<T> sum{};
  for (int64_t e = 0; e < n; e += kWidth<T>) {
    const int here = int(std::min<int64_t>(kWidth<T>, n - e));
    sum += load_n(x + e, here) * load_n(y + e, here);
  }
  return reduce_add<T>(sum);
}

// Rows of a matrix as B panels of kLanes each, out[e * kLanes + lane], times `factor`.
template <class T>
void pack_lanes(T* out, const T* rows, int64_t step, int count, int64_t size, T factor) {
  if (count < kLanes<T>) std::fill_n(out, size * kLanes<T>, T(0));
  tile::pack_panel<T, kLanes<T>>(out, rows, step, 1, count, size);
  if (factor != T(1)) scale_row<T>(out, out, size * kLanes<T>, factor);
}

// Rows first .. last as strips: A panels for products with lanes = queries, k along a row. Strip s at
// out + s * kStrip * size.
template <class T>
void pack_strips(T* out, const T* rows, int64_t step, int64_t count, int64_t size) {
  for (int64_t i = 0; i < count; i += kStrip<T>)
    tile::pack_panel<T, kStrip<T>>(out + i * size, rows + i * step, step, 1,
                                   int(std::min<int64_t>(kStrip<T>, count - i)), size);
}

// Rows as A panels with k along the column, block of kKeys rows by block: panel p of the block that starts at
// row r is at out + r * padded + p * kStrip * (rows of the block), padded = size rounded up to whole panels.
template <class T>
int64_t padded_size(int64_t size) {
  return ceil_div(size, kStrip<T>) * kStrip<T>;
}
template <class T>
void pack_columns(T* out, const T* rows, int64_t step, int64_t count, int64_t size) {
  for (int64_t r = 0; r < count; r += kKeys<T>) {
    const int64_t n = std::min<int64_t>(kKeys<T>, count - r);
    T* to = out + r * padded_size<T>(size);
    for (int64_t c = 0; c < size; c += kStrip<T>, to += kStrip<T> * n)
      tile::pack_panel<T, kStrip<T>>(to, rows + r * step + c, 1, step,
                                     int(std::min<int64_t>(kStrip<T>, size - c)), n);
  }
}

// tile (rows x lanes, row stride ld) = or += strip or columns (A panel) times lanes (B panel, step b_step).
template <class T>
[[gnu::always_inline]] inline void product(int64_t k, const T* a, int rows, const T* b, int64_t b_step,
                                           int vectors, T* c, int64_t ld, bool add) {
  const int cols = vectors * kWidth<T>;
  tile::kernel_for<T>(rows, cols)(k, a, kStrip<T>, b, b_step, cols,
                                  {c, ld, T(1), add ? T(1) : T(0), nullptr, nullptr, GemmActivation::none});
}

// out_rows (step apart) of `count` lanes = transposed tile (size x lanes, row stride kLanes) * factor per
// lane.
template <class T>
void store_lanes(T* out, int64_t step, const T* from, int64_t size, int count, const T* factor) {
  constexpr int w = kWidth<T>;
  for (int64_t e = 0; e < size; e += w)
    for (int lane = 0; lane < count; lane += w) {
      const int n = int(std::min<int64_t>(w, size - e)), lanes = std::min(w, count - lane);
      Vec<T> x[w];
      const Vec<T> f = load(factor + lane);
#pragma GCC unroll 16
      for (int i = 0; i < w; ++i)
        x[i] = load(from + std::min<int64_t>(e + i, size - 1) * kLanes<T> + lane) * f;
      tile::transpose<T>(x);
#pragma GCC unroll 16
      for (int i = 0; i < w; ++i) {
        if (i >= lanes) break;
        if (n == w)
          store<T>(out + (lane + i) * step + e, x[i]);
        else
          store_n(out + (lane + i) * step + e, x[i], n);
      }
    }
}

// Causal: makes query q0 + lane blind to keys after it. Tile rows are keys key0 .. key0 + keys.
template <class T>
void hide_future(T* tile, int64_t ld, int vectors, int64_t q0, int64_t key0, int64_t keys) {
  constexpr int w = kWidth<T>;
  Vec<T> lane;
#pragma GCC unroll 16
  for (int i = 0; i < w; ++i) lane[i] = T(i);
  for (int64_t k = std::max<int64_t>(0, q0 + 1 - key0); k < keys; ++k)
    for (int v = 0; v < vectors; ++v) {
      T* at = tile + k * ld + v * w;
      store<T>(at, lane < T(key0 + k - q0 - v * w) ? broadcast<T>(-detail::kInfinity<T>) : load(at));
    }
}

// kWidth bytes as integers. The compiler takes conversions across more than one doubling apart.
template <class T>
[[gnu::always_inline]] inline VecInt<T> load_bytes(const uint8_t* p) {
  constexpr int w = kWidth<T>;
#if defined(__x86_64__)
  uint8_t padded[16];
  std::memcpy(padded, p, w);
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(padded));
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return (VecInt<T>)_mm512_cvtepu8_epi32(bytes);
  else
    return (VecInt<T>)_mm512_cvtepu8_epi64(bytes);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return (VecInt<T>)_mm256_cvtepu8_epi32(bytes);
  else
    return (VecInt<T>)_mm256_cvtepu8_epi64(bytes);
#else
  if constexpr (sizeof(T) == 4)
    return (VecInt<T>)_mm_cvtepu8_epi32(bytes);
  else
    return (VecInt<T>)_mm_cvtepu8_epi64(bytes);
#endif
#else
  Int<T> wide[w];
  for (int i = 0; i < w; ++i) wide[i] = p[i];
  return load(wide);
#endif
}

// What a mask says about a rectangle of scores.
enum class Region { open, hidden, mixed };

// The mask of one (batch, head): reads part of row i as numbers to add to scores in units of log 2.
template <class T>
struct MaskRows {
  const T* added;
  const uint8_t* allowed;
  int64_t row, col, keys;

  MaskRows(const Mask<T>& m, int64_t b, int64_t h, int64_t keys)
      : added(m.added ? m.added + b * m.batch + h * m.head : nullptr),
        allowed(m.allowed ? m.allowed + b * m.batch + h * m.head : nullptr),
        row(m.row),
        col(m.col),
        keys(keys) {}
  explicit operator bool() const { return added || allowed; }

  T one(int64_t i, int64_t j) const {
    if (added) return added[i * row + j * col] * T(kLog2E);
    return allowed[i * row + j * col] ? T(0) : -detail::kInfinity<T>;
  }
  // Columns j .. j + n of row i, n <= kWidth.
  [[gnu::always_inline]] Vec<T> part(int64_t i, int64_t j, int n) const {
    constexpr int w = kWidth<T>;
    if (col == 1 && added) {
      const T* p = added + i * row + j;
      return (n == w ? load(p) : load_n(p, n)) * T(kLog2E);
    }
    if (col == 1 && n == w)
      return load_bytes<T>(allowed + i * row + j) != 0 ? Vec<T>{} : broadcast<T>(-detail::kInfinity<T>);
    T lanes[w] = {};
    for (int k = 0; k < n; ++k) lanes[k] = one(i, j + k);
    return load(lanes);
  }
  // Of queries i .. i + rows and keys j .. j + n; where a vector reaches further it may call mixed what is
  // not.
  [[gnu::noinline]] Region region(int64_t i, int64_t rows, int64_t j, int64_t n) const {
    if (col != 1) return Region::mixed;
    constexpr int w = kWidth<T>;
    bool open = true, hidden = true;
    if (row == 0) rows = 1;
    for (int64_t r = i; r < i + rows && (open || hidden); ++r) {
      VecInt<T> changes{}, shows{};
      for (int64_t k = j; k < j + n; k += w) {
        const int here = int(std::min<int64_t>(w, keys - k));
        const Vec<T> x = part(r, k, here);
        changes |= x != T(0);
        shows |= here == w ? x != -detail::kInfinity<T> : VecInt<T>{} - 1;
      }
      bool changed = false, shown = false;
      for (int lane = 0; lane < w; ++lane) changed |= changes[lane] != 0, shown |= shows[lane] != 0;
      open &= !changed, hidden &= !shown;
    }
    return open ? Region::open : hidden ? Region::hidden : Region::mixed;
  }
};

// tile += mask, for `keys` rows of the tile from key0 and `queries` lanes from q0.
template <class T>
[[gnu::noinline]] void add_mask(T* tile, int64_t ld, const MaskRows<T>& mask, int64_t q0, int64_t queries,
                                int64_t key0, int64_t keys) {
  constexpr int w = kWidth<T>;
  const int vectors = whole_vectors<T>(queries);
  if (mask.row == 0) {  // the same for every query
    for (int64_t k = 0; k < keys; ++k) {
      const T bias = mask.one(0, key0 + k);
      if (bias == T(0)) continue;
      for (int v = 0; v < vectors; ++v) {
        T* at = tile + k * ld + v * w;
        store<T>(at, load(at) + bias);
      }
    }
    return;
  }
  for (int v = 0; v < vectors; ++v)
    for (int64_t k = 0; k < keys; k += w) {
      const int n = int(std::min<int64_t>(w, keys - k));
      const int there =
          int(std::min<int64_t>(w, mask.keys - key0 - k));  // whole vectors where the row has them
      Vec<T> x[w];
#pragma GCC unroll 16
      for (int i = 0; i < w; ++i)
        x[i] = mask.part(q0 + std::min<int64_t>(v * w + i, queries - 1), key0 + k, there);
      tile::transpose<T>(x);
      T* at = tile + k * ld + v * w;
#pragma GCC unroll 16
      for (int i = 0; i < w; ++i) {
        if (i >= n) break;
        store<T>(at + i * ld, load(at + i * ld) + x[i]);
      }
    }
}

// Which weights stay: words of the stream as the reference defines them, one call per key and kPhiloxWords
// queries.
template <class T>
class Dropout {
 public:
  Dropout(const Problem& p)
      : stream_(p.philox),
        threshold_(int32_t(std::min<int64_t>(std::llround(p.p * 0x1p31), 0x7fffffff))),
        padded_(ceil_div(p.queries, 4) * 4),
        keys_(p.keys),
        active_(p.p > 0),
        scale_(p.p < 1 ? T(1 / (1 - p.p)) : T(0)) {}

  explicit operator bool() const { return active_; }
  T scale() const { return scale_; }  // what the kept weights are multiplied by

  // keep(v, mask) for the vectors of one row: key `key` of head number `head`, `vectors` vectors from q0.
  template <class F>
  [[gnu::always_inline]] void row(int64_t head, int64_t key, int64_t q0, int vectors, F&& keep) const {
    alignas(64) uint32_t words[kQueries<T> + kPhiloxWords];
    const uint64_t first = uint64_t((head * keys_ + key) * padded_ + q0) / 4;
    for (int i = 0; i < vectors * kWidth<T>; i += kPhiloxWords) {
      const PhiloxWords two = philox_words(stream_, first + uint64_t(i) / 4);
      store<uint64_t>(reinterpret_cast<uint64_t*>(words + i), two.low);
      store<uint64_t>(reinterpret_cast<uint64_t*>(words + i + kPhiloxWords / 2), two.high);
    }
    for (int v = 0; v < vectors; ++v) {
      VecInt<T> bits;
      if constexpr (sizeof(T) == 4) {
        bits = (VecInt<T>)(load(words + v * kWidth<T>) >> 1);
      } else {
        using Half [[gnu::vector_size(kBytes / 2)]] = uint32_t;
        Half half;
        std::memcpy(&half, words + v * kWidth<T>, sizeof half);
        bits = __builtin_convertvector(half >> 1, VecInt<T>);
      }
      keep(v, bits >= Int<T>(threshold_));
    }
  }

 private:
  PhiloxStream stream_;
  int32_t threshold_;
  int64_t padded_, keys_;
  bool active_;
  T scale_;
};

// A head's work is a row of blocks of queries, one head after the other; this cuts the blocks of `heads`
// heads into parts of equal work. Causal block i sees i + 1 blocks of keys (as far as there are keys).
struct Blocks {
  int64_t heads, per_head;
  int64_t visible;  // blocks of keys; causal rows see no more than these
  bool causal;

  double work(int64_t block) const {  // of blocks 0 .. block
    const int64_t i = block % per_head;
    const auto upto = [&](int64_t n) {
      if (!causal) return double(n);
      const double rising = double(std::min(n, visible));
      return rising * (rising + 1) / 2 + double(n - std::min(n, visible)) * double(visible);
    };
    return double(block / per_head) * upto(per_head) + upto(i);
  }
  int64_t boundary(int64_t part, int64_t parts) const {
    const int64_t all = heads * per_head;
    if (part == parts) return all;
    const double wanted = work(all) * double(part) / double(parts);
    int64_t low = 0, high = all;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (work(middle) < wanted)
        low = middle + 1;
      else
        high = middle;
    }
    return low;
  }
};

}  // namespace fastdl::attention
