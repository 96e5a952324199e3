// Depthwise convolution and its gradient of x on planes, kernels 3, 5 or 7 wide (7: stride 1), strides 1 and 2.
//
//   y[n, c, o] = bias[c] + sum over taps of  w[c, tap] * x[n, c, source(o, tap)]
//
// A thread has 4 x 4 results of a plane (conv_depthwise_planes.h): it loads the channel's taps, which its warp
// mostly shares, and passes the rows that the tile sees once. The gradient of x is the same with the taps
// turned around, for stride 2 with every second one. Memory sees x and y once; each result is summed by one
// thread in a fixed order.
#include "cuda/conv_depthwise_planes.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 128;

struct Tiles {
  PlaneAxis h, w;
  int first_tap, tap_step;
  bool packed_y;  // rows of results are whole packs
  uint32_t items;
  Divisor columns, strips, channels;
};

template <class T, int K, int kDown, int kUp, int kShift, bool kPacked>
__global__ void __launch_bounds__(kThreads)
    depthwise_tile(T* y, const T* x, const T* weight, const T* bias, Tiles p) {
  using W = Window<K, kDown, kUp, kShift>;
  constexpr int kTaps = K * K;
  const uint32_t item = blockIdx.x * kThreads + threadIdx.x;
  if (item >= p.items) return;
  const uint32_t q = p.columns.quotient(item), plane = p.strips.quotient(q);
  const int column = int(item - q * p.columns.divisor), strip = int(q - plane * p.strips.divisor);
  const int channel = int(plane - p.channels.quotient(plane) * p.channels.divisor);

  const T* const line = weight + int64_t(channel) * kTaps + p.first_tap;
  float w[kTaps];
  FASTDL_UNROLL
  for (int t = 0; t < kTaps; ++t) w[t] = float(widen(line[t * p.tap_step]));
  const float first = bias != nullptr ? float(widen(bias[channel])) : 0.0f;

  float sums[kSide][kSide];
  FASTDL_UNROLL
  for (int a = 0; a < kSide; ++a) FASTDL_UNROLL
  for (int b = 0; b < kSide; ++b) sums[a][b] = first;
  for_rows<W, kPacked, K>(x, int64_t(plane), p.h, p.w, strip, column, [&](int i, const auto& values) {
    FASTDL_UNROLL
    for (int a = 0; a < kSide; ++a) FASTDL_UNROLL
    for (int kh = 0; kh < K; ++kh) {
      if (W::source(a, kh) != i) continue;
      FASTDL_UNROLL
      for (int b = 0; b < kSide; ++b) FASTDL_UNROLL
      for (int kw = 0; kw < K; ++kw)
        if (W::source(b, kw) >= 0) sums[a][b] += w[kh * K + kw] * values[W::source(b, kw)];
    }
  });
  const int down = p.h.results - strip * kSide, across = p.w.results - column * kSide;  // to the plane's ends
  T* const target = y + (int64_t(plane) * p.h.results + strip * kSide) * p.w.results + column * kSide;
  if (p.packed_y) {
    FASTDL_UNROLL
    for (int a = 0; a < kSide; ++a) {
      Pack<T, kSide> pack;
      FASTDL_UNROLL
      for (int b = 0; b < kSide; ++b) pack.v[b] = narrow<T>(sums[a][b]);
      if (a < down) *reinterpret_cast<Pack<T, kSide>*>(target + a * p.w.results) = pack;
    }
  } else {
    FASTDL_UNROLL
    for (int a = 0; a < kSide; ++a) FASTDL_UNROLL
    for (int b = 0; b < kSide; ++b)
      if (a < down && b < across) target[a * p.w.results + b] = narrow<T>(sums[a][b]);
  }
}

}  // namespace

bool depthwise_planes_fit(const ConvProblem& p, bool transposed) {
  const Extent& written = transposed ? p.in : p.out;
  return p.group_in() == 1 && p.group_out() == 1 &&
         (!transposed || p.stride[1] == 1 || p.pad[1] % 2 == p.pad[2] % 2) &&
         p.batch * p.in_channels * ceil_div(written[1], kSide) * ceil_div(written[2], kSide) < int64_t(1)
                                                                                                   << 31;
}

void depthwise_planes(Dtype dtype, void* y, const void* x, const void* weight, const void* bias,
                      const ConvProblem& problem, bool transposed, Stream stream) {
  Tiles p;
  p.h = plane_axis(problem, 1, kSide, transposed, true);
  p.w = plane_axis(problem, 2, kSide, transposed, true);
  const bool turned = transposed && problem.stride[1] == 1;
  p.first_tap = turned ? int(problem.taps()) - 1 : 0, p.tap_step = turned ? -1 : 1;
  p.items = uint32_t(problem.batch * problem.in_channels * p.h.strips * p.w.strips);
  p.columns = Divisor(uint32_t(p.w.strips)), p.strips = Divisor(uint32_t(p.h.strips));
  p.channels = Divisor(uint32_t(problem.in_channels));
  by_kernel(dtype, problem, [&]<class T, int K, int kStride>(T, Constant<K>, Constant<kStride>) {
    const size_t pack = kSide * sizeof(T);
    p.packed_y = p.w.results % kSide == 0 && aligned(y, pack);
    const bool packed = p.w.origin == -(K - 1) / 2 && p.w.sources % kSide == 0 && aligned(x, pack);
    const auto run = [&](auto* kernel) {
      launch("conv_planes", kernel, dim3(unsigned(ceil_div(int64_t(p.items), kThreads))), dim3(kThreads), 0,
             stream, static_cast<T*>(y), static_cast<const T*>(x), static_cast<const T*>(weight),
             static_cast<const T*>(bias), p);
    };
    if constexpr (kStride == 2) {
      if (transposed)
        return problem.pad[1] % 2 == 0 ? run(depthwise_tile<T, K, 1, 2, 0, false>)
                                       : run(depthwise_tile<T, K, 1, 2, 1, false>);
    }
    packed ? run(depthwise_tile<T, K, kStride, 1, 0, true>) : run(depthwise_tile<T, K, kStride, 1, 0, false>);
  });
}

}  // namespace fastdl::cuda
