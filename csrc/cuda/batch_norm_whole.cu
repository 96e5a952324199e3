// Batch norm of channels that the registers of a block hold: x (backward: with the gradient) is read once, and all
// is done by one launch, where batch_norm.cu has three or four. A channel of some thousand elements takes no longer
// than a launch, so launches are what it costs.
//
// A block has a channel, or, where inner = 1, eight or four side by side. Threads have units of a pack or an element,
// all of which are on their way before one is looked at. Sums are those of batch_norm.cu, of x minus a first element.
#include <array>

#include "cuda/norm_statistics.h"

namespace fastdl::cuda {
namespace {

constexpr int kMostThreads = 1024, kMostWidth = 8;

// Units of M elements, of which a channel has `units` and a plane of it per_plane.
struct Whole {
  uint32_t units, channels, inner, shift;  // 1 << shift channels of a block
  Divisor per_plane;
};

// A thread's channel, and which of its units are the thread's: row, row + rows, ..
template <int M>
struct Part {
  const Whole& whole;
  uint32_t channel, row, rows, end;
  bool present;  // is there such a channel?

  __device__ __forceinline__ explicit Part(const Whole& whole) : whole(whole) {
    channel = (blockIdx.x << whole.shift) + (threadIdx.x & ((1U << whole.shift) - 1));
    present = channel < whole.channels;
    if (!present) channel = 0;
    row = threadIdx.x >> whole.shift;
    rows = blockDim.x >> whole.shift;
    end = present ? whole.units : 0;
  }
  __device__ __forceinline__ bool has(int k) const { return row + k * rows < end; }
  // Where a unit starts.
  __device__ __forceinline__ uint32_t place(uint32_t unit) const {
    const uint32_t n = whole.per_plane.quotient(unit);
    return (n * whole.channels + channel) * whole.inner + (unit - n * whole.per_plane.divisor) * M;
  }
  // Unit k of each array. Units that are not there are the last one again: with a question for each load, some would
  // wait for others.
  template <int K, class T, class... To>
  __device__ __forceinline__ void load(std::array<const T*, sizeof...(To)> from, To&... to) const {
    FASTDL_UNROLL
    for (int k = 0; k < K; ++k) {
      const uint32_t at = place(std::min(row + k * rows, whole.units - 1));
      int array = 0;
      ((to[k] = Loaded<T, M>(*reinterpret_cast<const Pack<T, M>*>(from[array++] + at))), ...);
    }
  }
  // f(unit k, element) for every element. kAgain: places are found once more, as those of the loads, kept since then,
  // would fill registers.
  template <int K, bool kAgain, class T, class F>
  __device__ __forceinline__ void store(T* to, F&& f) const {
    int first = int(row);
    if constexpr (kAgain) opaque(first);
    FASTDL_UNROLL
    for (int k = 0; k < K; ++k) {
      const uint32_t unit = uint32_t(first) + k * rows;
      if (unit >= end) break;
      Pack<T, M> pack;
      FASTDL_UNROLL
      for (int m = 0; m < M; ++m) pack.v[m] = narrow<T>(f(k, m));
      *reinterpret_cast<Pack<T, M>*>(to + place(unit)) = pack;
    }
  }
};

// Two sums over the lanes of a warp whose numbers are the same below `width`. A loop: fetching the code would take
// longer than running it.
template <class C>
__device__ __forceinline__ void lane_sums(C (&sums)[2], int width) {
  FASTDL_ROLLED
  for (int mask = 16; mask >= width; mask /= 2) {
    const C others[2] = {shuffle_xor(sums[0], mask), shuffle_xor(sums[1], mask)};
    sums[0] += others[0];
    sums[1] += others[1];
  }
}
// Over the threads with the same channel; each has its channel's sums.
template <class C>
__device__ __forceinline__ void channel_sums(double (&all)[2], C (&sums)[2], int shift) {
  FASTDL_SHARED(double, partial, 2 * kMostWidth * kMostThreads / 32);
  const int lane = lane_id(), warp = int(threadIdx.x) / 32, warps = int(blockDim.x) / 32, width = 1 << shift;
  lane_sums(sums, width);
  const auto of_warp = [&](int w) { return &partial[2 * (w * kMostWidth + (lane & (width - 1)))]; };
  if (lane < width) {
    of_warp(warp)[0] = double(sums[0]);
    of_warp(warp)[1] = double(sums[1]);
  }
  sync_threads();
  all[0] = all[1] = 0;
  FASTDL_ROLLED
  for (int w = lane >> shift; w < warps; w += 32 >> shift) {
    all[0] += of_warp(w)[0];
    all[1] += of_warp(w)[1];
  }
  lane_sums(all, width);
}

// share: 1 / elements of a channel.
template <class T, int M>
__global__ void __launch_bounds__(kMostThreads)
    whole_forward(T* y, double* mean, double* var, const T* x, const T* weight, const T* bias, Whole whole,
                  double share, Compute<T> eps) {
  using C = Compute<T>;
  constexpr int K = kRowValues<T> / M;
  const Part<M> part(whole);
  const uint32_t c = part.channel;
  Loaded<T, M> loaded[K];
  part.template load<K, T>({x}, loaded);
  const C x0 = C(widen(x[c * whole.inner]));
  const C w = weight != nullptr ? C(widen(weight[c])) : C(1), b = bias != nullptr ? C(widen(bias[c])) : C(0);
  C sums[2] = {0, 0};
  FASTDL_UNROLL
  for (int k = 0; k < K; ++k) {
    if (!part.has(k)) continue;
    FASTDL_UNROLL
    for (int m = 0; m < M; ++m) {
      const C d = C(widen(loaded[k][m])) - x0;
      sums[0] += d;
      sums[1] += d * d;
    }
  }
  double all[2];
  channel_sums(all, sums, int(whole.shift));
  const double shift = all[0] * share, of_all = double(x0) + shift;
  const double variance = larger(all[1] * share - shift * shift, 0.0);
  if (part.present && part.row == 0) {
    mean[c] = of_all;
    var[c] = variance;
  }
  const auto s = statistics_of<C>(of_all, variance, eps);
  part.template store<K, false>(y,
                                [&](int k, int m) { return s.normalised(C(widen(loaded[k][m]))) * w + b; });
}

// grad_x: null if it is not wanted. training: mean and var are the batch's own, gradients flow through them.
template <class T, int M>
__global__ void __launch_bounds__(kMostThreads)
    whole_backward(T* grad_x, T* grad_weight, T* grad_bias, const T* grad_y, const T* x, const T* weight,
                   const double* mean, const double* var, Whole whole, double share, Compute<T> eps,
                   bool training) {
  using C = Compute<T>;
  constexpr int K = kRowValues<T> / M;
  const Part<M> part(whole);
  const uint32_t c = part.channel;
  Loaded<T, M> a[K], g[K];
  part.template load<K, T>({x, grad_y}, a, g);
  const C w = weight != nullptr ? C(widen(weight[c])) : C(1);
  const auto s = statistics<C>(mean, var, c, eps);
  C sums[2] = {0, 0};
  FASTDL_UNROLL
  for (int k = 0; k < K; ++k) {
    if (!part.has(k)) continue;
    FASTDL_UNROLL
    for (int m = 0; m < M; ++m) {
      const C gradient = C(widen(g[k][m]));
      sums[0] += gradient;
      sums[1] += gradient * s.normalised(C(widen(a[k][m])));
    }
  }
  double all[2];
  channel_sums(all, sums, int(whole.shift));
  if (part.present && part.row == 0) {
    if (grad_bias != nullptr) grad_bias[c] = narrow<T>(C(all[0]));
    if (grad_weight != nullptr) grad_weight[c] = narrow<T>(C(all[1]));
  }
  if (grad_x == nullptr) return;
  const C factor = w * s.r, own = training ? C(1) : C(0);
  const C mean_g = own * C(all[0] * share), mean_gh = own * C(all[1] * share);
  part.template store<K, true>(grad_x, [&](int k, int m) {
    return factor * (C(widen(g[k][m])) - mean_g - s.normalised(C(widen(a[k][m]))) * mean_gh);
  });
}

// ---- on the host

// Channels of a block; 0: its registers do not hold one.
template <class T>
int64_t width_of(const ChannelNorm& p) {
  constexpr int64_t kMost = kMostThreads * kRowValues<T>;
  const int64_t elements = p.batch * p.inner;
  if (elements == 0 || p.channels == 0 || elements * p.channels >= int64_t(1) << 31) return 0;
  if (p.inner > 1) return elements <= kMost ? 1 : 0;
  return elements * 8 <= kMost ? 8 : elements * 4 <= kMost ? 4 : 0;  // runs of 32 or 16 bytes
}

// f(constant M, the problem in units of M, blocks, threads)
template <class T, class F>
void by_units(const ChannelNorm& p, bool packed, F&& f) {
  const int64_t width = width_of<T>(p);
  const auto run = [&]<int M>(std::integral_constant<int, M> pack) {
    const int64_t per_plane = p.inner / M, units = p.batch * per_plane;
    const Whole whole{uint32_t(units), uint32_t(p.channels), uint32_t(p.inner),
                      uint32_t(width == 8   ? 3
                               : width == 4 ? 2
                                            : 0),
                      Divisor(uint32_t(per_plane))};
    // Half of what a thread can hold: more threads take less time.
    const int64_t wanted = ceil_div(units * width * M * 2, kRowValues<T>);
    const int64_t threads = std::min<int64_t>(kMostThreads, ceil_div(wanted, 32) * 32);
    f(pack, whole, dim3(unsigned(ceil_div(p.channels, width))), dim3(unsigned(threads)));
  };
  if (packed)
    run(std::integral_constant<int, kWidest<T>>{});
  else
    run(std::integral_constant<int, 1>{});
}

}  // namespace

bool channels_fit(Dtype dtype, const ChannelNorm& p) {
  bool fit = false;
  by_dtype(dtype, [&]<class T>(T) { fit = width_of<T>(p) > 0; });
  return fit;
}

void whole_batch_norm(Dtype dtype, void* y, double* mean, double* var, const void* x, const void* weight,
                      const void* bias, const ChannelNorm& p, Stream stream) {
  const double share = 1 / double(p.batch * p.inner);
  by_dtype(dtype, [&]<class T>(T) {
    by_units<T>(p, rows_packed<T>(p.inner, {y, x}),
                [&](auto pack, const Whole& whole, dim3 grid, dim3 block) {
                  launch("batch_norm", whole_forward<T, pack>, grid, block, 0, stream, static_cast<T*>(y),
                         mean, var, static_cast<const T*>(x), static_cast<const T*>(weight),
                         static_cast<const T*>(bias), whole, share, Compute<T>(p.eps));
                });
  });
}

void whole_batch_norm_backward(Dtype dtype, void* grad_x, void* grad_weight, void* grad_bias,
                               const void* grad_y, const void* x, const void* weight, const double* mean,
                               const double* var, bool training, const ChannelNorm& p, Stream stream) {
  const double share = 1 / double(p.batch * p.inner);
  by_dtype(dtype, [&]<class T>(T) {
    by_units<T>(p, rows_packed<T>(p.inner, {grad_x, grad_y, x}),
                [&](auto pack, const Whole& whole, dim3 grid, dim3 block) {
                  launch("batch_norm_backward", whole_backward<T, pack>, grid, block, 0, stream,
                         static_cast<T*>(grad_x), static_cast<T*>(grad_weight), static_cast<T*>(grad_bias),
                         static_cast<const T*>(grad_y), static_cast<const T*>(x),
                         static_cast<const T*>(weight), mean, var, whole, share, Compute<T>(p.eps), training);
                });
  });
}

}  // namespace fastdl::cuda
