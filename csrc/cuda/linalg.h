// LU decomposition with row exchanges, and systems by triangles, on CUDA: batches of matrices in C order.
#pragma once

#include "cuda/types.h"

namespace fastdl::cuda {

enum class Field : int { float32, float64, complex64, complex128 };

// Matrices of a batch: `row` and `column` elements between neighbours, `batch` between matrices (0: the same for all).
struct Matrices {
  void* data;
  int64_t batch, row, column;
};

// A = P L U in the place of each A (rows x columns): L below the diagonal, its ones not stored, U from there on.
// pivots: (count, min(rows, columns)), the row exchanged with each, from 1; info: (count), 0 or the number of the first
// pivot that is 0. Without `exchange` rows stay where they are. Tall matrices need scratch, lu_scratch() bytes.
int64_t lu_scratch(Field field, int64_t count, int64_t rows, int64_t columns);
void lu_factor(Field field, void* a, int64_t count, int64_t rows, int64_t columns, bool exchange,
               int32_t* pivots, int32_t* info, void* scratch, Stream stream);

// The exchanges of rows that `steps` pivots tell, in their order or backwards, in the place of each x (rows x columns);
// `pivots_batch` pivots between matrices. Pivots that are no rows, from 1, are reported and left out.
void exchange_rows(Field field, void* x, int64_t count, int64_t rows, int64_t columns, const int32_t* pivots,
                   int64_t pivots_batch, int64_t steps, bool backwards, uint64_t* report, Stream stream);

// X of A X = B in the place of each B (n x columns) by one triangle of A; `unit`: its diagonal counts as ones.
void triangular_solve(Field field, const Matrices& a, bool upper, bool unit, int64_t n, void* b,
                      int64_t count, int64_t columns, Stream stream);

}  // namespace fastdl::cuda
