// Dropout and randomised leaky ReLU. Random words are a function of their number (Philox), so a thread
// computes those of its own elements, four with one call; the mask is never stored, backward draws it again.
// x is read and y written once.
#include "cuda/dropout.h"

#include "cuda/numeric.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;
template <class T>
constexpr int kRun = sizeof(T) == 2 ? 8 : 4;  // elements of a thread: whole calls of Philox, 8 to 32 bytes

template <class T>
struct Factors {
  using C = Compute<T>;
  uint32_t threshold;  // dropped below it
  C scale, kept_bias, dropped_bias;

  __device__ __forceinline__ C operator()(C x, uint32_t word) const {
    return (word >> 1) >= threshold ? x * scale + kept_bias : x * 0 + dropped_bias;
  }
};

// kSingle: a decision for every element, else one for each run of `length`.
template <class T, bool kSingle>
__global__ void __launch_bounds__(kThreads)
    dropout_kernel(T* y, const T* x, int64_t size, int64_t length, Key key, Factors<T> factors, bool packed) {
  const Philox philox = key.philox();
  constexpr int N = kRun<T>;
  const int64_t step = int64_t(gridDim.x) * kThreads * N;
  for (int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * N; first < size; first += step) {
    auto v = load_run<N>(x, first, size, packed);
    if constexpr (kSingle) {
      FASTDL_UNROLL
      for (int call = 0; call < N / 4; ++call) {
        uint32_t words[4];
        philox(uint64_t(first) / 4 + call, words);
        FASTDL_UNROLL
        for (int k = 0; k < 4; ++k) v.v[4 * call + k] = factors(v.v[4 * call + k], words[k]);
      }
    } else {
      int64_t run = first / length, left = length - first % length;  // of the run from this element on
      uint32_t word = 0;
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) {
        if (k == 0 || left == 0) {
          if (left == 0) ++run, left = length;
          uint32_t words[4];
          philox(uint64_t(run) / 4, words);
          const int which = int(run % 4);
          word = which < 2 ? (which == 0 ? words[0] : words[1]) : (which == 2 ? words[2] : words[3]);
        }
        v.v[k] = factors(v.v[k], word);
        --left;
      }
    }
    store_run<N>(y, first, size, packed, v);
  }
}

// A thread has two elements: one call of Philox, 53 bits for each.
template <class T>
__global__ void __launch_bounds__(kThreads)
    rrelu_kernel(T* out, const T* grad_y, const T* x, int64_t size, double lower, double range, Key key) {
  const Philox philox = key.philox();
  using C = Compute<T>;
  const int64_t step = int64_t(gridDim.x) * kThreads * 2;
  for (int64_t first = (int64_t(blockIdx.x) * kThreads + threadIdx.x) * 2; first < size; first += step) {
    uint32_t words[4];
    philox(uint64_t(first) / 2, words);
    FASTDL_UNROLL
    for (int k = 0; k < 2; ++k) {
      if (first + k >= size) break;
      const uint64_t bits = words[2 * k] | uint64_t(words[2 * k + 1]) << 32;
      const C slope = C(widen(narrow<T>(C(lower + range * (double(bits >> 11) * 0x1p-53)))));
      const C v = C(widen(x[first + k])), g = grad_y != nullptr ? C(widen(grad_y[first + k])) : v;
      out[first + k] = narrow<T>(v > 0 ? g : g * slope);
    }
  }
}

}  // namespace

void dropout(Dtype dtype, void* y, const void* x, const Dropout& d, Stream stream) {
  if (d.size == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    constexpr int N = kRun<T>;
    // As the definition rounds it; p = 1 drops every word.
    const uint32_t threshold = d.p < 1 ? uint32_t(d.p * 0x1p31 + 0.5) : 0x80000000u;
    const Factors<T> factors{threshold, C(d.scale), C(d.kept_bias), C(d.dropped_bias)};
    const bool packed = aligned(y, sizeof(T) * N) && aligned(x, sizeof(T) * N);
    launch("dropout", d.length == 1 ? dropout_kernel<T, true> : dropout_kernel<T, false>,
           dim3(grid_for(d.size, kThreads * N)), dim3(kThreads), 0, stream, static_cast<T*>(y),
           static_cast<const T*>(x), d.size, d.length, d.key, factors, packed);
  });
}

void rrelu(Dtype dtype, void* out, const void* grad_y, const void* x, int64_t size, double lower,
           double upper, Key key, Stream stream) {
  if (size == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    launch("rrelu", rrelu_kernel<T>, dim3(grid_for(size, kThreads * 2)), dim3(kThreads), 0, stream,
           static_cast<T*>(out), static_cast<const T*>(grad_y), static_cast<const T*>(x), size, lower,
           upper - lower, key);
  });
}

}  // namespace fastdl::cuda
