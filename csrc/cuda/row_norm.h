// What the kernels of layer, RMS and group norm share (row_norm.cu, row_norm_backward.cu): which parameters an
// element has, what a thread holds of a row, and who works on it.
#pragma once

#include "cuda/norm_statistics.h"

namespace fastdl::cuda {

// Values of a row that a lane has where rows of up to 32 times as many are a warp's; by steps of kUnit.
constexpr int kUnit = 8;
template <class T>
constexpr int kWideValues = sizeof(Compute<T>) == 8 ? 8 : 32;

template <class T>
struct Affine {  // of a row
  const T *weight, *bias;
  int64_t groups, channels;
  Divisor inner;
  bool plain;   // element i of every row has number i
  bool shared;  // a pack's elements have one number

  __device__ __forceinline__ int64_t first(int64_t row) const { return plain ? 0 : row % groups * channels; }
  // The parameters of pack j of a row whose first has the number `first`.
  template <class J>
  __device__ __forceinline__ Values<Compute<T>, kWidest<T>> load(const RowSlice<T>& slice, const T* from,
                                                                 int64_t first, J j) const {
    using C = Compute<T>;
    if (plain) return slice.load(from, j, C(0));
    Values<C, kWidest<T>> r;
    if (shared) {
      const auto element = uint32_t(slice.element(j, 0));
      const C one = slice.inside(j, 0) ? C(widen(from[first + int64_t(inner.quotient(element))])) : C(0);
      FASTDL_UNROLL
      for (int k = 0; k < kWidest<T>; ++k) r.v[k] = one;
      return r;
    }
    FASTDL_UNROLL
    for (int k = 0; k < kWidest<T>; ++k)
      r.v[k] = slice.inside(j, k)
                   ? C(widen(from[first + int64_t(inner.quotient(uint32_t(slice.element(j, k))))]))
                   : C(0);
    return r;
  }
  // x w + b of a pack
  template <class J>
  __device__ __forceinline__ void apply(const RowSlice<T>& slice, int64_t first, J j,
                                        Values<Compute<T>, kWidest<T>>& x) const {
    if (weight != nullptr) {
      const auto w = load(slice, weight, first, j);
      FASTDL_UNROLL
      for (int k = 0; k < kWidest<T>; ++k) x.v[k] *= w.v[k];
    }
    if (bias != nullptr) {
      const auto b = load(slice, bias, first, j);
      FASTDL_UNROLL
      for (int k = 0; k < kWidest<T>; ++k) x.v[k] += b.v[k];
    }
  }
};

// What a thread holds of a row: kPacks packs.
template <class T, bool kBlock, int kPacks, bool kPlain>
struct Held {
  static constexpr int N = kWidest<T>;
  using C = Compute<T>;
  // Groups of lanes have no more values than they need, so only the last kUnit of them can lie beyond the end.
  static constexpr int kCertain = kPlain && !kBlock ? kPacks - kUnit / N : 0;

  // More values than kRowValues: only a whole warp has them.
  static __device__ __forceinline__ int group(int given) { return kPacks * N > kRowValues<T> ? 32 : given; }
  static __device__ __forceinline__ bool inside(const RowSlice<T>& slice, int j, int k) {
    return j < kCertain || slice.inside(j, k);
  }
  // The parameters of pack j, or `absent` ones.
  static __device__ __forceinline__ Values<C, N> parameters(const RowSlice<T>& slice, const T* from, int j,
                                                            C absent) {
    Pack<T, N> none;
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) none.v[k] = narrow<T>(absent);
    Loaded<T, N> pack(none);
    if (from != nullptr && inside(slice, j, 0))
      pack = Loaded<T, N>(*reinterpret_cast<const Pack<T, N>*>(from + slice.element(j, 0)));
    Values<C, N> r;
    FASTDL_UNROLL
    for (int k = 0; k < N; ++k) r.v[k] = C(widen(pack[k]));
    return r;
  }
  static __device__ __forceinline__ void apply(const Affine<T>& affine, const RowSlice<T>& slice,
                                               int64_t number, int j, Values<C, N>& x) {
    if constexpr (kPlain) {
      const auto w = parameters(slice, affine.weight, j, C(1)), b = parameters(slice, affine.bias, j, C(0));
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) x.v[k] = x.v[k] * w.v[k] + b.v[k];
    } else {
      affine.apply(slice, number, j, x);
    }
  }
  // Backward has no bias.
  static __device__ __forceinline__ void weigh(const Affine<T>& affine, const RowSlice<T>& slice,
                                               int64_t number, int j, Values<C, N>& x) {
    if constexpr (kPlain) {
      const auto w = parameters(slice, affine.weight, j, C(1));
      FASTDL_UNROLL
      for (int k = 0; k < N; ++k) x.v[k] *= w.v[k];
    } else {
      affine.apply(slice, number, j, x);
    }
  }
  static __device__ __forceinline__ void store(const RowSlice<T>& slice, T* row, int j,
                                               const Values<C, N>& x) {
    if constexpr (!kPlain)
      slice.store(row, j, x);
    else if (inside(slice, j, 0))
      slice.store_pack(row, slice.element(j, 0), x);
  }
};

// ---- on the host

inline bool plain(const RowNorm& p) {
  return p.groups == 1 && p.inner == 1;
}
template <class T>
Affine<T> affine_of(const void* weight, const void* bias, const RowNorm& p, bool packed) {
  return {static_cast<const T*>(weight),
          static_cast<const T*>(bias),
          p.groups,
          p.length / p.inner,
          Divisor(uint32_t(p.inner)),
          plain(p),
          packed && p.inner % kWidest<T> == 0};
}
inline void check_length(const RowNorm& p) {
  if (p.length >= int64_t(1) << 31)
    throw std::invalid_argument("normalisation on CUDA: rows must be below 2^31");
}

// A plan for lanes with `values` of a row, for whole warps with up to kWideValues a lane, or for blocks with
// `values`.
template <class T>
RowPlan plan_teams(const RowNorm& p, int values) {
  const bool wide = p.length > 32 * values && p.length <= 32 * kWideValues<T>;
  RowPlan plan = plan_rows(p.rows, p.length, wide ? kWideValues<T> : values);
  if (wide) plan.group = 32;
  return plan;
}
// How many units a lane needs.
inline int64_t units(const RowNorm& p, const RowPlan& plan) {
  return ceil_div(p.length, int64_t(plan.group) * kUnit);
}
// Calls f<packs, kPlain>() for rows of groups of lanes.
template <class T, class F>
void by_packs(int64_t units, bool fast, F&& f) {
  constexpr int kPacks = kUnit / kWidest<T>;
  if constexpr (sizeof(Compute<T>) == 8)
    return fast ? f.template operator()<kPacks, true>() : f.template operator()<kPacks, false>();
  else if (!fast)
    return units > 2   ? f.template operator()<4 * kPacks, false>()
           : units > 1 ? f.template operator()<2 * kPacks, false>()
                       : f.template operator()<kPacks, false>();
  else if (units == 1)
    return f.template operator()<kPacks, true>();
  else if (units == 2)
    return f.template operator()<2 * kPacks, true>();
  else if (units == 3)
    return f.template operator()<3 * kPacks, true>();
  else
    return f.template operator()<4 * kPacks, true>();
}

constexpr int kManyBlocks = 64;  // of a multiprocessor: rows are dealt out as blocks end

}  // namespace fastdl::cuda
