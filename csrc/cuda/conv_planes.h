// Convolutions of few channels to few channels on planes (images of a channel) as they are: what the kernels
// of conv_planes*.cu and conv_depthwise_planes*.cu share.
//
// A thread has a tile of neighbouring results, or looks at that many positions of y. Along an axis, results
// see sources in one of two ways. Forward, and backward for stride 1 with the kernel turned around, result r
// sees by tap k source r * kDown + k of those that its tile sees. Backward for stride kUp = 2 it sees
// source (r + kShift - k) / 2 if that is whole, counted from the first; a tile then begins where r + padding
// is even (kShift 0), or at a multiple of its size, and kShift is the padding's last bit. All of it is known
// when a kernel is compiled, so each source is loaded once and used wherever it is seen.
//
// Planes lie side by side in memory, whole ones as well as bands of their rows, and so pass to shared memory
// as runs in accesses of 16 bytes, whatever their extents: a run begins at the same position modulo 16 bytes
// there as here, and only its ends go by elements.
#pragma once

#include <algorithm>

#include "cuda/conv.h"
#include "cuda/numeric.h"

namespace fastdl::cuda {

constexpr int kHigh = 4, kWide = 2;
constexpr int kPlaneThreads = 256;

// One axis of a kernel of K taps.
template <int K, int kDown, int kUp, int kShift = 0>
struct Window {
  static_assert(K % 2 == 1 && (kDown == 1 || kUp == 1) && kUp <= 2 && kShift < kUp);
  static constexpr int kBefore =
      (K - 1) / 2 - kShift;  // sources before the one at (r + padding) / 2, kUp = 2
  static constexpr int sources(int results) {
    return kUp == 1 ? (results - 1) * kDown + K : kBefore + (results - 1 + kShift) / 2 + 1;
  }
  // Which of the sources a result sees by a tap, or -1.
  static constexpr int source(int result, int tap) {
    const int up = result + kShift - tap;
    return kUp == 1 ? result * kDown + tap : up % 2 != 0 ? -1 : kBefore + up / 2;
  }
};

// Strip i has the results from first + i * size on and sees the sources from origin + i * step on. aligned: first is 0,
// also where every second tap meets a result.
struct PlaneAxis {
  int sources, results, step, origin, first, strips;
};
inline PlaneAxis plane_axis(const ConvProblem& p, size_t axis, int size, bool transposed,
                            bool aligned = false) {
  const int in = int(p.in[axis]), out = int(p.out[axis]), kernel = int(p.kernel[axis]),
            stride = int(p.stride[axis]), pad = int(p.pad[axis]);
  PlaneAxis a{in, out, size * stride, -pad, 0, 0};
  if (transposed && stride == 1) {
    a = {out, in, size, pad - (kernel - 1), 0, 0};
  } else if (transposed) {
    const int odd = pad % 2;
    a = {out, in, size / 2, pad / 2 - (kernel - 1) / 2 + (aligned ? odd : 0), aligned ? 0 : -odd, 0};
  }
  a.strips = (a.results - a.first + size - 1) / size;
  return a;
}

// A run's position within 16 bytes, in elements.
template <class T>
__device__ __forceinline__ int lead_of(const T* run) {
  return int(reinterpret_cast<uintptr_t>(run) / sizeof(T)) & (kWidest<T> - 1);
}
// Elements in shared memory between runs of `length`, with room for the lead.
template <class T>
constexpr int pitch_of(int64_t length) {
  return int((length + 2 * kWidest<T> - 2) / kWidest<T> * kWidest<T>);
}

// f(run, thread, threads) for all runs: a warp for each where there are some, else the whole block.
template <class F>
__device__ __forceinline__ void for_runs(int runs, F&& f) {
  const bool warps = runs >= 4;
  const int threads = warps ? 32 : int(blockDim.x), thread = warps ? int(threadIdx.x) % 32 : int(threadIdx.x);
  const int first = warps ? int(threadIdx.x) / 32 : 0, step = warps ? int(blockDim.x) / 32 : 1;
  for (int r = first; r < runs; r += step) f(r, thread, threads);
}
// A run to shared memory.
template <class T>
__device__ __forceinline__ void copy_in(T* to, const T* run, int length, int thread, int threads) {
  constexpr int kE = kWidest<T>;
  const int lead = lead_of(run);
  for (int i = thread * kE - lead; i < length; i += threads * kE) {
    T* const at = to + lead + i;
    if (i >= 0 && i + kE <= length) {
      cp_async_16(at, run + i);
    } else {
      FASTDL_UNROLL
      for (int e = 0; e < kE; ++e)
        if (uint32_t(i + e) < uint32_t(length)) at[e] = run[i + e];
    }
  }
}
// And back.
template <class T>
__device__ __forceinline__ void copy_out(T* run, const T* from, int length, int thread, int threads) {
  constexpr int kE = kWidest<T>;
  const int lead = lead_of(run);
  for (int i = thread * kE - lead; i < length; i += threads * kE) {
    const T* const at = from + lead + i;
    if (i >= 0 && i + kE <= length) {
      *reinterpret_cast<Pack<T, kE>*>(run + i) = *reinterpret_cast<const Pack<T, kE>*>(at);
    } else {
      FASTDL_UNROLL
      for (int e = 0; e < kE; ++e)
        if (uint32_t(i + e) < uint32_t(length)) run[i + e] = at[e];
    }
  }
}

// Of a row of a plane what kColumns positions from `at` on have, `source` being the first: 0 outside.
template <int kColumns, class T>
__device__ __forceinline__ void load_sources(float (&values)[kColumns], const T* source, bool inside, int at,
                                             int sources) {
  FASTDL_UNROLL
  for (int j = 0; j < kColumns; ++j)
    values[j] = inside && uint32_t(at + j) < uint32_t(sources) ? float(widen(source[j])) : 0.0f;
}

// grad_weight from `splits` parts of as many sums each.
void conv_planes_add_parts(Dtype dtype, void* grad_weight, const void* parts, int64_t weights, int64_t splits,
                           Stream stream);

// Calls f(T{}, K, stride) with the problem's, for types and kernels that the planes' kernels exist for.
template <int N>
using Constant = std::integral_constant<int, N>;
template <class F>
void by_kernel(Dtype dtype, const ConvProblem& p, F&& f) {
  by_dtype(dtype, [&]<class T>(T) {
    if constexpr (sizeof(T) < 8) {
      const auto strided = [&]<int K>(Constant<K>) {
        p.stride[1] == 1 ? f(T{}, Constant<K>{}, Constant<1>{}) : f(T{}, Constant<K>{}, Constant<2>{});
      };
      if (p.kernel[1] == 3) return strided(Constant<3>{});
      if (p.kernel[1] == 5) return strided(Constant<5>{});
      return f(T{}, Constant<7>{}, Constant<1>{});
    } else {
      throw std::invalid_argument("convolution on planes: not for float64");
    }
  });
}

}  // namespace fastdl::cuda
