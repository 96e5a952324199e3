// Random arrays. A thread makes the numbers of one call of Philox: four from a word each in float, two from
// 64 bits each in double. 16-bit types are float's numbers, rounded. Normal numbers are pairs by Box and
// Muller. Only y is written, by one access for a call's numbers.
#include "cuda/random.h"

#include "cuda/numeric.h"

namespace fastdl::cuda {
namespace {

constexpr int kThreads = 256;
template <class C>
constexpr int kPerCall = sizeof(C) == 8 ? 2 : 4;

// Uniform numbers in [0, 1) of a call.
__device__ __forceinline__ void unit(float (&u)[4], const uint32_t (&words)[4]) {
  FASTDL_UNROLL
  for (int k = 0; k < 4; ++k) u[k] = float(words[k] >> 8) * 0x1p-24f;
}
__device__ __forceinline__ void unit(double (&u)[2], const uint32_t (&words)[4]) {
  FASTDL_UNROLL
  for (int k = 0; k < 2; ++k)
    u[k] = double((words[2 * k] | uint64_t(words[2 * k + 1]) << 32) >> 11) * 0x1p-53;
}

template <class T>
struct Uniform {
  using C = Compute<T>;
  C low, high;

  __device__ __forceinline__ void operator()(C (&out)[kPerCall<C>], const uint32_t (&words)[4]) const {
    unit(out, words);
    FASTDL_UNROLL
    for (int k = 0; k < kPerCall<C>; ++k) {
      const T y = narrow<T>(rounded_product(out[k], high - low) + low);  // the same bits on every backend
      out[k] = C(widen(y)) < high ? C(widen(y)) : low;
    }
  }
};

struct Normal32 {
  float mean, deviation;
  __device__ __forceinline__ void operator()(float (&out)[4], const uint32_t (&words)[4]) const {
    FASTDL_UNROLL
    for (int k = 0; k < 4; k += 2) {
      const float u1 = float(words[k] >> 1) * 0x1p-31f + 0x1p-32f, u2 = float(words[k + 1] >> 8) * 0x1p-24f;
      const float radius = std::sqrt(-2 * std::log(u1)), angle = 6.2831853071795865f * u2;
      out[k] = mean + deviation * (radius * std::cos(angle));
      out[k + 1] = mean + deviation * (radius * std::sin(angle));
    }
  }
};
struct Normal64 {
  double mean, deviation;
  __device__ __forceinline__ void operator()(double (&out)[2], const uint32_t (&words)[4]) const {
    unit(out, words);
    const double radius = std::sqrt(-2 * std::log(1 - out[0])), angle = 6.2831853071795865 * out[1];
    out[0] = mean + deviation * (radius * std::cos(angle));
    out[1] = mean + deviation * (radius * std::sin(angle));
  }
};

template <class T, class F>
__global__ void __launch_bounds__(kThreads) fill(T* y, int64_t size, bool packed, Key key, F f) {
  const Philox philox = key.philox();
  using C = Compute<T>;
  constexpr int N = kPerCall<C>;
  const int64_t calls = (size + N - 1) / N;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < calls;
       i += int64_t(gridDim.x) * kThreads) {
    uint32_t words[4];
    Values<C, N> out;
    philox(uint64_t(i), words);
    f(out.v, words);
    store_run<N>(y, i * N, size, packed, out);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) bernoulli(T* y, const T* p, int64_t size, bool packed, Key key) {
  const Philox philox = key.philox();
  using C = Compute<T>;
  constexpr int N = kPerCall<C>;
  const int64_t calls = (size + N - 1) / N;
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < calls;
       i += int64_t(gridDim.x) * kThreads) {
    uint32_t words[4];
    C u[N];
    auto out = load_run<N>(p, i * N, size, packed);
    philox(uint64_t(i), words);
    unit(u, words);
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) out.v[k] = C(u[k] < out.v[k]);
    store_run<N>(y, i * N, size, packed, out);
  }
}

__global__ void __launch_bounds__(kThreads) words_kernel(uint32_t* y, int64_t size, bool packed, Key key) {
  const Philox philox = key.philox();
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i * 4 < size;
       i += int64_t(gridDim.x) * kThreads) {
    Values<uint32_t, 4> words;
    philox(uint64_t(i), words.v);
    store_run<4>(y, i * 4, size, packed, words);
  }
}

// The upper 64 bits of a product.
__device__ __forceinline__ uint64_t upper_half(uint64_t a, uint64_t b) {
  const uint64_t a0 = uint32_t(a), a1 = a >> 32, b0 = uint32_t(b), b1 = b >> 32;
  const uint64_t middle = a1 * b0 + (a0 * b0 >> 32);  // at most 2^64 - 2^33 + 1 + 2^32 - 2
  return a1 * b1 + (middle >> 32) + ((a0 * b1 + uint32_t(middle)) >> 32);
}

__global__ void __launch_bounds__(kThreads)
    integers_kernel(int64_t* y, int64_t size, int64_t low, uint64_t range, bool packed, Key key) {
  const Philox philox = key.philox();
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i * 2 < size;
       i += int64_t(gridDim.x) * kThreads) {
    uint32_t words[4];
    Values<int64_t, 2> out;
    philox(uint64_t(i), words);
    FASTDL_UNROLL
    for (int k = 0; k < 2; ++k) {
      const uint64_t bits = words[2 * k] | uint64_t(words[2 * k + 1]) << 32;
      out.v[k] = int64_t(uint64_t(low) + upper_half(bits, range));
    }
    store_run<2>(y, i * 2, size, packed, out);
  }
}

__global__ void state_kernel(uint64_t* state, uint64_t seed, uint64_t offset) {
  if (threadIdx.x == 0) state[0] = seed, state[1] = offset;
}

template <class T, class F>
void launch_fill(const char* op, void* y, int64_t size, const F& f, Key key, Stream stream) {
  if (size == 0) return;
  constexpr int N = kPerCall<Compute<T>>;
  launch(op, fill<T, F>, dim3(grid_for(size, kThreads * N)), dim3(kThreads), 0, stream, static_cast<T*>(y),
         size, aligned(y, N * sizeof(T)), key, f);
}

}  // namespace

void set_random_state(uint64_t* state, uint64_t seed, uint64_t offset, Stream stream) {
  launch("set_random_state", state_kernel, dim3(1), dim3(32), 0, stream, state, seed, offset);
}

void random_uniform(Dtype dtype, void* y, int64_t size, double low, double high, Key key, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    launch_fill<T>("random_uniform", y, size, Uniform<T>{C(low), C(high)}, key, stream);
  });
}

void random_normal(Dtype dtype, void* y, int64_t size, double mean, double std, Key key, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    if constexpr (sizeof(T) == 8)
      launch_fill<T>("random_normal", y, size, Normal64{mean, std}, key, stream);
    else
      launch_fill<T>("random_normal", y, size, Normal32{float(mean), float(std)}, key, stream);
  });
}

void random_bernoulli(Dtype dtype, void* y, const void* p, int64_t size, Key key, Stream stream) {
  if (size == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    constexpr int N = kPerCall<Compute<T>>;
    launch("random_bernoulli", bernoulli<T>, dim3(grid_for(size, kThreads * N)), dim3(kThreads), 0, stream,
           static_cast<T*>(y), static_cast<const T*>(p), size,
           aligned(y, N * sizeof(T)) && aligned(p, N * sizeof(T)), key);
  });
}

void philox_words(uint32_t* words, int64_t size, Key key, Stream stream) {
  if (size == 0) return;
  launch("philox_words", words_kernel, dim3(grid_for(size, kThreads * 4)), dim3(kThreads), 0, stream, words,
         size, aligned(words, 16), key);
}

void random_integers(int64_t* y, int64_t size, int64_t low, uint64_t range, Key key, Stream stream) {
  if (size == 0) return;
  launch("random_integers", integers_kernel, dim3(grid_for(size, kThreads * 2)), dim3(kThreads), 0, stream, y,
         size, low, range, aligned(y, 16), key);
}

}  // namespace fastdl::cuda
