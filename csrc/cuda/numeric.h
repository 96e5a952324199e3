// Element types on the device: what they are computed in, conversions, and packs of elements moved by one
// access.
#pragma once

#include <cmath>
#include <limits>

#include "cuda/portable.h"
#include "cuda/types.h"

namespace fastdl::cuda {

template <class T>
struct ComputeType {
  using type = T;
};
template <>
struct ComputeType<__half> {
  using type = float;
};
template <>
struct ComputeType<__nv_bfloat16> {
  using type = float;
};
template <class T>
using Compute = typename ComputeType<T>::type;

template <class T>
__device__ __forceinline__ Compute<T> widen(T x) {
  return x;
}
__device__ __forceinline__ float widen(__half x) {
  return __half2float(x);
}
__device__ __forceinline__ float widen(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

template <class T>
__device__ __forceinline__ T narrow(Compute<T> x) {
  if constexpr (std::is_same_v<T, __half>)
    return __float2half_rn(x);
  else if constexpr (std::is_same_v<T, __nv_bfloat16>)
    return __float2bfloat16_rn(x);
  else
    return x;
}

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};
// Elements in the widest access of a thread, 16 bytes.
template <class T>
constexpr int kWidest = int(16 / sizeof(T));

// A pack on its way from memory, in words whatever T is. Elements of 16 bits would be taken apart where the
// branches of a load meet (a whole pack, the end of an array), which waits for the load: of several packs
// each would then wait for the one before.
template <class T, int N>
class Loaded {
  static constexpr int kBytes = int(sizeof(T)) * N;
  using Piece =
      std::conditional_t<kBytes % 4 == 0, uint32_t, std::conditional_t<kBytes % 2 == 0, uint16_t, uint8_t>>;
  static constexpr int kPieces = kBytes / int(sizeof(Piece));
  using Pieces = Pack<Piece, kPieces>;

 public:
  Loaded() = default;
  __device__ __forceinline__ explicit Loaded(const Pack<T, N>& pack) {
    const Pieces pieces = *reinterpret_cast<const Pieces*>(&pack);
    FASTDL_UNROLL
    for (int i = 0; i < kPieces; ++i) words_[i] = pieces.v[i];
  }
  __device__ __forceinline__ T operator[](int k) const {
    Pieces pieces;
    FASTDL_UNROLL
    for (int i = 0; i < kPieces; ++i) pieces.v[i] = Piece(words_[i]);
    Pack<T, N> pack;
    memcpy(&pack, &pieces, sizeof(pack));
    return pack.v[k];
  }

 private:
  uint32_t words_[kPieces]{};
};

// Values of N elements, in the type they are computed in.
template <class C, int N>
struct Values {
  C v[N];
};

inline bool aligned(const void* p, size_t bytes) {
  return reinterpret_cast<uintptr_t>(p) % bytes == 0;
}

// N elements of an array from `first` on: by one access where `packed` says that packs are aligned, else one
// by one; beyond its end 0, and nothing is written.
template <int N, class T>
__device__ __forceinline__ Values<Compute<T>, N> load_run(const T* from, int64_t first, int64_t size,
                                                          bool packed) {
  Values<Compute<T>, N> v;
  if (packed && first + N <= size) {
    const auto pack = *reinterpret_cast<const Pack<T, N>*>(from + first);
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) v.v[k] = widen(pack.v[k]);
  } else {
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k)
      v.v[k] = first + k < size ? Compute<T>(widen(from[first + k])) : Compute<T>(0);
  }
  return v;
}
template <int N, class T>
__device__ __forceinline__ void store_run(T* to, int64_t first, int64_t size, bool packed,
                                          const Values<Compute<T>, N>& v) {
  if (packed && first + N <= size) {
    Pack<T, N> pack;
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) pack.v[k] = narrow<T>(v.v[k]);
    *reinterpret_cast<Pack<T, N>*>(to + first) = pack;
  } else {
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k)
      if (first + k < size) to[first + k] = narrow<T>(v.v[k]);
  }
}

template <class C>
__device__ __forceinline__ C infinity() {
  if constexpr (std::is_same_v<C, double>)
    return __builtin_huge_val();
  else
    return __builtin_huge_valf();
}

template <class C>
__device__ __forceinline__ C larger(C a, C b) {  // NaN wins
  return a >= b || a != a ? a : b;
}
template <class C>
__device__ __forceinline__ C smaller(C a, C b) {
  return a <= b || a != a ? a : b;
}

__device__ __forceinline__ float larger(float a, float b) {
  return larger_or_nan(a, b);
}
__device__ __forceinline__ float smaller(float a, float b) {
  return smaller_or_nan(a, b);
}

// e^x of numbers that are rounded to T afterwards.
template <class T>
__device__ __forceinline__ Compute<T> exponential(Compute<T> x) {
  if constexpr (sizeof(T) == 2)
    return exp2_approximate(x * 1.442695041f);
  else
    return std::exp(x);
}

template <class C>
__device__ __forceinline__ C sigmoid(C x) {  // 1 / (1 + exp(-x)); nothing overflows
  const C e = std::exp(-std::fabs(x));
  return (x >= 0 ? C(1) : e) / (1 + e);
}
template <class C>
__device__ __forceinline__ C softplus(C x) {  // log(1 + exp(x)); nothing overflows
  return larger(x, C(0)) + std::log1p(std::exp(-std::fabs(x)));
}

// a / b, rounded as a division is, where 1 / b is no denormal number: without the branch that a division has for
// others (the quotient by an approximate reciprocal, and what it leaves; infinities leave NaN).
__device__ __forceinline__ float quotient(float a, float b) {
  const float reciprocal = reciprocal_approximate(b), q = a * reciprocal;
  const float better = std::fma(std::fma(-q, b, a), reciprocal, q);
  return better == better ? better : q;
}
__device__ __forceinline__ double quotient(double a, double b) {
  return a / b;
}

// Division by a number that the host knows, for dividends below 2^31: a multiplication and a shift (Granlund
// and Montgomery, "Division by invariant integers using multiplication", 1994).
struct Divisor {
  uint32_t divisor = 1, magic = 1, shift = 0;

  Divisor() = default;
  explicit Divisor(uint32_t d) : divisor(d) {
    while ((uint64_t(1) << shift) < d) ++shift;
    magic = uint32_t(((uint64_t(1) << 32) * ((uint64_t(1) << shift) - d)) / d + 1);
  }
  __device__ __forceinline__ uint32_t quotient(uint32_t n) const {
    return (multiply_high(n, magic) + n) >> shift;
  }
};

// Calls f(T{}) with the element type; f's instantiations are the kernels that exist. Builds with sanitizers,
// which compile slowly, have two of the types.
template <class F>
void by_dtype(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::float32:
      return f(float{});
    case Dtype::float16:
      return f(__half{});
#ifndef FASTDL_FEW_DTYPES
    case Dtype::bfloat16:
      return f(__nv_bfloat16{});
    case Dtype::float64:
      return f(double{});
#endif
    default:
      throw std::invalid_argument("no kernels for element type " + std::to_string(int(dtype)));
  }
}

constexpr int64_t ceil_div(int64_t n, int64_t by) {
  return (n + by - 1) / by;
}

// Blocks for a loop over the grid: enough to fill the device a few times, no more than there is work.
inline unsigned grid_for(int64_t items, int64_t per_block, int blocks_per_multiprocessor = 8) {
  const int64_t most = int64_t(multiprocessors()) * blocks_per_multiprocessor;
  const int64_t wanted = ceil_div(items, per_block);
  return unsigned(wanted < 1 ? 1 : wanted < most ? wanted : most);
}

}  // namespace fastdl::cuda
