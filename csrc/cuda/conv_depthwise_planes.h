// Depthwise convolution on planes, one output channel for an input's: what its kernels share.
//
// A thread has a tile of kSide x kSide neighbouring results and takes what they see from memory itself: with
// one plane for a result there is nothing that blocks would have to share but the edges of tiles, which the
// first-level cache holds. Rows of whole packs, kernels that keep the image's size (the usual case): packs of
// four, which begin where a tile does; else elements. Either way all loads of a tile are independent, and a
// source is converted once for the tile: 9 FMAs, three loads' and conversions' share and two of the stores'
// for a result of 3x3, 26 instructions by packs and 31 by elements, where tiles of 4 x 2 in shared memory took
// 70.
#pragma once

#include "cuda/conv_planes.h"

namespace fastdl::cuda {

constexpr int kSide = 4;

// Is it such a problem, with kernels here? For the gradient of x at stride 2 the padding of both axes must be
// odd, or of both even.
bool depthwise_planes_fit(const ConvProblem& problem, bool transposed);

void depthwise_planes(Dtype dtype, void* y, const void* x, const void* weight, const void* bias,
                      const ConvProblem& problem, bool transposed, Stream stream);
// scratch: depthwise_planes_splits times the weights, in float.
int64_t depthwise_planes_splits(const ConvProblem& problem);
void depthwise_planes_grad_weight(Dtype dtype, void* grad_weight, const void* grad_y, const void* x,
                                  void* scratch, const ConvProblem& problem, Stream stream);

// Of a row of a plane what kColumns positions see, the first of them kBefore before position `at`, which `source`
// points to; 0 outside. kPacked: `at` is a multiple of kSide, and so are the row's address and length.
template <bool kPacked, int kBefore, int kColumns, class T>
__device__ __forceinline__ void load_row(float (&values)[kColumns], const T* source, bool inside, int at,
                                         int sources) {
  if constexpr (kPacked) {
    constexpr int kAhead = kBefore > 0 ? kSide : 0;
    constexpr int kPacks = int(ceil_div(kAhead - kBefore + kColumns, kSide));
    static_assert(kBefore <= kSide);
    Loaded<T, kSide> packs[kPacks];
    FASTDL_UNROLL
    for (int i = 0; i < kPacks; ++i) {
      const int ahead = i * kSide - kAhead;
      if (inside && uint32_t(at + ahead) < uint32_t(sources))
        packs[i] = Loaded<T, kSide>(*reinterpret_cast<const Pack<T, kSide>*>(source + ahead));
    }
    FASTDL_UNROLL
    for (int j = 0; j < kColumns; ++j) {
      const int k = kAhead - kBefore + j;
      values[j] = float(widen(packs[k / kSide][k % kSide]));
    }
  } else {
    load_sources(values, source - kBefore, inside, at - kBefore, sources);
  }
}

// f(i, values) for the rows that the tile in this strip and column sees of a plane of x, the first being row 0.
template <class W, bool kPacked, int K, class T, class F>
__device__ __forceinline__ void for_rows(const T* x, int64_t plane, const PlaneAxis& h, const PlaneAxis& w,
                                         int strip, int column, F&& f) {
  constexpr int kSeen = W::sources(kSide), kBefore = kPacked ? (K - 1) / 2 : 0;
  const int row = h.origin + strip * h.step, at = w.origin + kBefore + column * w.step;
  const T* const source = x + (plane * h.sources + row) * w.sources + at;
  FASTDL_UNROLL
  for (int i = 0; i < kSeen; ++i) {
    float values[kSeen];
    load_row<kPacked, kBefore>(values, source + i * w.sources, uint32_t(row + i) < uint32_t(h.sources), at,
                               w.sources);
    f(i, values);
  }
}

}  // namespace fastdl::cuda
