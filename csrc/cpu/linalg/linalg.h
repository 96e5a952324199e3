// Triangular factors and systems: LU decomposition with row exchanges, and solving by it. For float, double and
// complex numbers, on one matrix in C order each; callers spread a batch over threads.
//
// All of it halves its matrix down to a few rows or columns, so that nearly all work is products. Large ones are gemm's,
// which every instruction-set level has its own of; what is small is compiled once, for all levels.
#pragma once

#include <cstdint>

namespace fastdl {

enum class Field { float32, float64, complex64, complex128 };

// A = P L U in the place of A (rows x columns): L below the diagonal, its ones not stored, U from there on. For each of
// min(rows, columns) steps `pivots` tells the row exchanged with it, from 1. Returns 0, or the number of the first pivot
// that is 0. Without `exchange` rows stay where they are.
int32_t lu_factor(Field field, void* a, int64_t rows, int64_t columns, bool exchange, int32_t* pivots);

// X of A X = B in the place of B (n x columns), by one triangle of A, whose rows and columns are so many elements apart;
// `unit`: its diagonal counts as ones.
void triangular_solve(Field field, const void* a, int64_t row, int64_t column, bool upper, bool unit,
                      int64_t n, void* b, int64_t columns);

// X of A X = B, `transposed`: of A^T X = B, in the place of B (n x columns), by what lu_factor made of A.
void lu_solve(Field field, const void* packed, const int32_t* pivots, bool transposed, int64_t n, void* b,
              int64_t columns);

// z = x times y, vectors of three along the middle axis of (outer, 3, inner).
template <class T>
void cross(T* z, const T* x, const T* y, int64_t outer, int64_t inner);

// Where each row of P's transpose times a matrix comes from.
void lu_order(const int32_t* pivots, int64_t steps, int64_t rows, int64_t* order);

}  // namespace fastdl
