// Sampling images at the places of a grid.
//
//   y[n, c, p] = sum over taps k of w_k(p) x[n, c, i_k(p)]
//   grad_grid[n, p, a] = sum over k of (dw_k / da)(p) * sum over c of grad_y[n, c, p] x[n, c, i_k(p)]
//
// Along each axis a place is the weighted sum of one pixel (nearest), two or four (Keys' cubic); the weights of all axes
// multiply. Pixels outside have no part, not even if the image holds NaN. Places are the same for all channels: a thread
// finds those of a point once, into registers, and passes over channels, whose loads are under way together; lanes have
// neighbouring points, so grid, y and grad_y cross memory once, and pixels come as they lie. Where points are few, a
// point's channels are shared out to a block's warps (teams), whose parts of grad_grid are added in order.
// grad_x adds what may meet anywhere: it is left to embedding.cu, which sorts; here are its entries.
#include "cuda/grid_sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "cuda/numeric.h"

namespace fastdl::cuda {
namespace {

constexpr int kWarps = 8, kThreads = 32 * kWarps;

struct Grid {
  uint32_t items;  // points of all images
  Divisor points;  // of an image
  int channels, teams = 1;
  int64_t plane, pixels;  // of an image, of all
  int extent[3];
  GridPadding padding;
  bool align_corners;
};

// A place moved into the image, except for zeros; `slope` is multiplied by the derivative of that.
template <class C>
__device__ __forceinline__ void move_inside(C& x, C& slope, int n, const Grid& p) {
  if (p.padding == GridPadding::zeros) return;
  const C last = C(n - 1);
  if (p.padding == GridPadding::reflection) {
    const C low = p.align_corners ? C(0) : C(-0.5), span = p.align_corners ? last : C(n);
    if (span == C(0)) {
      x = slope = 0;
      return;
    }
    const C from = std::fabs(x - low);
    C turns = std::floor(from / span), rest = std::fma(-turns, span, from);  // the remainder but for a turn
    if (rest < 0) turns -= 1, rest += span;
    if (rest >= span) turns += 1, rest -= span;
    const C half = turns / 2;
    const bool back = half != std::floor(half);
    if ((x < low) != back) slope = -slope;
    x = (back ? span - rest : rest) + low;
  }
  if (!(x > 0 && x < last)) slope = 0;
  x = x > 0 ? (x < last ? x : last) : C(0);
}

// Keys' kernel at distance u from a pixel, and its derivative.
template <class C>
__device__ __forceinline__ void keys(C u, C& weight, C& rise) {
  const C a = C(-0.75);
  if (u <= 1) {
    weight = ((a + 2) * u - (a + 3)) * u * u + 1;
    rise = (3 * (a + 2) * u - 2 * (a + 3)) * u;
  } else {
    weight = ((a * u - 5 * a) * u + 8 * a) * u - 4 * a;
    rise = u >= 2 ? C(0) : (3 * a * u - 10 * a) * u + 8 * a;
  }
}

template <class C, int kTaps>
struct AxisTaps {
  int at[kTaps];
  bool inside[kTaps];
  C weight[kTaps], slope[kTaps];  // slope: of the weight, by the grid's coordinate
};
// The taps of coordinate v along an axis of n pixels. Products are rounded as on the CPU: at a pixel's edge a place
// decides between two. What is not finite stays so where zeros or a cubic are asked for (the value is NaN), is moved
// inside elsewhere, and in a volume is outside or at the end of its axis.
template <int kTaps, int kRank, class C>
__device__ __forceinline__ AxisTaps<C, kTaps> taps_of(C v, int n, const Grid& p) {
  AxisTaps<C, kTaps> taps;
  C slope = p.align_corners ? C(n - 1) / 2 : C(n) / 2;
  C x = p.align_corners ? rounded_product(v + 1, slope) : (rounded_product(v + 1, C(n)) - 1) / 2;
  if (v - v == 0) {  // a place that is a number stays one, however far
    constexpr C kMost = std::numeric_limits<C>::max();
    x = x > kMost ? kMost : x < -kMost ? -kMost : x;
  } else if (kRank == 3 && (v != v || p.padding != GridPadding::border)) {
    x = p.padding == GridPadding::zeros ? C(-2) : C(n - 1);
  }
  if (kTaps < 4) move_inside(x, slope, n, p);
  const C first = kTaps == 1 ? std::rint(x) : std::floor(x), t = x - first;  // NaN if it is not finite
  FASTDL_UNROLL
  for (int i = 0; i < kTaps; ++i) {
    C pixel = first + C(kTaps == 4 ? i - 1 : i);
    if constexpr (kTaps == 1) {
      taps.weight[i] = 1, taps.slope[i] = 0;
    } else if constexpr (kTaps == 2) {
      taps.weight[i] = i == 0 ? 1 - t : t;
      taps.slope[i] = i == 0 ? -slope : slope;
    } else {
      C rise, none = 0;
      keys(std::fabs(t - C(i - 1)), taps.weight[i], rise);
      taps.slope[i] = t >= C(i - 1) ? slope * rise : -slope * rise;
      move_inside(pixel, none, n, p);
    }
    taps.inside[i] = pixel >= 0 && pixel <= C(n - 1);
    taps.at[i] = taps.inside[i] ? int(pixel) : 0;
  }
  return taps;
}

// All taps of a point: pixels of the plane, and their weights. Without a pixel a weight is 0, or NaN at a place that is
// no number.
template <class C, int kTaps, int kRank>
struct Taps {
  static constexpr int kCount = kRank == 2 ? kTaps * kTaps : kTaps * kTaps * kTaps;
  AxisTaps<C, kTaps> axis[kRank];
  int at[kCount];
  bool inside[kCount];
  C weight[kCount];

  template <class T>
  __device__ __forceinline__ Taps(const T* grid, uint32_t point, const Grid& p) {
    FASTDL_UNROLL
    for (int a = 0; a < kRank; ++a)
      axis[a] = taps_of<kTaps, kRank>(C(widen(grid[int64_t(point) * kRank + kRank - 1 - a])), p.extent[a], p);
    FASTDL_UNROLL
    for (int k = 0; k < kCount; ++k) {
      at[k] = 0, inside[k] = true;
      C product = 1;
      FASTDL_UNROLL
      for (int a = 0; a < kRank; ++a) {
        const int i = tap(k, a);
        at[k] = at[k] * p.extent[a] + axis[a].at[i];
        inside[k] = inside[k] && axis[a].inside[i];
        product *= axis[a].weight[i];
      }
      weight[k] = part(product, k);
    }
  }
  static __device__ __forceinline__ constexpr int tap(int k, int a) {
    return k / (a == kRank - 1 ? 1 : a == kRank - 2 ? kTaps : kTaps * kTaps) % kTaps;
  }
  __device__ __forceinline__ C part(C product, int k) const { return inside[k] ? product : 0 * product; }
  // Of weight k, by the coordinate along axis a.
  __device__ __forceinline__ C slope(int k, int a) const {
    C product = 1;
    FASTDL_UNROLL
    for (int b = 0; b < kRank; ++b) product *= b == a ? axis[b].slope[tap(k, b)] : axis[b].weight[tap(k, b)];
    return part(product, k);
  }
  template <class T>
  __device__ __forceinline__ C pixel(const T* plane, int k) const {
    return inside[k] ? C(widen(plane[at[k]])) : C(0);
  }
};

// A thread's point and team, of those that a warp belongs to.
struct Item {
  uint32_t point, image, in_image;
  int team;
  bool any;

  __device__ __forceinline__ explicit Item(const Grid& p) {
    const int warp = int(threadIdx.x) / 32;
    team = warp % p.teams;
    const uint32_t group = blockIdx.x * uint32_t(kWarps / p.teams) + uint32_t(warp / p.teams);
    point = group * 32 + threadIdx.x % 32;
    any = point < p.items;
    if (!any) point = p.items - 1;
    image = p.points.quotient(point);
    in_image = point - image * p.points.divisor;
  }
};

// Channels whose pixels are under way together.
template <int kCount>
constexpr int kAtOnce = kCount <= 4   ? 4
                        : kCount <= 8 ? 2
                                      : 1;

template <class T, int kTaps, int kRank>
__global__ void __launch_bounds__(kThreads) sample(T* y, const T* x, const T* grid, Grid p) {
  using C = Compute<T>;
  using Point = Taps<C, kTaps, kRank>;
  const Item item(p);
  if (!item.any) return;
  const Point point(grid, item.point, p);
  const int64_t size = p.points.divisor;
  const int64_t first = int64_t(item.image) * p.channels + item.team;
  const T* plane = x + first * p.plane;
  T* to = y + first * size + item.in_image;
  FASTDL_UNROLL_BY(kAtOnce<Point::kCount>)
  for (int c = item.team; c < p.channels; c += p.teams, plane += p.teams * p.plane, to += p.teams * size) {
    C sum = 0;
    FASTDL_UNROLL
    for (int k = 0; k < Point::kCount; ++k) sum += point.weight[k] * point.pixel(plane, k);
    *to = narrow<T>(sum);
  }
}

template <class T, int kTaps, int kRank>
__global__ void __launch_bounds__(kThreads)
    sample_grad_grid(T* grad_grid, const T* grad_y, const T* x, const T* grid, Grid p) {
  using C = Compute<T>;
  using Point = Taps<C, kTaps, kRank>;
  FASTDL_SHARED(C, parts, kThreads * kRank);
  const Item item(p);
  const Point point(grid, item.point, p);
  const int64_t size = p.points.divisor;
  const int64_t first = int64_t(item.image) * p.channels + item.team;
  const T* plane = x + first * p.plane;
  const T* from = grad_y + first * size + item.in_image;
  C shares[Point::kCount] = {};
  FASTDL_UNROLL_BY(kAtOnce<Point::kCount>)
  for (int c = item.team; c < p.channels; c += p.teams, plane += p.teams * p.plane, from += p.teams * size) {
    const C g = C(widen(*from));
    FASTDL_UNROLL
    for (int k = 0; k < Point::kCount; ++k) shares[k] += g * point.pixel(plane, k);
  }
  FASTDL_UNROLL
  for (int a = 0; a < kRank; ++a) {
    C sum = 0;
    FASTDL_UNROLL
    for (int k = 0; k < Point::kCount; ++k) sum += point.slope(k, a) * shares[k];
    parts[a * kThreads + threadIdx.x] = sum;
  }
  sync_threads();
  if (!item.any || item.team != 0) return;
  FASTDL_UNROLL
  for (int a = 0; a < kRank; ++a) {
    C sum = 0;
    for (int team = 0; team < p.teams; ++team) sum += parts[a * kThreads + threadIdx.x + 32 * team];
    grad_grid[int64_t(item.point) * kRank + kRank - 1 - a] = narrow<T>(sum);
  }
}

template <class T, int kTaps, int kRank>
__global__ void __launch_bounds__(kThreads)
    sample_entries(int64_t* pixel, int64_t* point, Compute<T>* weight, const T* grid, Grid p) {
  using C = Compute<T>;
  using Point = Taps<C, kTaps, kRank>;
  const Item item(p);
  if (!item.any) return;
  const Point taps(grid, item.point, p);
  FASTDL_UNROLL
  for (int k = 0; k < Point::kCount; ++k) {
    const int64_t at = int64_t(item.point) * Point::kCount + k;
    pixel[at] = taps.inside[k] ? int64_t(item.image) * p.plane + taps.at[k] : p.pixels;
    point[at] = item.point;
    weight[at] = taps.weight[k];
  }
}

// ---- on the host

Grid grid_of(const GridProblem& p, bool passes_channels) {
  if (p.batch * p.points >= int64_t(1) << 31 || p.channels >= int64_t(1) << 31)
    throw std::invalid_argument("grid_sample on CUDA is limited to 2^31 points in one call");
  const int64_t items = p.batch * p.points, wanted = int64_t(multiprocessors()) * 2048;
  Grid grid;
  grid.items = uint32_t(items);
  grid.points = Divisor(uint32_t(std::max<int64_t>(p.points, 1)));
  grid.channels = int(p.channels);
  grid.plane = p.plane();
  grid.pixels = p.batch * p.plane();
  for (int a = 0; a < 3; ++a) grid.extent[a] = int(p.extent[a]);
  grid.padding = p.padding;
  grid.align_corners = p.align_corners;
  while (passes_channels && grid.teams < kWarps && 2 * grid.teams <= p.channels &&
         items * grid.teams < wanted)
    grid.teams *= 2;
  return grid;
}
unsigned blocks_of(const Grid& grid) {
  return unsigned(ceil_div(grid.items, 32 * (kWarps / grid.teams)));
}

template <int kTaps, int kRank>
struct Kind {};
// Calls f with the element type and the kind of taps.
template <class F>
void by_kind(Dtype dtype, const GridProblem& p, F&& f) {
  by_dtype(dtype, [&]<class T>(T) {
    if (p.mode == GridMode::nearest) return p.rank == 2 ? f(T{}, Kind<1, 2>{}) : f(T{}, Kind<1, 3>{});
    if (p.mode == GridMode::bilinear) return p.rank == 2 ? f(T{}, Kind<2, 2>{}) : f(T{}, Kind<2, 3>{});
    f(T{}, Kind<4, 2>{});
  });
}

}  // namespace

void grid_sample(Dtype dtype, void* y, const void* x, const void* grid, const GridProblem& problem,
                 Stream stream) {
  const Grid p = grid_of(problem, true);
  if (p.items == 0 || p.channels == 0) return;
  by_kind(dtype, problem, [&]<class T, int kTaps, int kRank>(T, Kind<kTaps, kRank>) {
    launch("grid_sample", sample<T, kTaps, kRank>, dim3(blocks_of(p)), dim3(kThreads), 0, stream,
           static_cast<T*>(y), static_cast<const T*>(x), static_cast<const T*>(grid), p);
  });
}

void grid_sample_grad_grid(Dtype dtype, void* grad_grid, const void* grad_y, const void* x, const void* grid,
                           const GridProblem& problem, Stream stream) {
  const Grid p = grid_of(problem, true);
  if (p.items == 0) return;
  by_kind(dtype, problem, [&]<class T, int kTaps, int kRank>(T, Kind<kTaps, kRank>) {
    launch("grid_sample_backward", sample_grad_grid<T, kTaps, kRank>, dim3(blocks_of(p)), dim3(kThreads), 0,
           stream, static_cast<T*>(grad_grid), static_cast<const T*>(grad_y), static_cast<const T*>(x),
           static_cast<const T*>(grid), p);
  });
}

int64_t grid_taps(const GridProblem& p) {
  const int64_t taps = p.taps();
  return p.rank == 2 ? taps * taps : taps * taps * taps;
}

void grid_sample_entries(Dtype dtype, int64_t* pixel, int64_t* point, void* weight, const void* grid,
                         const GridProblem& problem, Stream stream) {
  const Grid p = grid_of(problem, false);
  if (p.items == 0) return;
  by_kind(dtype, problem, [&]<class T, int kTaps, int kRank>(T, Kind<kTaps, kRank>) {
    launch("grid_sample_backward", sample_entries<T, kTaps, kRank>, dim3(blocks_of(p)), dim3(kThreads), 0,
           stream, pixel, point, static_cast<Compute<T>*>(weight), static_cast<const T*>(grid), p);
  });
}

}  // namespace fastdl::cuda
