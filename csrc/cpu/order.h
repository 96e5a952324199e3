// Order along rows.
#pragma once

#include <cstdint>

namespace fastdl {

// The first k of every row of x (rows, n) in rising (or falling) order, and where they were; k <= n < 2^31.
// Equal elements keep their order; NaN counts as largest.
template <class T>
void sort_rows(T* values, int64_t* indices, const T* x, int64_t rows, int64_t n, int64_t k, bool descending);

// Where the element is that would stand at place k of every sorted row; 0 <= k < n < 2^31.
template <class T>
void select_rows(int64_t* indices, const T* x, int64_t rows, int64_t n, int64_t k);

// Where the most frequent element of every row is (the smallest of equally frequent ones): its last place.
template <class T>
void mode_rows(int64_t* indices, const T* x, int64_t rows, int64_t n);

// y[i]: how many elements of a sorted row are smaller than values[i] (`right`: not larger). `rows` rows of n
// elements with `count` values each. A NaN among the values is beyond all elements.
template <class T>
void search_sorted(int64_t* y, const T* sorted, int64_t rows, int64_t n, const T* values, int64_t count,
                   bool right);

}  // namespace fastdl
