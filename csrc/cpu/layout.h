// Moving elements without computing: strided copies, rows and elements chosen by an index, and their
// gradients.
#pragma once

#include <cstdint>

namespace fastdl {

// `to`, in C order, receives an array of `item`-byte elements with the given extents and strides in bytes.
void copy_strided(char* to, const char* from, const int64_t* shape, const int64_t* strides, int ndim,
                  int64_t item);

// Zeros in `bytes` bytes of the pool's.
void clear(char* to, int64_t bytes);

// y is (outer, sum of rows_bytes) bytes: for every outer slice the rows of all parts, one after the other.
void concat(char* y, const char* const* parts, const int64_t* row_bytes, int64_t count, int64_t outer);

// The middle axis of (outer, extent, inner) is the indexed one; `count` indices, in [0, extent). The gather
// functions check that themselves, block by block before the use; false: some are not, the result is
// undefined.
struct IndexProblem {
  int64_t outer, extent, inner, count;
};

// y[o, j, i] = x[o, index[j], i]
void index_select_forward(char* y, const char* x, const int64_t* index, const IndexProblem& p, int64_t item);
// grad_x[o, index[j], i] += grad_y[o, j, i], from zero
template <class T>
void index_select_backward(T* grad_x, const T* grad_y, const int64_t* index, const IndexProblem& p);

// y[o, j, i] = x[o, index[o, j, i], i]
bool gather_forward(char* y, const char* x, const int64_t* index, const IndexProblem& p, int64_t item);
// grad_x[o, index[o, j, i], i] += grad_y[o, j, i], from zero
template <class T>
bool gather_backward(T* grad_x, const T* grad_y, const int64_t* index, const IndexProblem& p);

// The position of the first index outside [0, extent), or -1.
int64_t find_outside(const int64_t* index, int64_t count, int64_t extent);

}  // namespace fastdl
