// Sampling images (N, C, plane) at the places of a grid (N, points, rank); the geometry is common/grid_sample.h's.
#pragma once

#include "common/grid_sample.h"
#include "cuda/types.h"

namespace fastdl::cuda {

// y: (N, C, points)
void grid_sample(Dtype dtype, void* y, const void* x, const void* grid, const GridProblem& problem,
                 Stream stream);
// grad_y: (N, C, points), grad_grid: as grid
void grid_sample_grad_grid(Dtype dtype, void* grad_grid, const void* grad_y, const void* x, const void* grid,
                           const GridProblem& problem, Stream stream);
// grad_x as the gradient of a table with a row for each pixel of all images (embedding.h): every tap of every point
// adds `weight` (float, for float64 double) times row `point` of grad_y to row `pixel`, which is the number of all pixels
// where there is none. Each array: (N, points, taps), see grid_taps.
int64_t grid_taps(const GridProblem& problem);
void grid_sample_entries(Dtype dtype, int64_t* pixel, int64_t* point, void* weight, const void* grid,
                         const GridProblem& problem, Stream stream);

}  // namespace fastdl::cuda
