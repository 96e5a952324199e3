// The geometry of sampling an image at any places.
#pragma once

#include <cstdint>

namespace fastdl {

enum class GridMode { bilinear, nearest, bicubic };
enum class GridPadding { zeros, border, reflection };

struct GridProblem {
  int64_t batch = 0, channels = 0, points = 0;  // points of one image's grid
  int rank = 0;                                 // 2 or 3
  int64_t extent[3] = {};  // of the image; axis a's coordinate is grid[..., rank - 1 - a]
  GridMode mode = GridMode::bilinear;
  GridPadding padding = GridPadding::zeros;
  bool align_corners = false;
  int taps() const { return mode == GridMode::nearest ? 1 : mode == GridMode::bilinear ? 2 : 4; }
  int64_t plane() const { return extent[0] * extent[1] * (rank == 3 ? extent[2] : 1); }
};

}  // namespace fastdl
