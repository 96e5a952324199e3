// Chooses how to multiply: see gemm.h for what, panels.h for the large case.
#include "cpu/gemm/gemm.h"

#include "cpu/gemm/panels.h"

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
// ones side by side.
template <class F>
void for_batch(int64_t batch, int64_t m, int64_t n, int64_t k, F&& one) {
  const double microseconds = 2e-5 * double(m) * double(n) * double(k);
  if (batch < num_threads() || microseconds > 2000) {
    for (int64_t i = 0; i < batch; ++i) one(i);
    return;
  }
  parallel_for(batch, int64_t(10 / std::max(microseconds, 0.1)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) one(i);
  });
}

}  // namespace

template <class T>
void gemm(int64_t m, int64_t n, int64_t k, T alpha, MatrixView<T> a, MatrixView<T> b, T beta, T* c,
          int64_t ldc, const GemmEpilogue<T>& epilogue) {
  if (m == 0 || n == 0) return;
  if (k == 0 || alpha == T(0)) return scale(m, n, beta, c, ldc, epilogue);
  tile::gemm_panels<T>(m, n, k, tile::PackA<T>{a}, tile::PackB<T>{b}, alpha, beta, c, ldc, epilogue);
}

template <class T>
void gemm_batched(int64_t batch, int64_t m, int64_t n, int64_t k, T alpha, MatrixView<T> a, int64_t stride_a,
                  MatrixView<T> b, int64_t stride_b, T beta, T* c, int64_t stride_c, int64_t ldc,
                  const GemmEpilogue<T>& epilogue) {
  // One B for all and rows that follow on: a single tall product.
  if (stride_b == 0 && stride_a == m * a.row && stride_c == m * ldc && !epilogue.bias_row)
    return gemm<T>(batch * m, n, k, alpha, a, b, beta, c, ldc, epilogue);
  for_batch(batch, m, n, k, [&](int64_t i) {
    gemm<T>(m, n, k, alpha, {a.data + i * stride_a, a.row, a.col}, {b.data + i * stride_b, b.row, b.col},
            beta, c + i * stride_c, ldc, epilogue);
  });
}

template <class T>
void gemm_batched(int64_t batch, int64_t m, int64_t n, int64_t k, T alpha, MatrixView<T> a,
                  const int64_t* offsets_a, MatrixView<T> b, const int64_t* offsets_b, T beta, T* c,
                  int64_t stride_c, int64_t ldc, const GemmEpilogue<T>& epilogue) {
  for_batch(batch, m, n, k, [&](int64_t i) {
    gemm<T>(m, n, k, alpha, {a.data + offsets_a[i], a.row, a.col}, {b.data + offsets_b[i], b.row, b.col},
            beta, c + i * stride_c, ldc, epilogue);
  });
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
