// Chooses how to multiply; gemm.h says what. The first that suits is taken, so the order of the questions counts:
//
//   way        for                                                         limit
//   tiny       some hundred multiplications, or a row by a small matrix    the call itself
//   thin       k <= 8 and many rows                                        writing C
//   small      what packs into panels on the stack, on one thread          arithmetic
//   skinny     at most 16 rows (or columns): a layer for one sample        reading the long operand
//   streamed   17 to 64 rows (28 of narrow vectors) by a matrix out of L2  reading that matrix
//   long       a small C and a long k: threads share k, partial sums       arithmetic
//   resident   one operand fits L2, in blocks of k: it stays there         arithmetic
//   panels     the rest: both operands packed for the caches               arithmetic
//
// All but thin, tiny and skinny end in the register tile (tile.h). The choice depends on the shape, strides and the
// number of threads alone, and so does the order of every sum.
#include "cpu/gemm/gemm.h"

#include <cmath>

#include "cpu/gemm/panels.h"
#include "cpu/gemm/resident.h"
#include "cpu/gemm/skinny.h"
#include "cpu/gemm/streamed.h"
#include "cpu/gemm/thin.h"
#include "cpu/gemm/tiny.h"
#include "cpu/parts.h"

namespace fastdl {
namespace {

// The product is zero: C = activation(beta * C + bias).
template <class T>
void scale(int64_t m, int64_t n, T beta, T* c, int64_t ldc, const GemmEpilogue<T>& e) {
  constexpr int64_t step = 256;
  const T zero[step] = {};
  parallel_for(m, std::max<int64_t>(1, 16384 / n), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      for (int64_t j = 0; j < n; j += step)
        tile::finish<T>(zero, step, 1, int(std::min(step, n - j)),
                        {c + i * ldc + j, ldc, T(1), beta, e.bias_row ? e.bias_row + i : nullptr,
                         e.bias_col ? e.bias_col + j : nullptr, e.activation});
  });
}

// one(i) for all of a batch. Products large enough to occupy all threads come one after the other, smaller
// ones side by side, unless some threads would have nothing to do meanwhile.
template <class T, class F>
void for_batch(int64_t batch, int64_t m, int64_t n, int64_t k, F&& one) {
  // Short sides wait for their operands: 20 GB/s.
  const double bytes = double(m * k + k * n + m * n) * double(sizeof(T));
  const double microseconds = std::max(tile::product_microseconds<T>(m, n, k), 5e-5 * bytes);
  // A product keeps a thread busy with 10 us of work; half of that is gained.
  if (microseconds > 2000 || tile::one_by_one(batch, microseconds / 20)) {
    for (int64_t i = 0; i < batch; ++i) one(i);
    return;
  }
  tile::share(batch, double(batch) * std::max(microseconds, 0.1), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) one(i);
  });
}

constexpr int64_t kSmallPanels = 24576;  // elements of A's panels, and of a panel of B, that go on the stack

// Products too small to share: A read in place, or its panels packed on the stack, B read in place where its
// rows are contiguous. Panels are equally high: a last one of two rows would take
// as long as one of eight.
template <class T>
void multiply_small(int64_t m, int64_t n, int64_t k, T alpha, MatrixView<T> a, MatrixView<T> b, T beta, T* c,
                    int64_t ldc, const GemmEpilogue<T>& e) {
  using namespace tile;
  constexpr int mr = kMR<T>, nr = kNR<T>;
  alignas(64) T a_panels[kSmallPanels], b_panel[kSmallPanels];
  const int64_t height = ceil_div(m, ceil_div(m, rows_of_a_tile(a)));
  const bool rows = a.col == 1;
  const bool a_lies = rows || a.row == 1;
  const int64_t a_step = rows ? a.row : a_lies ? a.col : mr, a_next = a_lies ? height * a.row : mr * k;
  if (!a_lies)
    for (int64_t i = 0; i < m; i += height)
      PackA<T>{a}(a_panels + i / height * a_next, i, int(std::min(height, m - i)), 0, k);
  for (int64_t j = 0; j < n; j += nr) {
    const int cols = int(std::min<int64_t>(nr, n - j));
    const bool b_lies = b.col == 1 && cols % simd::kWidth<T> == 0;
    if (!b_lies) PackB<T>{b}(b_panel, j, cols, 0, k);
    const T* panel = a_lies ? a.data : a_panels;
    for (int64_t i = 0; i < m; i += height, panel += a_next) {
      const int count = int(std::min(height, m - i));
      kernel_for<T>(count, cols, rows ? Form::rows : Form::panel)(
          k, panel, a_step, b_lies ? b.data + j : b_panel, b_lies ? b.row : nr, cols,
          {c + i * ldc + j, ldc, alpha, beta, e.bias_row ? e.bias_row + i : nullptr,
           e.bias_col ? e.bias_col + j : nullptr, e.activation});
    }
  }
}

constexpr int64_t kSumBytes = 512 << 10;  // of a thread's partial C, in L2

// A small C and a long sum: ranges of k over threads, their partial results added up in order. How many
// ranges there are depends on the shape and the thread count alone.
template <class T>
void multiply_long(int64_t ranges, int64_t m, int64_t n, int64_t k, T alpha, MatrixView<T> a, MatrixView<T> b,
                   T beta, T* c, int64_t ldc, const GemmEpilogue<T>& e) {
  const int64_t size = m * n;
  memory::Buffer<T> partial(size_t(ranges * size));
  parallel_tasks(ranges, [&](int64_t r) {
    const int64_t k0 = k * r / ranges, k1 = k * (r + 1) / ranges;
    const MatrixView<T> left{a.data + k0 * a.col, a.row, a.col}, right{b.data + k0 * b.row, b.row, b.col};
    T* to = partial.get() + r * size;
    if (!tile::multiply_resident<T>(m, n, k1 - k0, T(1), left, right, T(0), to, n, {}))
      tile::gemm_panels<T>(m, n, k1 - k0, tile::PackA<T>{left}, tile::PackB<T>{right}, T(1), T(0), to, n);
  });
  T* sum = partial.get();
  add_parts(sum, sum, size, ranges);
  tile::finish<T>(sum, n, int(m), int(n), {c, ldc, alpha, beta, e.bias_row, e.bias_col, e.activation});
}

constexpr int64_t kScaled = 4096;  // elements of a B that takes the factor of a tall product upon itself

// Adding up the lanes of a dot product and putting the sum in its place takes some 10 cycles. Where the other
// way is to transpose k numbers at half a cycle each, which serve m rows, sums pay from k = 20 m on.
constexpr int64_t kSumCost = 10;

// Whether a product of n columns with contiguous k costs less as dot products than in tiles. Cycles per row:
// the one adds up lanes (2 to 3.5 a sum where several share their last steps) and multiplies n * k / (2 w)
// vectors, the other wastes lanes of its vectors.
template <class T>
bool better_as_dots(int64_t n, int64_t k) {
  constexpr double w = simd::kWidth<T>;
  return double(n) * (1.5 + w / 8 + double(k) / (2 * w)) < std::ceil(double(n) / w) * double(k) / 2;
}

template <class T>
bool is_small(int64_t m, int64_t n, int64_t k) {
  // Alone some 5 us; where nobody can help, as far as panels and B fit L1 and L2.
  const int64_t alone = num_threads() == 1 || detail::in_parallel() ? 1 << 21 : simd::kWidth<T> << 15;
  return m * n * k < alone && k <= tile::kMaxKC<T> && tile::kNR<T> * k <= kSmallPanels &&
         ceil_div(m, tile::kMR<T>) * tile::kMR<T> * k <= kSmallPanels;
}

template <class T>
bool is_tiny(int64_t m, int64_t n, int64_t k, const MatrixView<T>& b, T beta, const GemmEpilogue<T>& e) {
  return beta == T(0) && !e.bias_row && !e.bias_col && e.activation == GemmActivation::none &&
         tile::is_tiny<T>(m, n, k, b);
}

// Matrices of a batch: at offsets from the first, or (null) a stride apart.
template <class T>
struct Matrices {
  MatrixView<T> first;
  const int64_t* offsets;
  int64_t stride;
  MatrixView<T> at(int64_t i) const {
    return {first.data + (offsets ? offsets[i] : i * stride), first.row, first.col};
  }
};

// C's matrices are stride_c apart.
template <class T>
void multiply_batch(int64_t batch, int64_t m, int64_t n, int64_t k, T alpha, const Matrices<T>& a,
                    const Matrices<T>& b, T beta, T* c, int64_t stride_c, int64_t ldc,
                    const GemmEpilogue<T>& epilogue) {
  const bool tiny = alpha != T(0) && is_tiny<T>(m, n, k, b.first, beta, epilogue);
  for_batch<T>(batch, m, n, k, [&](int64_t i) {
    if (tiny)
      tile::multiply_tiny<T>(m, n, k, alpha, a.at(i), b.at(i), c + i * stride_c, ldc);
    else
      gemm<T>(m, n, k, alpha, a.at(i), b.at(i), beta, c + i * stride_c, ldc, epilogue);
  });
}

// alpha B takes B's place. (A function of its own: its frame is no small product's business.)
template <class T>
[[gnu::noinline]] void multiply_scaled(int64_t m, int64_t n, int64_t k, T alpha, MatrixView<T> a,
                                       MatrixView<T> b, T beta, T* c, int64_t ldc,
                                       const GemmEpilogue<T>& epilogue) {
  T scaled[kScaled];
  for (int64_t p = 0; p < k; ++p)
    for (int64_t j = 0; j < n; ++j) scaled[p * n + j] = alpha * b.data[p * b.row + j * b.col];
  gemm<T>(m, n, k, T(1), a, matrix(static_cast<const T*>(scaled), n), beta, c, ldc, epilogue);
}

}  // namespace

template <class T>
void gemm(int64_t m, int64_t n, int64_t k, T alpha, MatrixView<T> a, MatrixView<T> b, T beta, T* c,
          int64_t ldc, const GemmEpilogue<T>& epilogue) {
  if (m == 0 || n == 0) return;
  if (k == 0 || alpha == T(0)) return scale(m, n, beta, c, ldc, epilogue);
  if (k == 1 && b.col == 1) b.row = n;  // a single row: contiguous along n, whatever its stride says
  if (is_tiny<T>(m, n, k, b, beta, epilogue)) return tile::multiply_tiny<T>(m, n, k, alpha, a, b, c, ldc);
  if (tile::is_thin<T>(m, n, k, beta, epilogue))
    return tile::multiply_thin<T>(m, n, k, alpha, a, b, c, ldc, epilogue);
  if (alpha != T(1) && k * n <= kScaled && 4 * k <= m)  // else tiles leave the registers through memory
    return multiply_scaled<T>(m, n, k, alpha, a, b, beta, c, ldc, epilogue);
  const bool small = is_small<T>(m, n, k);
  // B's contiguous k: as dot products, or transposed for tiles?
  const bool turned = b.row == 1 && b.col != 1 && k < kSumCost * 2 * m;
  if (small && n >= 8 && (turned || m >= (b.col == 1 ? 4 : 8)))
    return multiply_small<T>(m, n, k, alpha, a, b, beta, c, ldc, epilogue);
  const auto unit = [](const MatrixView<T>& x) { return x.row == 1 || x.col == 1; };
  if (m <= tile::kSkinny && m <= n && unit(b) && !(turned && n >= 8))
    return tile::multiply_skinny<T>(int(m), n, k, a, b.transposed(), false, alpha, beta, c, ldc, epilogue);
  if (n == 1 && ldc == 1 && unit(a))  // one column, contiguous: as a row
    return tile::multiply_skinny<T>(1, m, k, b.transposed(), a, false, alpha, beta, c, m,
                                    {epilogue.bias_col, epilogue.bias_row, epilogue.activation});
  // (Contiguous rows of A against more than 12 columns cost less in tiles, which read them once.)
  if (n <= tile::kSkinny && unit(a) && (a.col != 1 || (n <= 12 && better_as_dots<T>(n, k))))
    return tile::multiply_skinny<T>(int(n), m, k, b.transposed(), a, true, alpha, beta, c, ldc, epilogue);
  if (small) return multiply_small<T>(m, n, k, alpha, a, b, beta, c, ldc, epilogue);
  if (tile::is_streamed(m, n, k, b, false))
    return tile::multiply_streamed<T>(m, n, k, a, b, false, alpha, beta, c, ldc, epilogue);
  if (tile::is_streamed(n, m, k, a.transposed(), true))
    return tile::multiply_streamed<T>(n, m, k, b.transposed(), a.transposed(), true, alpha, beta, c, ldc,
                                      epilogue);
  const int64_t tiles = ceil_div(m, tile::kMR<T>) * ceil_div(n, tile::kNR<T>);
  const int64_t ranges = std::min<int64_t>(num_threads(), k / 2048);
  // A C that each thread can keep for itself: it reads no operand that another reads.
  const bool own_sums = ranges == num_threads() && m * n * int64_t(sizeof(T)) <= kSumBytes;
  // Fewer ranges than threads leave the others without work, as fewer tiles do.
  if (ranges > 1 && (tiles < (ranges == num_threads() ? 4 * ranges : ranges) || own_sums))
    return multiply_long<T>(ranges, m, n, k, alpha, a, b, beta, c, ldc, epilogue);
  if (tile::multiply_resident<T>(m, n, k, alpha, a, b, beta, c, ldc, epilogue)) return;
  tile::gemm_panels<T>(m, n, k, tile::PackA<T>{a}, tile::PackB<T>{b}, alpha, beta, c, ldc, epilogue);
}

template <class T>
void gemm_batched(int64_t batch, int64_t m, int64_t n, int64_t k, T alpha, MatrixView<T> a, int64_t stride_a,
                  MatrixView<T> b, int64_t stride_b, T beta, T* c, int64_t stride_c, int64_t ldc,
                  const GemmEpilogue<T>& epilogue) {
  // One B for all and rows that follow on: a single tall product.
  if (stride_b == 0 && stride_a == m * a.row && stride_c == m * ldc && !epilogue.bias_row)
    return gemm<T>(batch * m, n, k, alpha, a, b, beta, c, ldc, epilogue);
  multiply_batch<T>(batch, m, n, k, alpha, {a, nullptr, stride_a}, {b, nullptr, stride_b}, beta, c, stride_c,
                    ldc, epilogue);
}

template <class T>
void gemm_batched(int64_t batch, int64_t m, int64_t n, int64_t k, T alpha, MatrixView<T> a,
                  const int64_t* offsets_a, MatrixView<T> b, const int64_t* offsets_b, T beta, T* c,
                  int64_t stride_c, int64_t ldc, const GemmEpilogue<T>& epilogue) {
  multiply_batch<T>(batch, m, n, k, alpha, {a, offsets_a, 0}, {b, offsets_b, 0}, beta, c, stride_c, ldc,
                    epilogue);
}

#define FASTDL_INSTANTIATE(T)                                                                             \
  template void gemm<T>(int64_t, int64_t, int64_t, T, MatrixView<T>, MatrixView<T>, T, T*, int64_t,       \
                        const GemmEpilogue<T>&);                                                          \
  template void gemm_batched<T>(int64_t, int64_t, int64_t, int64_t, T, MatrixView<T>, int64_t,            \
                                MatrixView<T>, int64_t, T, T*, int64_t, int64_t, const GemmEpilogue<T>&); \
  template void gemm_batched<T>(int64_t, int64_t, int64_t, int64_t, T, MatrixView<T>, const int64_t*,     \
                                MatrixView<T>, const int64_t*, T, T*, int64_t, int64_t,                   \
                                const GemmEpilogue<T>&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl
