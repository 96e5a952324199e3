// What attention's kernels for compute capability 9.0 share (attention_hopper_*.cu): rings, packing, masks, dropout.
//
// The copy engine brings what scores' tiles need of a mask into shared memory, as lines of 128 bytes: 64
// elements that are added, so that 128 keys are two blocks of lines, or 128 bytes of a boolean mask. Along
// axes over which the mask is broadcast its map has one element and boxes start at 0; the same for all
// queries it is a single line. Threads then read their elements without bank conflicts, as lines are
// swizzled.
#pragma once

#include "cuda/attention_scores.h"
#include "cuda/hopper.h"

namespace fastdl::cuda {

// Where a ring stands: the stage in use, and the parity of its barriers' phases.
template <int kStages>
struct RingPlace {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ RingPlace next() const {
    const bool around = stage == kStages - 1;
    return {around ? 0 : stage + 1, around ? parity ^ 1 : parity};
  }
};

// (By the intrinsics for pairs ptxas has each product of the gradients for 128 wait for the one before.)
template <class T>
__device__ __forceinline__ uint32_t packed(float low, float high) {
  const Pack<T, 2> both{{narrow<T>(low), narrow<T>(high)}};
  uint32_t bits;
  memcpy(&bits, &both, 4);
  return bits;
}

constexpr int kMaskKeys = 128, kMaskLine = 128;

// An argument of kernels.
template <class T>
struct Masking {
  TensorMap map;
  Scores<T> scores;
  int batch, head, row;  // 1, or 0 where the mask is broadcast
  int box_bytes;

  // One thread: rows `row` .. and 128 keys from `key` of a head of queries.
  __device__ __forceinline__ void load(uint8_t* to, int block_bytes, int b, int h, int i, int key,
                                       Barrier& full) const {
    const int boxes = scores.added != nullptr ? 2 : 1;
    barrier_expect(full, uint32_t(boxes * box_bytes));
    for (int box = 0; box < boxes; ++box)
      bulk_load(to + box * block_bytes, map, {key + 64 * box, i * row, h * head, b * batch}, full);
  }

  // s = factor s + mask for scores whose rows are queries: a warp's 16 from `first` of the tile, 128 keys.
  __device__ __forceinline__ void apply_to_queries(float (&s)[kMaskKeys / 2], const uint8_t* tile,
                                                   int block_bytes, int first) const {
    const int lane = lane_id(), down = row * 8 * kMaskLine;
    scale(s);
    if (scores.added != nullptr) {
      int line = row * (first * kMaskLine + lane / 4 * (kMaskLine + 16)) + lane % 4 * 4;
      opaque(line);
      FASTDL_UNROLL
      for (int n = 0; n < kMaskKeys / 8; ++n) FASTDL_UNROLL
      for (int half = 0; half < 2; ++half)
        add(s[4 * n + 2 * half], s[4 * n + 2 * half + 1],
            *reinterpret_cast<const uint32_t*>(tile + n / 8 * block_bytes + (line ^ n % 8 * 16) +
                                               half * down));
    } else if (scores.allowed != nullptr) {
      int line = row * (first * kMaskLine + lane / 4 * (kMaskLine + 16)) + lane % 4 * 2;
      opaque(line);
      FASTDL_UNROLL
      for (int n = 0; n < kMaskKeys / 8; ++n) FASTDL_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int two =
            *reinterpret_cast<const uint16_t*>(tile + (line ^ n / 2 * 16) + n % 2 * 8 + half * down);
        if ((two & 0xFF) == 0) s[4 * n + 2 * half] = -infinity<float>();
        if (two >> 8 == 0) s[4 * n + 2 * half + 1] = -infinity<float>();
      }
    }
  }
  // The same where rows are keys, a warp's 16 from `first` of the tile's 128, and columns kQueries queries.
  template <int kQueries>
  __device__ __forceinline__ void apply_to_keys(float (&s)[kQueries / 2], const uint8_t* tile,
                                                int block_bytes, int first) const {
    const int lane = lane_id(), down = row * 8 * kMaskLine;
    scale(s);
    if (scores.added != nullptr) {
      // Of four 8 x 8 matrices, transposed: keys and the next eight, queries and the next eight.
      int line = row * (lane / 16 * 8 + lane % 8) * kMaskLine;
      line += (first % 64 / 8 + lane / 8 % 2) * 16 ^ row * (lane % 8) * 16;
      opaque(line);
      tile += first / 64 * block_bytes;
      FASTDL_UNROLL
      for (int n = 0; n < kQueries / 8; n += 2) {
        uint32_t four[4];
        ldmatrix_x4<true>(four, tile + line + n * down);
        FASTDL_UNROLL
        for (int k = 0; k < 4; ++k)
          add(s[4 * (n + k / 2) + k % 2 * 2], s[4 * (n + k / 2) + k % 2 * 2 + 1], four[k]);
      }
    } else if (scores.allowed != nullptr) {
      FASTDL_UNROLL
      for (int c = 0; c < 2; ++c) {
        const int q = lane % 4 * 2 + c;
        int line = row * q * kMaskLine + (first ^ row * q * 16) + lane / 4;
        opaque(line);
        FASTDL_UNROLL
        for (int n = 0; n < kQueries / 8; ++n) FASTDL_UNROLL
        for (int half = 0; half < 2; ++half)
          if (tile[line + n * down + 8 * half] == 0) s[4 * n + 2 * half + c] = -infinity<float>();
      }
    }
  }

 private:
  template <int N>
  __device__ __forceinline__ void scale(float (&s)[N]) const {
    FASTDL_UNROLL
    for (float& score : s) score *= scores.factor;
  }
  static __device__ __forceinline__ void add(float& a, float& b, uint32_t bits) {
    Pack<T, 2> two;
    memcpy(&two, &bits, 4);
    a += widen(two.v[0]) * float(kLog2E);
    b += widen(two.v[1]) * float(kLog2E);
  }
};
struct NoMasking {};
template <class T, bool kMasking>
using MaskingIf = std::conditional_t<kMasking, Masking<T>, NoMasking>;

// A mask as the copy engine sees it, in boxes of `rows` rows. Without one, nothing.
template <class T>
struct MaskBoxes {
  const void* data;
  int64_t sizes[4], strides[3];
  int box[4], item;
  bool there, dense;

  MaskBoxes(const Scores<T>& s, int64_t batch, int rows)
      : data(s.added != nullptr ? static_cast<const void*>(s.added) : s.allowed),
        sizes{s.keys, s.mask_row == 0 ? 1 : s.queries, s.mask_head == 0 ? 1 : s.heads,
              s.mask_batch == 0 ? 1 : batch},
        box{s.added != nullptr ? 64 : kMaskKeys, sizes[1] == 1 ? 1 : rows, 1, 1},
        item(s.added != nullptr ? 2 : 1),
        there(s.masked()),
        dense(s.mask_col == 1) {
    strides[0] = s.mask_row * item, strides[1] = s.mask_head * item, strides[2] = s.mask_batch * item;
  }
  bool possible() const {
    return !there || (dense && tensor_map_possible(data, item, 4, sizes, strides, box, Swizzle::bytes128));
  }
  Masking<T> argument(const Scores<T>& s) const {
    Masking<T> made{{}, s, sizes[3] > 1, sizes[2] > 1, sizes[1] > 1, box[1] * kMaskLine};
    if (there)
      made.map = item == 2 ? tensor_map<T>(data, 4, sizes, strides, box, Swizzle::bytes128)
                           : tensor_map<uint8_t>(data, 4, sizes, strides, box, Swizzle::bytes128);
    return made;
  }
};

}  // namespace fastdl::cuda
