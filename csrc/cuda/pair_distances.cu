// Distances of all pairs of rows, r = (sum |d|^p)^(1/p) with d = x1[b, i] - x2[b, j], without the differences in memory.
//   grad_x1[b, i, m] = sum over j of g sign(d) (|d| / r)^(p - 1)   (p = inf: g sign(d) of each of the largest)
//
// Forward a block has a tile of kTile x kTile pairs, whose rows pass through shared memory by pieces of kPiece numbers.
// Backward a thread has a number of x1 and passes over the rows of x2, lanes side by side; what belongs to pairs, and is
// the same for all numbers of a row, is in shared memory. Sums are in the order of m and of j: the same bits every time.
#include <algorithm>

#include "cuda/distance.h"
#include "cuda/distance_terms.h"

namespace fastdl::cuda {
namespace {

constexpr int kTile = 16, kPiece = 32, kThreads = kTile * kTile;
constexpr int kRows = 8, kColumns = 32;  // backward
static_assert(kRows * kColumns == kThreads);

template <class T, Norm kNorm>
__global__ void __launch_bounds__(kThreads)
    all_distances(T* distance, const T* x1, const T* x2, Compute<T> p, Pairs pairs, Divisor across) {
  using C = Compute<T>;
  FASTDL_SHARED(C, a, kTile * (kPiece + 1));
  FASTDL_SHARED(C, b, kTile * (kPiece + 1));
  const int row = int(threadIdx.x) / kTile, column = int(threadIdx.x) % kTile;
  const uint32_t tile = across.quotient(blockIdx.x);
  const int64_t i0 = int64_t(tile) * kTile, j0 = int64_t(blockIdx.x - tile * across.divisor) * kTile;
  for (int64_t n = blockIdx.z; n < pairs.batch; n += gridDim.z) {
    const T *first = x1 + n * pairs.rows1 * pairs.length, *second = x2 + n * pairs.rows2 * pairs.length;
    C sum = 0;
    for (int64_t m0 = 0; m0 < pairs.length; m0 += kPiece) {
      FASTDL_UNROLL
      for (int k = int(threadIdx.x); k < kTile * kPiece; k += kThreads) {
        const int r = k / kPiece, m = k % kPiece;
        const bool in = m0 + m < pairs.length;
        a[r * (kPiece + 1) + m] =
            in && i0 + r < pairs.rows1 ? C(widen(first[(i0 + r) * pairs.length + m0 + m])) : C(0);
        b[r * (kPiece + 1) + m] =
            in && j0 + r < pairs.rows2 ? C(widen(second[(j0 + r) * pairs.length + m0 + m])) : C(0);
      }
      sync_threads();
      FASTDL_UNROLL_BY(4)
      for (int m = 0; m < kPiece; ++m) {
        const C v = term<T>(std::fabs(a[row * (kPiece + 1) + m] - b[column * (kPiece + 1) + m]), kNorm, p);
        sum = kNorm == Norm::infinite ? larger(sum, v) : sum + v;
      }
      sync_threads();
    }
    if (kNorm == Norm::two) sum = std::sqrt(sum);
    if (kNorm == Norm::any) sum = std::pow(sum, 1 / p);
    const int64_t i = i0 + row, j = j0 + column;
    if (i < pairs.rows1 && j < pairs.rows2)
      distance[(n * pairs.rows1 + i) * pairs.rows2 + j] = narrow<T>(sum);
  }
}

template <class T, Norm kNorm>
__global__ void __launch_bounds__(kThreads)
    all_distances_backward(T* grad_x1, const T* grad_distance, const T* x1, const T* x2, const T* distance,
                           Compute<T> p, Pairs pairs, Divisor across) {
  using C = Compute<T>;
  FASTDL_SHARED(C, factor, kRows * kColumns);  // of a pair: its gradient, for p = 2 over its distance
  FASTDL_SHARED(C, length, kRows * kColumns);
  const int row = int(threadIdx.x) / kColumns, lane = int(threadIdx.x) % kColumns;
  const uint32_t tile = across.quotient(blockIdx.x);
  const int64_t i = int64_t(tile) * kRows + row,
                m = int64_t(blockIdx.x - tile * across.divisor) * kColumns + lane;
  for (int64_t n = blockIdx.z; n < pairs.batch; n += gridDim.z) {
    const T* second = x2 + n * pairs.rows2 * pairs.length;
    const bool mine = i < pairs.rows1 && m < pairs.length;
    const int64_t at = (n * pairs.rows1 + i) * pairs.length + m;
    const C x = mine ? C(widen(x1[at])) : C(0);
    C sum = 0;
    for (int64_t j0 = 0; j0 < pairs.rows2; j0 += kColumns) {
      const bool is = i < pairs.rows1 && j0 + lane < pairs.rows2;
      const int64_t pair = (n * pairs.rows1 + i) * pairs.rows2 + j0 + lane;
      const C r = is ? C(widen(distance[pair])) : C(0), g = r == 0 ? C(0) : C(widen(grad_distance[pair]));
      factor[threadIdx.x] = kNorm == Norm::two && r != 0 ? g / r : g;
      length[threadIdx.x] = r;
      sync_threads();
      const int count = int(std::min<int64_t>(kColumns, pairs.rows2 - j0));
      FASTDL_UNROLL_BY(4)
      for (int j = 0; j < count; ++j) {
        const C f = factor[row * kColumns + j], l = length[row * kColumns + j];
        const C d = mine ? x - C(widen(second[(j0 + j) * pairs.length + m])) : C(0);
        if (l == 0) continue;  // no difference has a part, though it be infinite
        if constexpr (kNorm == Norm::one)
          sum += f * sign(d);
        else if constexpr (kNorm == Norm::two)
          sum += f * d;
        else if constexpr (kNorm == Norm::infinite)
          sum += C(widen(narrow<T>(std::fabs(d)))) == l ? f * sign(d) : f * 0;  // as the distance was rounded
        else
          sum += d == 0 ? f * 0 : f * sign(d) * power<T>(std::fabs(d) / l, p - 1);
      }
      sync_threads();
    }
    if (mine) grad_x1[at] = narrow<T>(sum);
  }
}

// Calls f with the element type and the norm.
template <Norm kNorm>
using Kind = std::integral_constant<Norm, kNorm>;
template <class F>
void by_norm(Dtype dtype, double p, F&& f) {
  by_dtype(dtype, [&]<class T>(T) {
    switch (norm_of(p)) {
      case Norm::zero:
        return f(T{}, Kind<Norm::zero>{});
      case Norm::one:
        return f(T{}, Kind<Norm::one>{});
      case Norm::two:
        return f(T{}, Kind<Norm::two>{});
      case Norm::infinite:
        return f(T{}, Kind<Norm::infinite>{});
      default:
        return f(T{}, Kind<Norm::any>{});
    }
  });
}

// Tiles of all rows, `across` of them for each row of tiles.
dim3 grid_of(int64_t down, int64_t across, int64_t batch) {
  if (down * across >= int64_t(1) << 31)
    throw std::invalid_argument("cdist on CUDA: more than 2^31 tiles of pairs; give the rows in parts");
  return dim3(unsigned(down * across), 1, unsigned(std::min<int64_t>(batch, 65535)));
}

}  // namespace

void cdist_forward(Dtype dtype, void* distance, const void* x1, const void* x2, double p, const Pairs& pairs,
                   Stream stream) {
  if (pairs.batch * pairs.rows1 * pairs.rows2 == 0) return;
  const int64_t across = ceil_div(pairs.rows2, kTile);
  const dim3 grid = grid_of(ceil_div(pairs.rows1, kTile), across, pairs.batch);
  by_norm(dtype, p, [&]<class T, Norm kNorm>(T, Kind<kNorm>) {
    launch("cdist", all_distances<T, kNorm>, grid, dim3(kThreads), 0, stream, static_cast<T*>(distance),
           static_cast<const T*>(x1), static_cast<const T*>(x2), Compute<T>(p), pairs,
           Divisor(uint32_t(across)));
  });
}

void cdist_backward(Dtype dtype, void* grad_x1, const void* grad_distance, const void* x1, const void* x2,
                    const void* distance, double p, const Pairs& pairs, Stream stream) {
  if (pairs.batch * pairs.rows1 * pairs.length == 0) return;
  const int64_t across = ceil_div(pairs.length, kColumns);
  const dim3 grid = grid_of(ceil_div(pairs.rows1, kRows), across, pairs.batch);
  by_norm(dtype, p, [&]<class T, Norm kNorm>(T, Kind<kNorm>) {
    if constexpr (kNorm == Norm::zero)
      zero(grad_x1, sizeof(T) * size_t(pairs.batch * pairs.rows1 * pairs.length), stream);
    else
      launch("cdist_backward", all_distances_backward<T, kNorm>, grid, dim3(kThreads), 0, stream,
             static_cast<T*>(grad_x1), static_cast<const T*>(grad_distance), static_cast<const T*>(x1),
             static_cast<const T*>(x2), static_cast<const T*>(distance), Compute<T>(p), pairs,
             Divisor(uint32_t(across)));
  });
}

}  // namespace fastdl::cuda
