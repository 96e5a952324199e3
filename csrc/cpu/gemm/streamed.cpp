// Products of a few tiles of rows with a matrix too large for the caches, whose rows are contiguous: such a
// product waits for memory, and memory is fast for long runs only. A panel of columns by itself would read
// 128 bytes of every row, all of them on pages of their own.
//
//   y (k x n) in blocks of kDepth rows by up to 4 kB of columns: a block is packed row by row, in the order
//   of memory, and multiplied with all of x (panels, packed once); each tile meanwhile fetches one row of the
//   next block. The sums of a stretch of columns stay in L2, s x 4 kB, and leave for C (or its transpose)
//   after the last step of k.
//
// Threads share the columns. y is read once, C written once.
#include "cpu/gemm/streamed.h"

#include <algorithm>

#include "cpu/gemm/panels.h"
#include "cpu/gemm/share.h"
#include "cpu/gemm/tile.h"
#include "cpu/runtime/memory.h"

namespace fastdl::tile {
namespace {

using namespace simd;

constexpr int64_t kDepth = 64;       // a tile's steps fetch as many lines: 4 kB
constexpr int64_t kRunBytes = 4096;  // of a row

// kc rows of `count` < kNR columns from y on as a panel: the kernel would read too many of a row.
template <class T>
void pack_rim(T* out, const T* y, int64_t y_step, int count, int64_t kc) {
  constexpr int nr = kNR<T>, w = kWidth<T>;
  for (int64_t p = 0; p < kc; ++p, y += y_step, out += nr)
    for (int v = 0; v < count; v += w)
      store<T>(out + v, count - v < w ? load_n(y + v, count - v) : load(y + v));
}

// `count` columns of sums (whole vectors of rows lie there) to their place in C or its transpose.
template <class T>
void leave(const T* sums, int64_t ld, int64_t s, int64_t count, bool transposed, Store<T> to) {
  constexpr int w = kWidth<T>;
  if (!transposed) return finish<T>(sums, ld, int(s), int(count), to);
  T turned[w * kMostStreamed];
  for (int64_t j = 0; j < count; j += w) {
    for (int64_t i = 0; i < s; i += w) {
      Vec<T> x[w];
#pragma GCC unroll 16
      for (int r = 0; r < w; ++r) x[r] = load(sums + (i + r) * ld + j);
      transpose<T>(x);
#pragma GCC unroll 16
      for (int r = 0; r < w; ++r) store<T>(turned + r * kMostStreamed + i, x[r]);
    }
    const int rows = int(std::min<int64_t>(w, count - j));
    finish<T>(turned, kMostStreamed, rows, int(s), to);
    to.c += rows * to.ldc;
    if (to.bias_row) to.bias_row += rows;
  }
}

}  // namespace

template <class T>
void multiply_streamed(int64_t s, int64_t n, int64_t k, MatrixView<T> x, MatrixView<T> y, bool transposed,
                       T alpha, T beta, T* c, int64_t ldc, const GemmEpilogue<T>& epilogue) {
  constexpr int mr = kMR<T>, nr = kNR<T>, w = kWidth<T>;
  const int64_t tiles = ceil_div(s, mr), height = ceil_div(s, tiles), blocks = ceil_div(k, kDepth);
  memory::Buffer<T> panels(size_t(tiles * mr * k));
  parallel_for(blocks, std::max<int64_t>(1, 32768 / (s * kDepth)), [&](int64_t begin, int64_t end) {
    for (int64_t k0 = begin * kDepth; k0 < std::min(k, end * kDepth); k0 += kDepth)
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t i = t * height, kc = std::min(kDepth, k - k0);
        pack_panel<T, mr>(panels.get() + (k0 * tiles + t * kc) * mr, x.data + i * x.row + k0 * x.col, x.row,
                          x.col, int(std::min(height, s - i)), kc);
      }
  });

  const int64_t threads = fastdl::detail::in_parallel() ? 1 : num_threads();
  const int64_t wanted = ceil_div(ceil_div(n * int64_t(sizeof(T)), kRunBytes), threads) * threads;
  const int64_t width = ceil_div(ceil_div(n, wanted), nr) * nr, pieces = ceil_div(n, width);
  share(pieces, product_microseconds<T>(s, n, k), [&](int64_t begin, int64_t end) {
    const int64_t ld = width + w;  // not a power of two
    memory::Buffer<T> sums(size_t(ceil_div(s, w) * w * ld)), rim(size_t(nr * kDepth));
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t j0 = piece * width, count = std::min(width, n - j0);
      for (int64_t k0 = 0; k0 < k; k0 += kDepth) {
        const int64_t kc = std::min(kDepth, k - k0), after = k0 + kc;
        const T* block = y.data + k0 * y.row + j0;
        if (k0 == 0)
          for (int64_t p = 0; p < kc; ++p)
            for (int64_t j = 0; j < count; j += 64 / int64_t(sizeof(T)))
              __builtin_prefetch(block + p * y.row + j, 0, 2);
        const int left = int(count % nr);
        if (left % w != 0) pack_rim<T>(rim.get(), block + count - left, y.row, left, kc);
        int64_t row = after;  // of the next block, to be fetched
        for (int64_t j = 0; j < count; j += nr)
          for (int64_t t = 0; t < tiles; ++t, ++row) {
            const int rows = int(std::min(height, s - t * height)),
                      cols = int(std::min<int64_t>(nr, count - j));
            Store<T> store{sums.get() + t * height * ld + j,
                           ld,
                           T(1),
                           T(k0 > 0),
                           nullptr,
                           nullptr,
                           GemmActivation::none};
            if (row < std::min(k, after + kDepth)) {
              store.next = y.data + row * y.row + j0;
              store.next_step = count * int64_t(sizeof(T)) / kc;
            }
            const bool lies = cols % w == 0;
            kernel_for<T>(rows, cols)(kc, panels.get() + (k0 * tiles + t * kc) * mr, mr,
                                      lies ? block + j : rim.get(), lies ? y.row : nr, cols, store);
          }
      }
      Store<T> to{transposed ? c + j0 * ldc : c + j0,
                  ldc,
                  alpha,
                  beta,
                  epilogue.bias_row,
                  epilogue.bias_col,
                  epilogue.activation};
      const T*& bias = transposed ? to.bias_row : to.bias_col;
      if (bias) bias += j0;
      leave<T>(sums.get(), ld, s, count, transposed, to);
    }
  });
}

#define FASTDL_INSTANTIATE(T)                                                                             \
  template void multiply_streamed<T>(int64_t, int64_t, int64_t, MatrixView<T>, MatrixView<T>, bool, T, T, \
                                     T*, int64_t, const GemmEpilogue<T>&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl::tile
