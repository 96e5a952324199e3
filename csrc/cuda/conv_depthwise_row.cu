// Depthwise convolution along one axis (audio, WaveNet, Conformer: up to some hundred taps), stride 1, no
// dilation, one output channel for an input's; the gradient of x is the same with the taps turned around.
//
// A block has 512 results of a channel: what they see goes to shared memory once, widened, and so do the
// channel's taps. A thread has four neighbouring results and moves over eight values that it holds, four
// further for every four taps: for each tap and result an FMA and half of an access of 4 bytes, where
// conv_depthwise.cu takes five instructions and an access to the first-level cache.
#include "cuda/conv.h"
#include "cuda/numeric.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 128, kOwn = 4, kTile = kThreads * kOwn, kMostTaps = 1024;

struct Rows {
  int channels, sources, results, taps, padded, pad;  // padded: taps in fours
  bool turned, packed;                                // packed: rows of results are whole packs of four
  uint32_t items;
  Divisor tiles;
};

template <class C>
__device__ __forceinline__ void load_four(C (&to)[kOwn], const C* from) {
  FASTDL_UNROLL
  for (int k = 0; k < kOwn; k += kWidest<C>) {
    const auto pack = *reinterpret_cast<const Pack<C, kWidest<C>>*>(from + k);
    FASTDL_UNROLL
    for (int e = 0; e < kWidest<C>; ++e) to[k + e] = pack.v[e];
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    depthwise_rows_kernel(T* y, const T* x, const T* weight, const T* bias, Rows p) {
  using C = Compute<T>;
  FASTDL_DYNAMIC_SHARED(C, values);
  C* const taps = values + kTile + p.padded;
  const int own = int(threadIdx.x) * kOwn;
  for (uint32_t item = blockIdx.x; item < p.items; item += gridDim.x) {
    const uint32_t plane = p.tiles.quotient(item), channel = plane % uint32_t(p.channels);
    const int first = int(item - plane * p.tiles.divisor) * kTile;
    const T* const from = x + int64_t(plane) * p.sources;
    sync_threads();  // the item before has been computed
    for (int i = int(threadIdx.x); i < kTile + p.padded; i += kThreads) {
      const int at = first - p.pad + i;
      values[i] = uint32_t(at) < uint32_t(p.sources) ? C(widen(from[at])) : C(0);
    }
    for (int k = int(threadIdx.x); k < p.padded; k += kThreads) {
      const int tap = p.turned ? p.taps - 1 - k : k;
      taps[k] = k < p.taps ? C(widen(weight[int64_t(channel) * p.taps + tap])) : C(0);
    }
    sync_threads();
    if (first + own >= p.results) continue;
    const C start = bias != nullptr ? C(widen(bias[channel])) : C(0);
    Values<C, kOwn> sums{{start, start, start, start}};
    C now[kOwn], next[kOwn], tap[kOwn];
    load_four(now, values + own);
    for (int k = 0; k < p.padded; k += kOwn) {
      load_four(next, values + own + k + kOwn);
      load_four(tap, taps + k);
      FASTDL_UNROLL
      for (int t = 0; t < kOwn; ++t) FASTDL_UNROLL
      for (int r = 0; r < kOwn; ++r) sums.v[r] += (t + r < kOwn ? now[t + r] : next[t + r - kOwn]) * tap[t];
      FASTDL_UNROLL
      for (int e = 0; e < kOwn; ++e) now[e] = next[e];
    }
    store_run<kOwn>(y + int64_t(plane) * p.results, first + own, p.results, p.packed, sums);
  }
}

}  // namespace

bool depthwise_rows_fit(const ConvProblem& p) {
  const bool one_axis = p.in[0] * p.in[1] == 1 && p.out[0] * p.out[1] == 1 &&
                        p.kernel[0] * p.kernel[1] == 1 && p.pad[0] == 0 && p.pad[1] == 0;
  return one_axis && p.stride[2] == 1 && p.dilation[2] == 1 && p.in_channels == p.out_channels &&
         p.kernel[2] <= kMostTaps && p.in[2] >= kThreads && p.out[2] >= kThreads;
}

void depthwise_rows(Dtype dtype, void* y, const void* x, const void* weight, const void* bias,
                    const ConvProblem& problem, bool transposed, Stream stream) {
  const int in = int(problem.in[2]), out = int(problem.out[2]), taps = int(problem.kernel[2]);
  const int results = transposed ? in : out, tiles = (results + kTile - 1) / kTile;
  const int64_t items = problem.batch * problem.in_channels * tiles;
  if (items >= int64_t(1) << 31)
    throw std::invalid_argument("depthwise convolution on CUDA is limited to 2^31 tiles in one call");
  by_dtype(dtype, [&]<class T>(T) {
    const int padded = (taps + kOwn - 1) / kOwn * kOwn;
    const Rows p{int(problem.in_channels),
                 transposed ? out : in,
                 results,
                 taps,
                 padded,
                 transposed ? taps - 1 - int(problem.pad[2]) : int(problem.pad[2]),
                 transposed,
                 results % kOwn == 0 && aligned(y, sizeof(T) * kOwn),
                 uint32_t(items),
                 Divisor(uint32_t(tiles))};
    launch("depthwise_rows", depthwise_rows_kernel<T>, dim3(grid_for(items, 1, 16)), dim3(kThreads),
           size_t(kTile + 2 * padded) * sizeof(Compute<T>), stream, static_cast<T*>(y),
           static_cast<const T*>(x), static_cast<const T*>(weight), static_cast<const T*>(bias), p);
  });
}

}  // namespace fastdl::cuda
