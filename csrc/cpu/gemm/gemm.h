// General matrix multiplication, the engine under linear, conv, rnn and attention.
//
//   C = activation(alpha * op(A) op(B) + beta * C + bias)          op(X) = X or its transpose
//
// C is M x N with unit column stride and row stride ldc. With beta == 0 C is only written (NaN in it does not
// matter); with alpha == 0 or K == 0 the product counts as zero and A, B are not read. Calls share the thread
// pool; inside a parallel region they run on the calling thread. For one shape and thread count the bits are
// always the same.
//
// For fused kernels, which pack their own panels or keep an operand packed, see panels.h.
#pragma once

#include <cstdint>

namespace fastdl {

enum class GemmActivation : int { none, relu, sigmoid, tanh, silu, gelu, gelu_tanh };

// What happens to a finished element (i, j) of C before it is stored.
template <class T>
struct GemmEpilogue {
  const T* bias_row = nullptr;  // M numbers: bias_row[i] is added
  const T* bias_col = nullptr;  // N numbers: bias_col[j] is added
  GemmActivation activation = GemmActivation::none;
};

// A matrix of any strides: element (i, j) is data[i * row + j * col].
template <class T>
struct MatrixView {
  const T* data;
  int64_t row, col;
  MatrixView transposed() const { return {data, col, row}; }
};
template <class T>
MatrixView<T> matrix(const T* data, int64_t ld, bool transpose = false) {
  return transpose ? MatrixView<T>{data, 1, ld} : MatrixView<T>{data, ld, 1};
}

template <class T>
void gemm(int64_t m, int64_t n, int64_t k, T alpha, MatrixView<T> a, MatrixView<T> b, T beta, T* c,
          int64_t ldc, const GemmEpilogue<T>& epilogue = {});

template <class T>
inline void gemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a,
                 int64_t lda, const T* b, int64_t ldb, T beta, T* c, int64_t ldc,
                 const GemmEpilogue<T>& epilogue = {}) {
  gemm<T>(m, n, k, alpha, matrix(a, lda, trans_a), matrix(b, ldb, trans_b), beta, c, ldc, epilogue);
}

// `batch` products; matrix number i of X starts at X.data + i * stride_x (0: one matrix for all; stride_c
// must not be 0). The epilogue's biases are the same for all.
template <class T>
void gemm_batched(int64_t batch, int64_t m, int64_t n, int64_t k, T alpha, MatrixView<T> a, int64_t stride_a,
                  MatrixView<T> b, int64_t stride_b, T beta, T* c, int64_t stride_c, int64_t ldc,
                  const GemmEpilogue<T>& epilogue = {});

// The same with matrix number i of A and B at data + offsets[i]: any batch that NumPy can broadcast.
template <class T>
void gemm_batched(int64_t batch, int64_t m, int64_t n, int64_t k, T alpha, MatrixView<T> a,
                  const int64_t* offsets_a, MatrixView<T> b, const int64_t* offsets_b, T beta, T* c,
                  int64_t stride_c, int64_t ldc, const GemmEpilogue<T>& epilogue = {});

}  // namespace fastdl
