// Products of plain matrices one of which, in a block of k, fits L2: it stays there, the other passes by
// once, panel by panel, and so costs no packed copy of its own. (Larger ones: panels.h.)
//
//   B stays   rows of A pass and are read where they lie; C is written along its rows. B lies as it is, or is
//             packed first, by all threads, or in parts, each by the thread that multiplies with it.
//   A stays   panels of B's columns pass, each packed by the thread that uses it straight before its use (or, of
//             few rows, read where it lies), while the next one's memory is on its way.
//
// Where k is contiguous in both, packing transposes: then B^T may pass as A does, in place, and the transpose
// of the product is computed, if that saves more than turning C's tiles and waiting for A's packing cost.
//
// Threads share the passing operand, and the other where that is too short for all. How k is cut depends on
// the shape alone.
#include "cpu/gemm/resident.h"

#include <algorithm>

#include "cpu/gemm/panels.h"

namespace fastdl::tile {
namespace {

constexpr int64_t kResidentBytes = 384 << 10;  // part of L2
constexpr int64_t kInPlaceBytes = 256 << 10;   // of a block that is spread over no more than this
constexpr int64_t kShort = 32;                 // steps of k
constexpr int64_t kLong = 192;                 // steps of k, too
constexpr int64_t kLargeC = 512 << 10;         // elements, beyond which writing them counts for longer sums
constexpr int64_t kShortOfLarge = std::max<int64_t>(kShort, 3 * simd::kBytes / 2);
constexpr int64_t kGroupBytes = 16 << 10;  // of panels that pass together: part of L1
constexpr int64_t kFewRows = 128;          // of B: each lies in a page of its own
constexpr int64_t kPackedBytes = 8 << 20;  // of all blocks of k together

template <class T>
struct Product {
  int64_t m, n, k;
  MatrixView<T> a, b;
  T alpha, beta;
  T* c;
  int64_t ldc;
  const GemmEpilogue<T>& epilogue;
  bool transposed;  // c is the product's transpose

  Store<T> store(int64_t i, int64_t j, int64_t k0, int64_t kc) const {
    const int64_t row = transposed ? j : i, col = transposed ? i : j;
    const bool last = k0 + kc == k;
    Store<T> to{c + row * ldc + col,
                ldc,
                alpha,
                k0 == 0 ? beta : T(1),
                last && epilogue.bias_row ? epilogue.bias_row + row : nullptr,
                last && epilogue.bias_col ? epilogue.bias_col + col : nullptr,
                last ? epilogue.activation : GemmActivation::none};
    to.transposed = transposed;
    return to;
  }
};

// Steps of k per block, so that `lanes` of the operand that stays fit; 0 if they do not.
template <class T>
int64_t depth_for(int64_t lanes, int64_t k) {
  if (lanes * k * int64_t(sizeof(T)) > kPackedBytes) return 0;
  for (int64_t most : {kMaxKC<T>, kMaxKC<T> / 2}) {
    const int64_t depth = ceil_div(k, ceil_div(k, most));
    if (lanes * depth * int64_t(sizeof(T)) <= kResidentBytes) return depth;
  }
  return 0;
}

// f(first, last, k0, kc) for groups of panels and blocks of k: all of k for one group after the other where the operand
// that stays fits with all of k, else all groups for one block of k.
template <class F>
void for_blocks(int64_t first, int64_t last, int64_t group, int64_t k, int64_t depth, bool all_fits, F&& f) {
  const int64_t step = all_fits ? group : last - first;
  for (int64_t p = first; p < last; p += step)
    for (int64_t k0 = 0; k0 < k; k0 += depth)
      for (int64_t g = p; g < std::min(last, p + step); g += group)
        f(g, std::min(last, g + group), k0, std::min(depth, k - k0));
}

// f(first panel, last panel, first other, last other): panels of the passing operand over threads, and, where
// they are fewer than threads, ranges of the other's. Where what stays does not fit with all of k, each task
// reads all of it again, so there is one per thread.
template <class T, class F>
void for_tasks(const Product<T>& p, int64_t panels, int64_t others, bool all_fits, F&& f) {
  const int64_t threads = fastdl::detail::in_parallel() ? 1 : num_threads();
  const int64_t parts = panels < threads ? std::min(others, ceil_div(2 * threads, panels)) : 1;
  int64_t ranges = threads == 1 ? 1 : std::min(panels, std::max<int64_t>(4 * threads / parts, 1));
  if (ranges > threads) ranges = all_fits ? ranges - ranges % threads : threads;
  share(ranges * parts, product_microseconds<T>(p.m, p.n, p.k), [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t r = t / parts, s = t % parts;
      f(panels * r / ranges, panels * (r + 1) / ranges, others * s / parts, others * (s + 1) / parts);
    }
  });
}

// Of the panels of B's columns, how many tiles read where they lie, if any do: of the last one the kernel would read
// too many columns.
template <class T>
int64_t lying_panels(const Product<T>& p, bool any) {
  const int64_t columns = ceil_div(p.n, kNR<T>);
  return !any ? 0 : p.n % simd::kWidth<T> == 0 ? columns : columns - 1;
}

template <class T>
void b_stays(const Product<T>& p, int64_t depth) {
  constexpr int mr = kMR<T>, nr = kNR<T>;
  const int64_t columns = ceil_div(p.n, nr), whole = columns * nr;
  const bool b_lies = p.b.col == 1 && p.b.row * depth * int64_t(sizeof(T)) <= kInPlaceBytes;
  const int64_t lying = lying_panels(p, b_lies);  // the others are packed
  memory::Buffer<T> packed(size_t((whole - lying * nr) * p.k));
  if (lying < columns)
    detail::pack_all<T, nr>(packed.get(), PackB<T>{p.b}, lying * nr, p.n - lying * nr, 0, p.k, depth);

  // Rows that compete for one set of L1 are copied where a panel of them is used often enough.
  const bool low = rows_of_a_tile(p.a) < mr, rows = p.a.col == 1 && !(low && columns >= 4);
  const bool in_place = rows || (p.a.row == 1 && columns == 1);
  const int64_t panels = ceil_div(p.m, rows ? rows_of_a_tile(p.a) : mr), height = ceil_div(p.m, panels);
  const bool all_fits = p.n * p.k * int64_t(sizeof(T)) <= kResidentBytes;
  for_tasks<T>(p, panels, columns, all_fits, [&](int64_t first, int64_t last, int64_t q0, int64_t q1) {
    alignas(64) T panel[mr * kMaxKC<T>];
    for_blocks(first, last, 1, p.k, depth, all_fits, [&](int64_t t, int64_t, int64_t k0, int64_t kc) {
      const int64_t i = t * height;
      const int count = int(std::min(height, p.m - i));
      const T* source = p.a.data + i * p.a.row + k0 * p.a.col;
      int64_t step = rows ? p.a.row : p.a.col;
      if (!in_place) {
        pack_panel<T, mr>(panel, source, p.a.row, p.a.col, count, kc);
        source = panel, step = mr;
      }
      for (int64_t q = q0; q < q1; ++q) {
        const int cols = int(std::min<int64_t>(nr, p.n - q * nr));
        const bool lies = q < lying;
        const T* b = lies ? p.b.data + k0 * p.b.row + q * nr
                          : packed.get() + k0 * (whole - lying * nr) + (q - lying) * nr * kc;
        Store<T> store = p.store(i, q * nr, k0, kc);
        if (rows && all_fits && p.a.row == p.k) {  // the next panel's rows lie next: a part with each tile
          store.next = p.a.data + (i + height) * p.k + height * (k0 + (q - q0) * kc / (q1 - q0));
          store.next_step = height * int64_t(sizeof(T)) / (q1 - q0);
        }
        kernel_for<T>(count, cols, rows ? Form::rows : Form::panel)(kc, source, step, b, lies ? p.b.row : nr,
                                                                    cols, store);
      }
    });
  });
}

// Whether the tiles of a panel of B may read it where it lies: of few rows, those that share a set of L1 have room
// in its ways.
template <class T>
bool few_rows_lie(const MatrixView<T>& b, int64_t rows) {
  const int64_t apart = b.row * int64_t(sizeof(T)), power = std::min<int64_t>(apart & -apart, 4096);
  return b.col == 1 && rows <= kFewRows && rows * power <= 8 * 4096;
}

template <class T>
void a_stays(const Product<T>& p, int64_t depth) {
  constexpr int mr = kMR<T>, nr = kNR<T>;
  const int64_t columns = ceil_div(p.n, nr), whole = ceil_div(p.m, mr) * mr;
  const bool rows = p.a.col == 1 && rows_of_a_tile(p.a) == mr;
  const bool in_place = rows || (p.a.row == 1 && p.a.col * depth * int64_t(sizeof(T)) <= kInPlaceBytes / 2);
  memory::Buffer<T> packed(in_place ? 0 : size_t(whole * p.k));
  if (!in_place) detail::pack_all<T, mr>(packed.get(), PackA<T>{p.a}, 0, p.m, 0, p.k, depth);

  const int64_t height = in_place ? ceil_div(p.m, ceil_div(p.m, mr)) : mr;
  const int64_t tiles = ceil_div(p.m, height);
  const int64_t step = rows ? p.a.row : in_place ? p.a.col : mr;
  const bool all_fits = p.m * p.k * int64_t(sizeof(T)) <= kResidentBytes;
  // Panels of few steps pass some at a time: C is written along its rows, and A's tile is in L1.
  const int64_t group = std::max<int64_t>(1, kGroupBytes / (nr * depth * int64_t(sizeof(T))));
  const int64_t lying = lying_panels(p, few_rows_lie(p.b, depth));
  for_tasks<T>(p, columns, tiles, all_fits, [&](int64_t first, int64_t last, int64_t t0, int64_t t1) {
    alignas(64) T panels[std::max(nr * kMaxKC<T>, kGroupBytes / int64_t(sizeof(T)))];
    for_blocks(first, last, group, p.k, depth, all_fits, [&](int64_t q0, int64_t q1, int64_t k0, int64_t kc) {
      const T* const b = p.b.data + k0 * p.b.row;
      const auto cols_of = [&](int64_t q) { return int(std::min<int64_t>(nr, p.n - q * nr)); };
      for (int64_t q = std::max(q0, lying); q < q1; ++q)
        pack_panel<T, nr>(panels + (q - q0) * nr * kc, b + q * nr * p.b.col, p.b.col, p.b.row, cols_of(q),
                          kc);
      for (int64_t t = t0; t < t1; ++t) {
        const int64_t i = t * height;
        const int count = int(std::min(height, p.m - i));
        const T* a = in_place ? p.a.data + i * p.a.row + k0 * p.a.col : packed.get() + k0 * whole + i * kc;
        for (int64_t q = q0; q < q1; ++q) {
          const int cols = cols_of(q);
          const bool lies = q < lying;
          Store<T> store = p.store(i, q * nr, k0, kc);
          const int64_t next = q + q1 - q0;
          if (p.b.col == 1 && next < columns && t - t0 < kVectors) {  // a line of the next group's each step
            store.next = b + next * nr + (t - t0) * simd::kWidth<T>;
            store.next_step = p.b.row * int64_t(sizeof(T));
          }
          kernel_for<T>(count, cols, rows ? Form::rows : Form::panel)(
              kc, a, step, lies ? b + q * nr : panels + (q - q0) * nr * kc, lies ? p.b.row : nr, cols, store);
        }
      }
    });
  });
}

// Columns over threads: each packs its own part of B, which stays in its L2, and reads all rows of A where
// they lie. (What one thread packs for another comes from that one's cache at some 8 GB/s.) k is cut as it is
// otherwise. False where parts would be narrow or unequal, where A's rows or B cannot be read so, or where
// writing C counts, which goes best along its rows.
template <class T>
bool columns_apart(const Product<T>& p) {
  constexpr int nr = kNR<T>;
  const int64_t columns = ceil_div(p.n, nr), all_stays = depth_for<T>(p.n, p.k);
  const int64_t depth = all_stays ? all_stays : block_depth<T>(p.k);
  const bool b_lies = p.b.col == 1 && p.b.row * depth * int64_t(sizeof(T)) <= kInPlaceBytes;
  if (p.a.col != 1 || rows_of_a_tile(p.a) != kMR<T> || b_lies || p.k < kLong) return false;
  const int64_t threads = fastdl::detail::in_parallel() ? 1 : num_threads();
  const int64_t bytes = columns * nr * depth * int64_t(sizeof(T));
  const int64_t parts = ceil_div(ceil_div(bytes, kResidentBytes), threads) * threads;
  if (columns < 4 * parts || 20 * parts * ceil_div(columns, parts) > 21 * columns) return false;
  const int64_t tiles = ceil_div(p.m, kMR<T>), height = ceil_div(p.m, tiles);
  parallel_tasks(parts, [&](int64_t t) {
    const int64_t q0 = columns * t / parts, q1 = columns * (t + 1) / parts;
    memory::Buffer<T> packed(size_t((q1 - q0) * nr * depth));
    for (int64_t k0 = 0; k0 < p.k; k0 += depth) {
      const int64_t kc = std::min(depth, p.k - k0);
      for (int64_t q = q0; q < q1; ++q)
        pack_panel<T, nr>(packed.get() + (q - q0) * nr * kc, p.b.data + k0 * p.b.row + q * nr * p.b.col,
                          p.b.col, p.b.row, int(std::min<int64_t>(nr, p.n - q * nr)), kc);
      for (int64_t i = 0; i < p.m; i += height) {
        const int count = int(std::min(height, p.m - i));
        for (int64_t q = q0; q < q1; ++q) {
          const int cols = int(std::min<int64_t>(nr, p.n - q * nr));
          kernel_for<T>(count, cols, Form::rows)(kc, p.a.data + i * p.a.row + k0, p.a.row,
                                                 packed.get() + (q - q0) * nr * kc, nr, cols,
                                                 p.store(i, q * nr, k0, kc));
        }
      }
    }
  });
  return true;
}

}  // namespace

template <class T>
bool multiply_resident(int64_t m, int64_t n, int64_t k, T alpha, MatrixView<T> a, MatrixView<T> b, T beta,
                       T* c, int64_t ldc, const GemmEpilogue<T>& epilogue) {
  const Product<T> plain{m, n, k, a, b, alpha, beta, c, ldc, epilogue, false};
  if (m >= n && m <= 2 * n && columns_apart<T>(plain)) return true;
  if (const int64_t depth = depth_for<T>(m, k); depth && m < n) {
    // Cycles: transposing takes half a one per element, turning C's tiles and writing them by columns some
    // eight, a wait 20,000.
    const double saved = 0.5 * double(k) * double(n - m) / num_threads();
    const double price = 8 * double(m) * double(n) / num_threads() + 20000;
    if (b.row == 1 && b.col != 1 && saved > price)
      b_stays<T>({n, m, k, b.transposed(), a.transposed(), alpha, beta, c, ldc, epilogue, true}, depth);
    else
      a_stays(plain, depth);
    return true;
  }
  const int64_t depth = depth_for<T>(n, k);
  if (depth == 0) return false;
  // B would be packed by one thread and fetched from its cache by the others: rather a panel each, unless
  // sums are so short that writing C, which goes best along its rows, is what takes the time.
  if (b.row == 1 && b.col != 1 && k > (m * n > kLargeC ? kShortOfLarge : kShort) &&
      depth_for<T>(m, k) == depth)
    a_stays(plain, depth);
  else
    b_stays(plain, depth);
  return true;
}

template bool multiply_resident<float>(int64_t, int64_t, int64_t, float, MatrixView<float>, MatrixView<float>,
                                       float, float*, int64_t, const GemmEpilogue<float>&);
template bool multiply_resident<double>(int64_t, int64_t, int64_t, double, MatrixView<double>,
                                        MatrixView<double>, double, double*, int64_t,
                                        const GemmEpilogue<double>&);

}  // namespace fastdl::tile
