// The gradient of a linear layer's bias: column sums of grad_y (M x N). The layer's products are plain gemm
// calls:
//
//   y = x W^T + b     grad_x = grad_y W     grad_W = grad_y^T x     grad_b = sum of grad_y's rows
//
// grad_y is read once. Wide matrices: columns over threads, each in blocks that stay in registers while rows
// pass. Tall ones: rows over threads, one partial sum per chunk of rows, added in the order of the chunks.
#include "cpu/linear.h"

#include "cpu/parts.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"
#include "cpu/simd/simd.h"

namespace fastdl {
namespace {

using namespace simd;

// Adds rows [i0, i1) of x to sums, in which n numbers already lie. Rows go in fours: two loads and a store of
// the sums per four loads of x.
template <class T>
void add_rows(int64_t i0, int64_t i1, int64_t n, MatrixView<T> x, T* sums) {
  constexpr int w = kWidth<T>;
  if (x.col != 1) {
    for (int64_t j = 0; j < n; ++j) {
      T sum = 0;
      int64_t i = i0;
      if (x.row == 1) {
        Vec<T> acc{};
        for (; i + w <= i1; i += w) acc += load(x.data + i + j * x.col);
        sum = reduce_add<T>(acc);
      }
      for (; i < i1; ++i) sum += x.data[i * x.row + j * x.col];
      sums[j] += sum;
    }
    return;
  }
  for (int64_t i = i0; i < i1; i += 4) {
    const int rows = int(std::min<int64_t>(4, i1 - i));
    const T* row[4];
    for (int r = 0; r < 4; ++r) row[r] = x.data + (i + std::min(r, rows - 1)) * x.row;
    for (int64_t j = 0; j < n; j += w) {
      const int lanes = int(std::min<int64_t>(w, n - j));
      Vec<T> acc = load_n(row[0] + j, lanes);
      for (int r = 1; r < rows; ++r) acc += load_n(row[r] + j, lanes);
      store_n(sums + j, load_n(sums + j, lanes) + acc, lanes);
    }
  }
}

}  // namespace

template <class T>
void sum_rows(int64_t m, int64_t n, MatrixView<T> x, T* sums) {
  std::fill_n(sums, n, T(0));
  if (m == 0 || n == 0) return;
  const int64_t grain = std::max<int64_t>(1, 32768 / n), chunks = chunk_count(m, grain);
  if (chunks == 1) return add_rows(int64_t{0}, m, n, x, sums);
  memory::Buffer<T> partial(size_t(chunks * n));
  parallel_chunks(m, grain, [&](int64_t chunk, int64_t begin, int64_t end) {
    std::fill_n(partial.get() + chunk * n, n, T(0));
    add_rows(begin, end, n, x, partial.get() + chunk * n);
  });
  add_parts(sums, partial.get(), n, chunks);
}

template void sum_rows<float>(int64_t, int64_t, MatrixView<float>, float*);
template void sum_rows<double>(int64_t, int64_t, MatrixView<double>, double*);

}  // namespace fastdl
