// Pooling with the planes side by side; see side_by_side.cpp.
#pragma once

#include "cpu/pool/pool.h"

namespace fastdl::side_by_side {

// Whether this beats working on rows of single planes. `split`: up to which stride vectors take rows apart (putting them
// together they do up to 2).
template <class T>
bool worthwhile(const PoolProblem& p, int64_t split = 3);

template <class T>
void max_pool_forward(T* y, uint8_t* offsets, const T* x, const PoolProblem& p);
template <class T>
void max_pool_backward(T* grad_x, const T* grad_y, const uint8_t* offsets, const PoolProblem& p);
template <class T>
void avg_pool_forward(T* y, const T* x, const PoolProblem& p, bool count_include_pad, int64_t divisor);
template <class T>
void avg_pool_backward(T* grad_x, const T* grad_y, const PoolProblem& p, bool count_include_pad,
                       int64_t divisor);

// The adaptive ones: where in is no multiple of out.
template <class T>
bool adaptive_worthwhile(const PoolProblem& p);
template <class T>
void adaptive_max_pool_forward(T* y, int64_t* indices, const T* x, const PoolProblem& p);
template <class T>
void adaptive_avg_pool_forward(T* y, const T* x, const PoolProblem& p);
template <class T>
void adaptive_avg_pool_backward(T* grad_x, const T* grad_y, const PoolProblem& p);

}  // namespace fastdl::side_by_side
