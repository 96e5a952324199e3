// The gradient of the weights of depthwise convolution on planes.
//
//   grad_w[c, tap] = sum over images n, positions o of  grad_y[n, c, o] * x[n, c, source(o, tap)]
//
// A block has a channel, or a part of its tiles of 4 x 4 positions of y (conv_depthwise_planes.h). A thread
// takes tile after tile: 16 gradients, then the rows of x that they see once, and adds to a sum for each tap,
// which it keeps. Sums are added over a warp's lanes, the block's warps and the parts in a fixed order; where
// tiles are few the block has them all and writes the result itself.
#include "cuda/conv_depthwise_planes.h"
#include "cuda/conv_parts.h"

namespace fastdl::cuda {
namespace {

// 49 sums, 16 gradients and 10 sources want more registers than 256 threads leave two blocks.
constexpr int threads_for(int64_t kernel) {
  return kernel == 7 ? 128 : 256;
}
constexpr int64_t kFew = 4;        // tiles of a thread that are not worth a launch to add parts
constexpr int64_t kBlocks = 4096;  // wanted where there are more

struct Tiles {
  PlaneAxis h, w;
  int channels;
  uint32_t items;  // of a channel
  Divisor columns, strips;
};

template <class T, int K, int kDown, bool kPacked>
__global__ void __launch_bounds__(threads_for(K))
    depthwise_tile_weight(T* grad_weight, float* parts, const T* grad_y, const T* x, Tiles p) {
  using W = Window<K, kDown, 1>;
  constexpr int kTaps = K * K;
  FASTDL_SHARED(float, slots, kTaps* threads_for(K) / 32);
  const int channel = int(blockIdx.x);
  float sums[kTaps] = {};
  for (uint32_t item = blockIdx.y * blockDim.x + threadIdx.x; item < p.items;
       item += gridDim.y * blockDim.x) {
    const uint32_t q = p.columns.quotient(item), image = p.strips.quotient(q);
    const int column = int(item - q * p.columns.divisor), strip = int(q - image * p.strips.divisor);
    const int64_t plane = int64_t(image) * p.channels + channel;
    const T* const from = grad_y + (plane * p.h.results + strip * kSide) * p.w.results + column * kSide;
    float g[kSide][kSide];
    FASTDL_UNROLL
    for (int a = 0; a < kSide; ++a)
      load_row<kPacked, 0>(g[a], from + a * p.w.results, strip * kSide + a < p.h.results, column * kSide,
                           p.w.results);
    for_rows<W, kPacked, K>(x, plane, p.h, p.w, strip, column, [&](int i, const auto& values) {
      FASTDL_UNROLL
      for (int a = 0; a < kSide; ++a) FASTDL_UNROLL
      for (int kh = 0; kh < K; ++kh) {
        if (W::source(a, kh) != i) continue;
        FASTDL_UNROLL
        for (int b = 0; b < kSide; ++b) FASTDL_UNROLL
        for (int kw = 0; kw < K; ++kw) sums[kh * K + kw] += g[a][b] * values[W::source(b, kw)];
      }
    });
  }
  FASTDL_UNROLL
  for (int t = 0; t < kTaps; ++t) {
    for (int mask = 16; mask > 0; mask /= 2) sums[t] += shuffle_xor(sums[t], mask);
    if (threadIdx.x % 32 == 0) slots[int(threadIdx.x) / 32 * kTaps + t] = sums[t];
  }
  sync_threads();
  for (int t = int(threadIdx.x); t < kTaps; t += int(blockDim.x)) {
    float total = 0;
    for (int i = 0; i < int(blockDim.x) / 32; ++i) total += slots[i * kTaps + t];
    const int64_t at = int64_t(channel) * kTaps + t;
    if (gridDim.y == 1)
      grad_weight[at] = narrow<T>(total);
    else
      parts[int64_t(blockIdx.y) * p.channels * kTaps + at] = total;
  }
}

int64_t tiles_of(const ConvProblem& p) {  // of a channel
  return p.batch * ceil_div(p.out[1], kSide) * ceil_div(p.out[2], kSide);
}

}  // namespace

int64_t depthwise_planes_splits(const ConvProblem& p) {
  const int64_t tiles = tiles_of(p), threads = threads_for(p.kernel[1]);
  if (tiles <= kFew * threads) return 1;
  return std::clamp<int64_t>(kBlocks / p.in_channels, 1, ceil_div(tiles, 2 * threads));
}

void depthwise_planes_grad_weight(Dtype dtype, void* grad_weight, const void* grad_y, const void* x,
                                  void* scratch, const ConvProblem& problem, Stream stream) {
  Tiles p;
  p.h = plane_axis(problem, 1, kSide, false);
  p.w = plane_axis(problem, 2, kSide, false);
  p.channels = int(problem.in_channels);
  p.items = uint32_t(tiles_of(problem));
  p.columns = Divisor(uint32_t(p.w.strips)), p.strips = Divisor(uint32_t(p.h.strips));
  const int64_t splits = depthwise_planes_splits(problem);
  const auto threads =
      unsigned(std::min<int64_t>(threads_for(problem.kernel[1]), ceil_div(int64_t(p.items), 32) * 32));
  by_kernel(dtype, problem, [&]<class T, int K, int kStride>(T, Constant<K>, Constant<kStride>) {
    const size_t pack = kSide * sizeof(T);
    const bool packed = p.w.origin == -(K - 1) / 2 && p.w.sources % kSide == 0 && p.w.results % kSide == 0 &&
                        aligned(x, pack) && aligned(grad_y, pack);
    const auto run = [&](auto* kernel) {
      launch("conv_planes_grad_weight", kernel, dim3(unsigned(p.channels), unsigned(splits)), dim3(threads),
             0, stream, static_cast<T*>(grad_weight), static_cast<float*>(scratch),
             static_cast<const T*>(grad_y), static_cast<const T*>(x), p);
    };
    packed ? run(depthwise_tile_weight<T, K, kStride, true>)
           : run(depthwise_tile_weight<T, K, kStride, false>);
  });
  if (splits > 1)
    conv_planes_add_parts(dtype, grad_weight, scratch, p.channels * problem.taps(), splits, stream);
}

}  // namespace fastdl::cuda
