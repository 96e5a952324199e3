// Pooling over `planes` planes of (D, H, W): see max.cpp, avg.cpp and adaptive.cpp. Geometry: common/pool.h.
#pragma once

#include <cstdint>

#include "common/pool.h"

namespace fastdl {

// offset_t is uint8_t while a window has at most 256 taps, int32_t beyond. `offsets` may be null.
template <class T, class Offset>
void max_pool_forward(T* y, Offset* offsets, const T* x, const PoolProblem& p);
template <class T, class Offset>
void max_pool_backward(T* grad_x, const T* grad_y, const Offset* offsets, const PoolProblem& p);
// The flat position in the input plane of each window's maximum.
template <class Offset>
void max_pool_indices(int64_t* indices, const Offset* offsets, const PoolProblem& p);

// divisor = 0: the number of positions the window covers, padding included or not.
template <class T>
void avg_pool_forward(T* y, const T* x, const PoolProblem& p, bool count_include_pad, int64_t divisor);
template <class T>
void avg_pool_backward(T* grad_x, const T* grad_y, const PoolProblem& p, bool count_include_pad,
                       int64_t divisor);

// Only in and out of the axes are used: window o covers [floor(o*in/out), ceil((o+1)*in/out)).
template <class T>
void adaptive_avg_pool_forward(T* y, const T* x, const PoolProblem& p);
template <class T>
void adaptive_avg_pool_backward(T* grad_x, const T* grad_y, const PoolProblem& p);
template <class T>
void adaptive_max_pool_forward(T* y, int64_t* indices, const T* x, const PoolProblem& p);

// Values scattered to, added up at and gathered from flat positions of their planes: n values in a plane of
// `positions`. Each returns -1, or the flat number of the first value whose index is out of range.
template <class T>
int64_t scatter_planes(T* y, const T* x, const int64_t* indices, int64_t planes, int64_t n,
                       int64_t positions);
template <class T>
int64_t scatter_add_planes(T* y, const T* x, const int64_t* indices, int64_t planes, int64_t n,
                           int64_t positions);
template <class T>
int64_t gather_planes(T* y, const T* x, const int64_t* indices, int64_t planes, int64_t n, int64_t positions);

}  // namespace fastdl
