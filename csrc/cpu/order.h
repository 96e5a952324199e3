// Order along rows.
#pragma once

#include <cstdint>

namespace fastdl {

// The first k of every row of x (rows, n) in rising (or falling) order, and where they were; k <= n < 2^31.
// Equal elements keep their order; NaN counts as largest.
template <class T>
void sort_rows(T* values, int64_t* indices, const T* x, int64_t rows, int64_t n, int64_t k, bool descending);

}  // namespace fastdl
