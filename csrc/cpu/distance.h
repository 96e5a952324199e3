// Products and distances of rows of two arrays, corresponding ones or all pairs; see distance.cpp.
#pragma once

#include <cstdint>

namespace fastdl {

// sums: (3, rows): x1 . x2, x1 . x1, x2 . x2
template <class T>
void row_products_forward(T* sums, const T* x1, const T* x2, int64_t rows, int64_t n);
// Either gradient may be null.
template <class T>
void row_products_backward(T* grad_x1, T* grad_x2, const T* grad_sums, const T* x1, const T* x2, int64_t rows,
                           int64_t n);

template <class T>
void pairwise_distance_forward(T* distance, const T* x1, const T* x2, double p, double eps, int64_t rows,
                               int64_t n);
// The gradient for x1; that for x2 is its negative.
template <class T>
void pairwise_distance_backward(T* grad_x1, const T* grad_distance, const T* x1, const T* x2,
                                const T* distance, double p, double eps, int64_t rows, int64_t n);

// All pairs: rows of x1 (batch, count1, n) and of x2 (batch, count2, n).
struct CdistProblem {
  int64_t batch, count1, count2, n;
};
// distance: (batch, count1, count2)
template <class T>
void cdist_forward(T* distance, const T* x1, const T* x2, double p, const CdistProblem& problem);
// The gradient for x1; that for x2 comes of the same call with the arrays exchanged.
template <class T>
void cdist_backward(T* grad_x1, const T* grad_distance, const T* x1, const T* x2, const T* distance, double p,
                    const CdistProblem& problem);

// Of the rows i < j of one set (count, n), one after the other.
template <class T>
void pdist_forward(T* distance, const T* x, double p, int64_t count, int64_t n);

}  // namespace fastdl
