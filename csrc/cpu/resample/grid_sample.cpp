// Sampling images (N, C, plane) at the places of a grid (N, points, rank).
//
//   y[n, c, p] = sum over taps k of w_k(p) x[n, c, i_k(p)]
//   grad_x[n, c, i] = sum over p, k with i_k(p) = i of w_k(p) grad_y[n, c, p]
//   grad_grid[n, p, a] = sum over k of (dw_k / da)(p) * sum over c of grad_y[n, c, p] x[n, c, i_k(p)]
//
// Along each axis a place is the weighted sum of one pixel (nearest), two or four (Keys' cubic); the weights
// of all axes multiply. Pixels outside have no part, not even if the image holds NaN. Places are the same for
// all channels: those of a block of points are found once, into tables in L1, and channels pass over the
// tables, one point per lane. Nothing is saved. Work: blocks of points for y and grad_grid, planes for
// grad_x, whose sums are in the order of the points. Passes over memory: grid, results and grad_y once,
// pixels as they come.
#include <cmath>

#include "cpu/resample/resample.h"
#include "cpu/rows.h"

namespace fastdl {
namespace {

constexpr int64_t kBlock = 64;  // points

template <class T>
class Block {
 public:
  explicit Block(const GridProblem& p) : p_(p), taps_(p.taps()), total_(1) {
    for (int a = 0; a < p.rank; ++a) total_ *= taps_;
  }

  // Tables for points [0, count) of `grid`; lanes behind them have no pixels.
  void locate(const T* grid, int64_t count) {
    for (int a = 0; a < p_.rank; ++a) locate_axis(a, grid + (p_.rank - 1 - a), count);
    for (int k = 0; k < total_; ++k) {
      const Axis& first = axes_[0];
      int t[3];
      tap_of(k, t);
      for (int64_t j = 0; j < kBlock; ++j) {
        index_[k][j] = first.at[t[0]][j];
        inside_[k][j] = first.inside[t[0]][j];
        weight_[k][j] = first.weight[t[0]][j];
      }
      for (int a = 1; a < p_.rank; ++a) {
        const Axis& axis = axes_[a];
        for (int64_t j = 0; j < kBlock; ++j) {
          index_[k][j] = index_[k][j] * Int<T>(p_.extent[a]) + axis.at[t[a]][j];
          inside_[k][j] &= axis.inside[t[a]][j];
          weight_[k][j] *= axis.weight[t[a]][j];
        }
      }
      for (int64_t j = 0; j < kBlock; ++j) {
        index_[k][j] &= inside_[k][j];
        weight_[k][j] = inside_[k][j] ? weight_[k][j] : T(0);
      }
    }
  }

  void sample(T* y, const T* x, int64_t count) const {
    for (int64_t j = 0; j < count; j += kWidth<T>) {
      Vec<T> sum{};
      for (int k = 0; k < total_; ++k) sum += load(weight_[k] + j) * pixels(x, k, j);
      store_n(y + j, sum, int(std::min<int64_t>(kWidth<T>, count - j)));
    }
  }
  void scatter(T* grad_x, const T* grad_y, int64_t count) const {
    for (int k = 0; k < total_; ++k)
      for (int64_t j = 0; j < count; ++j)
        if (inside_[k][j]) grad_x[index_[k][j]] += weight_[k][j] * grad_y[j];
  }
  // What each tap's weight does to the loss: one channel's part of it is added.
  void clear_shares() { std::fill_n(&share_[0][0], total_ * kBlock, T(0)); }
  void add_shares(const T* grad_y, const T* x, int64_t count) {
    for (int64_t j = 0; j < count; j += kWidth<T>) {
      const Vec<T> g = load_n(grad_y + j, int(std::min<int64_t>(kWidth<T>, count - j)));
      for (int k = 0; k < total_; ++k) store<T>(share_[k] + j, load(share_[k] + j) + g * pixels(x, k, j));
    }
  }
  void slopes(T* grad_grid, int64_t count) const {
    for (int a = 0; a < p_.rank; ++a)
      for (int64_t j = 0; j < count; ++j) {
        T sum = 0;
        for (int k = 0; k < total_; ++k) {
          if (!inside_[k][j]) continue;
          int t[3];
          tap_of(k, t);
          T factor = share_[k][j];
          for (int b = 0; b < p_.rank; ++b)
            factor *= b == a ? axes_[b].slope[t[b]][j] : axes_[b].weight[t[b]][j];
          sum += factor;
        }
        grad_grid[j * p_.rank + (p_.rank - 1 - a)] = sum;
      }
  }

 private:
  struct Axis {
    alignas(64) Int<T> at[4][kBlock], inside[4][kBlock];  // pixels and, as masks, whether there are any
    alignas(64) T weight[4][kBlock], slope[4][kBlock];    // slope: of the weight, by the grid's coordinate
  };

  void tap_of(int k, int* t) const {
    for (int a = p_.rank - 1; a >= 0; --a, k /= taps_) t[a] = k % taps_;
  }
  [[gnu::always_inline]] Vec<T> pixels(const T* x, int k, int64_t j) const {
    const Vec<Int<T>> mask = load<Int<T>>(inside_[k] + j);
    return (Vec<T>)((Vec<Int<T>>)gather<T>(x, load<Int<T>>(index_[k] + j)) & mask);
  }

  // Places moved into the image, except for zeros; `slope` is multiplied by the derivative of that.
  void pad(T* place, T* slope, T extent) const {
    if (p_.padding == GridPadding::zeros) return;
    if (p_.padding == GridPadding::reflection) {
      const T low = p_.align_corners ? T(0) : T(-0.5), span = p_.align_corners ? extent - 1 : extent;
      for (int64_t j = 0; j < kBlock; ++j) {
        const T distance = place[j] - low, away = std::abs(distance), turns = std::floor(away / span);
        const T rest = away - turns * span;
        const bool back = turns - 2 * std::floor(turns / 2) == 1;
        place[j] = span > 0 ? (back ? span - rest : rest) + low : T(0);
        slope[j] *= span > 0 ? ((distance < 0) != back ? T(-1) : T(1)) : T(0);
      }
    }
    for (int64_t j = 0; j < kBlock; ++j) {  // to [0, extent - 1]; NaN to 0
      const T v = place[j];
      slope[j] *= v > 0 && v < extent - 1 ? T(1) : T(0);
      place[j] = v > 0 ? (v < extent - 1 ? v : extent - 1) : T(0);
    }
  }
  // A tap's pixel, given as a number, among `extent`.
  void set_pixels(Axis& axis, int t, const T* pixel, int64_t count, T extent) const {
    for (int64_t j = 0; j < kBlock; ++j) {
      const bool inside = (j < count) & (pixel[j] >= 0) & (pixel[j] <= extent - 1);
      axis.at[t][j] = Int<T>(inside ? pixel[j] : T(0));
      axis.inside[t][j] = -Int<T>(inside);
    }
  }

  void locate_axis(int a, const T* coordinate, int64_t count) {
    Axis& axis = axes_[a];
    const T extent = T(p_.extent[a]);
    alignas(64) T place[kBlock], slope[kBlock], pixel[kBlock], ignored[kBlock];
    for (int64_t j = 0; j < kBlock; ++j) {
      const T v = j < count ? coordinate[j * p_.rank] : T(0);
      place[j] = p_.align_corners ? (v + 1) * ((extent - 1) / 2) : ((v + 1) * extent - 1) / 2;
      slope[j] = p_.align_corners ? (extent - 1) / 2 : extent / 2;
    }
    if (p_.mode != GridMode::bicubic) pad(place, slope, extent);
    if (p_.mode == GridMode::nearest) {
      for (int64_t j = 0; j < kBlock; ++j) {
        pixel[j] = std::rint(place[j]);
        axis.weight[0][j] = 1;
        axis.slope[0][j] = 0;
      }
      return set_pixels(axis, 0, pixel, count, extent);
    }
    const int before = taps_ / 2 - 1;  // taps in front of the place's own pixel
    for (int64_t j = 0; j < kBlock; ++j) {
      const T first = std::floor(place[j]), t = place[j] - first;
      place[j] = first;
      if (taps_ == 2) {
        axis.weight[0][j] = 1 - t;
        axis.weight[1][j] = t;
        axis.slope[0][j] = -slope[j];
        axis.slope[1][j] = slope[j];
        continue;
      }
      constexpr T c = T(-0.75);
      const T near[2] = {t, 1 - t}, sign[2] = {slope[j], -slope[j]};
      for (int side = 0; side < 2; ++side) {
        const T u = near[side], v = u + 1, s = sign[side];
        const int inner = 1 + side, outer = 3 * side;
        axis.weight[inner][j] = resampling::cubic_near(u, c);
        axis.weight[outer][j] = resampling::cubic_far(v, c);
        axis.slope[inner][j] = s * (3 * (c + 2) * u - 2 * (c + 3)) * u;
        axis.slope[outer][j] = s * ((3 * c * v - 10 * c) * v + 8 * c);
      }
    }
    for (int t = 0; t < taps_; ++t) {
      for (int64_t j = 0; j < kBlock; ++j) pixel[j] = place[j] + T(t - before);
      if (p_.mode == GridMode::bicubic) pad(pixel, ignored, extent);
      set_pixels(axis, t, pixel, count, extent);
    }
  }

  const GridProblem& p_;
  int taps_, total_;
  Axis axes_[3];
  alignas(64) Int<T> index_[16][kBlock], inside_[16][kBlock];
  alignas(64) T weight_[16][kBlock], share_[16][kBlock];
};

// f(image, first point, how many) for all blocks of points.
template <class F>
void for_blocks(const GridProblem& p, F f) {
  const int64_t per_image = (p.points + kBlock - 1) / kBlock;
  parallel_for(p.batch * per_image, rows_grain(4 * kBlock * (p.channels + 4)),
               [&](int64_t begin, int64_t end) {
                 for (int64_t b = begin; b < end; ++b) {
                   const int64_t first = b % per_image * kBlock;
                   f(b / per_image, first, std::min(kBlock, p.points - first));
                 }
               });
}

}  // namespace

template <class T>
void grid_sample_forward(T* y, const T* x, const T* grid, const GridProblem& p) {
  for_blocks(p, [&](int64_t n, int64_t first, int64_t count) {
    Block<T> block(p);
    block.locate(grid + (n * p.points + first) * p.rank, count);
    for (int64_t c = n * p.channels; c < (n + 1) * p.channels; ++c)
      block.sample(y + c * p.points + first, x + c * p.plane(), count);
  });
}

template <class T>
void grid_sample_backward(T* grad_x, T* grad_grid, const T* grad_y, const T* x, const T* grid,
                          const GridProblem& p) {
  if (grad_x)
    parallel_for(p.batch * p.channels, rows_grain(8 * p.points + p.plane()), [&](int64_t begin, int64_t end) {
      std::fill_n(grad_x + begin * p.plane(), (end - begin) * p.plane(), T(0));
      Block<T> block(p);
      for (int64_t plane = begin, stop; plane < end; plane = stop) {
        const int64_t n = plane / p.channels;
        stop = std::min(end, (n + 1) * p.channels);
        for (int64_t first = 0; first < p.points; first += kBlock) {
          const int64_t count = std::min(kBlock, p.points - first);
          block.locate(grid + (n * p.points + first) * p.rank, count);
          for (int64_t c = plane; c < stop; ++c)
            block.scatter(grad_x + c * p.plane(), grad_y + c * p.points + first, count);
        }
      }
    });
  if (grad_grid)
    for_blocks(p, [&](int64_t n, int64_t first, int64_t count) {
      Block<T> block(p);
      const int64_t at = (n * p.points + first) * p.rank;
      block.locate(grid + at, count);
      block.clear_shares();
      for (int64_t c = n * p.channels; c < (n + 1) * p.channels; ++c)
        block.add_shares(grad_y + c * p.points + first, x + c * p.plane(), count);
      block.slopes(grad_grid + at, count);
    });
}

#define FASTDL_INSTANTIATE(T)                                                       \
  template void grid_sample_forward<T>(T*, const T*, const T*, const GridProblem&); \
  template void grid_sample_backward<T>(T*, T*, const T*, const T*, const T*, const GridProblem&);
FASTDL_INSTANTIATE(float)
FASTDL_INSTANTIATE(double)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl
