// Interpolation, padding, unfold/fold and pixel shuffling; see interpolate.cpp, pad.cpp, unfold.cpp and
// grid_sample.cpp.
#pragma once

#include <cstdint>
#include <vector>

#include "common/grid_sample.h"
#include "common/pool.h"
#include "common/resample.h"

namespace fastdl {

// y = x with every axis replaced by weighted sums of itself, (planes, d, h, w). Forward and backward alike.
template <class T>
void resample(T* y, const T* x, const ResampleProblem<T>& p);

// One axis of a padding: output o is input source(o), or the constant where source(o) < 0. Outputs
// [copy_begin, copy_end) are consecutive inputs; the others are all the constant, or listed, those before them not
// where the axis is rolled: then they are its end.
struct PadAxis {
  int64_t in = 1, out = 0, before = 0;
  int64_t copy_begin = 0, copy_end = 0;
  bool constant = false;
  std::vector<int64_t> head, tail;
  int64_t source(int64_t o) const {
    if (constant && (o < copy_begin || o >= copy_end)) return -1;
    if (o < copy_begin) return head.empty() ? o - before + in : head[size_t(o)];
    return o < copy_end ? o - before : tail[size_t(o - copy_end)];
  }
};
// Of elements of `item` bytes (2, 4 or 8); the constant is their bytes, repeated to eight.
void pad_forward(char* y, const char* x, const std::vector<PadAxis>& axes, int64_t item, uint64_t pattern);
// The transposed operation; every source must be an input (no constants).
template <class T>
void pad_backward(T* grad_x, const T* grad_y, const std::vector<PadAxis>& axes);

// x: planes of (h.in, w.in); y: for each plane and each tap of the window, a plane of (h.out, w.out).
template <class T>
void unfold_forward(T* y, const T* x, const PoolProblem& p);
template <class T>
void fold_forward(T* x, const T* y, const PoolProblem& p);

// (planes, r*r, h, w) -> (planes, h*r, w*r), and back.
template <class T>
void pixel_shuffle_forward(T* y, const T* x, int64_t planes, int64_t r, int64_t h, int64_t w);
template <class T>
void pixel_unshuffle_forward(T* y, const T* x, int64_t planes, int64_t r, int64_t h, int64_t w);

// x: (batch, channels, plane), grid: (batch, points, rank), y: (batch, channels, points). Either gradient may
// be null.
template <class T>
void grid_sample_forward(T* y, const T* x, const T* grid, const GridProblem& p);
template <class T>
void grid_sample_backward(T* grad_x, T* grad_grid, const T* grad_y, const T* x, const T* grid,
                          const GridProblem& p);

}  // namespace fastdl
