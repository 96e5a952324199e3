// Random numbers and masks on Philox; common/philox.h says which words make which element.
#pragma once

#include <cstdint>

#include "common/philox.h"

namespace fastdl {

// y[i] = low + (high - low) * u, u uniform in [0, 1); never `high` unless low == high.
template <class T>
void random_uniform(T* y, int64_t n, double low, double high, Philox philox);
// y[i] = mean + std * z, z standard normal.
template <class T>
void random_normal(T* y, int64_t n, double mean, double std, Philox philox);
// y[i] = u < p[i] ? 1 : 0, u uniform in [0, 1).
template <class T>
void random_bernoulli(T* y, const T* p, int64_t n, Philox philox);
// y[i] = low + a number below `range` (0: any 64 bits).
void random_integers(int64_t* y, int64_t n, int64_t low, uint64_t range, Philox philox);
// A random order of 0 .. n - 1.
void random_permutation(int64_t* y, int64_t n, Philox philox);

}  // namespace fastdl
