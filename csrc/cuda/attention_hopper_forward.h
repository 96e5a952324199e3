// Attention's forward pass with wgmma and bulk copies, for 16-bit types and heads of 64, 128 or, without masks,
// 256 (after FlashAttention-3, Shah et al. 2024); see attention.h.
//
// A block has one warpgroup that only loads and kGroups that compute 64 queries each. Keys and values come in
// tiles of 128 rows through rings of kStages, each with a barrier that says it is full and one that it may be
// filled again. Scores S = Q K^T come from shared memory into registers; weights P stay there as the first
// operand of P V. Two things hide the exponentials: a warpgroup computes them while its product with the
// values before runs, and warpgroups take turns at the tensor cores (a ring of named barriers). Tiles go from
// the last to the first, so those that need hiding (the diagonal, the keys' end) come first; a score is
// hidden by setting it to -infinity. Masks come by a thread of their own, dropout's words are made beside the
// products (attention_hopper.h). Blocks stay and take one tile of queries after the other, the longest
// first, with the loads of the next under way; q and y have places of their own in shared memory for that. Heads
// of 256 have tiles of 64 keys, and one place for both.
//
// Limits, of a multiprocessor per 64 x 128 scores at 4096 operations a cycle: products 1024 cycles for heads
// of 128, 512 for 64; exponentials 512 at 16 a cycle; shared memory for the products, 128 bytes a cycle, 640
// and 384. So heads of 128 are bound by products, at best near the device's 989 TFLOP/s; of 64 by whichever
// of products and exponentials is hidden worse. Registers: 65536 = 128 * 24 + 256 * 240 for 128 (scores 64,
// result 64, weights 32; for 256 they are 32, 128 and 16), 128 * 32 + 384 * 160 for three groups of 64. Shared
// memory: 192 KiB for 128 and 256, 176 KiB for 64.
#pragma once

#include "cuda/attention_hopper.h"

namespace fastdl::cuda {
namespace {

constexpr int kGroupThreads = 128, kGroupRows = 64;
constexpr int kLine = 128, kColumns = 64;  // bytes and elements of a row in a tile: half of a head of 128
constexpr int kTurn = 1, kOwn = 4;         // the first of the named barriers
constexpr int64_t kCache = 32 << 20;       // keys and values that the second-level cache should hold

// kMasking: there may be a mask, dropout, or both.
template <int kSize, int kWarpgroups, bool kMasks>
struct Plan {
  static constexpr int kD = kSize, kGroups = kWarpgroups, kRows = kGroups * kGroupRows;
  static constexpr bool kMasking = kMasks;
  static constexpr int kThreads = (1 + kGroups) * kGroupThreads;
  static constexpr int kKeys = kD == 256 ? 64 : 128, kStages = kD == 64 ? 4 : 2;
  static constexpr int kFewer = kMasking ? 40 : kGroups == 3 ? 32 : 24;
  static constexpr int kMore = kMasking ? 232 : kGroups == 3 ? 160 : 240;
  static constexpr int kBlocks = kD / kColumns;  // of columns, each kLine wide
  static constexpr int kQueryBlock = kRows * kLine, kKeyBlock = kKeys * kLine;
  static constexpr int kQueryBytes = kBlocks * kQueryBlock, kKeyBytes = kBlocks * kKeyBlock;
  static constexpr bool kOnePlace = kD == 256;  // for q and y: there is no room for two
  // Of a mask for a warpgroup's scores of a tile: two blocks of 64 keys, or one of 128 bytes.
  static constexpr int kMaskStages = kD == 64 ? 2 : 1, kMaskBlock = kGroupRows * kLine;
};

struct Maps {
  TensorMap query, key, value, y;
};
struct HopperForward {
  float* lse;
  uint32_t* taken;  // items that blocks have taken beside their first; null: they follow from the block
  float factor;     // scale * log2(e)
  int heads, ratio, queries, keys, tiles, all_heads, section;
  bool causal;

  __device__ __forceinline__ int items() const { return all_heads * tiles; }
  struct Place {
    int row, head, batch, steps;  // steps: tiles of keys
  };
  // Item n: sections of heads whose keys and values fit into the cache, in them the longest rows first.
  template <class P>
  __device__ __forceinline__ Place place(int n) const {
    constexpr int rows = P::kRows;
    const int first = n / (section * tiles) * section, within = n % (section * tiles);
    const int count = section < all_heads - first ? section : all_heads - first;
    const int head = first + within % count, row = (tiles - 1 - within / count) * rows;
    const int seen = causal && row + rows < keys ? row + rows : keys;
    return {row, head % heads, head / heads, (seen + P::kKeys - 1) / P::kKeys};
  }
};

// The numbers of this block's items. The first is the block's own; the others come from a counter where items
// differ in length and are many, so that who has worked on short ones takes more. Else there and back over
// the blocks, so that none has the longer rows in both of two rounds.
struct Numbers {
  int now = int(blockIdx.x), round = 0;
  __device__ __forceinline__ void next(const HopperForward& f) {
    const int grid = int(gridDim.x), block = int(blockIdx.x);
    ++round;
    if (f.taken != nullptr)
      now = grid + int(atomic_add(f.taken, 1u));
    else
      now = round * grid + (round % 2 != 0 ? grid - 1 - block : block);
  }
};

// Of a thread's two rows: what is taken off scores times factor, near their running maximum, the sum of weights
// over this thread's columns, and what the result has to be multiplied by after the last tile.
struct Rows {
  float base[2], total[2], shrink[2];
};

// Weights may grow to 2^this before their base follows: of a warp's sixteen rows one has a new maximum in most
// tiles, and each would cost a multiplication of the whole result.
constexpr float kRise = 8;

// Scores, times factor in units of log 2, become weights.
template <int kHalf>
__device__ __forceinline__ void weigh(float (&s)[kHalf], Rows& rows, const HopperForward& f, float factor,
                                      int row, int column) {
  constexpr int kKeys = 2 * kHalf;
  const int lane = lane_id();
  if (column + kKeys > f.keys || (f.causal && column + kKeys > row + 1)) {
    FASTDL_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int own = row + lane / 4 + 8 * half;
      int last = (f.causal && own < f.keys - 1 ? own : f.keys - 1) - column - lane % 4 * 2;
      opaque(last);  // else the compiler takes this for short and does it without a branch
      FASTDL_UNROLL
      for (int i = 0; i < kKeys / 8; ++i) FASTDL_UNROLL
      for (int c = 0; c < 2; ++c)
        if (8 * i + c > last) s[4 * i + 2 * half + c] = -infinity<float>();
    }
  }
  FASTDL_UNROLL
  for (int half = 0; half < 2; ++half) {
    float most = -infinity<float>();
    FASTDL_UNROLL
    for (int i = 2 * half; i < kKeys / 2; i += 4) most = std::fmax(most, std::fmax(s[i], s[i + 1]));
    most = std::fmax(most, shuffle_xor(most, 1));
    most = std::fmax(most, shuffle_xor(most, 2));
    most *= factor;
    if (!(most > rows.base[half] + kRise)) most = rows.base[half];
    const float base = most == -infinity<float>() ? 0.0f : most;
    rows.shrink[half] = exp2_approximate(rows.base[half] - base);
    rows.base[half] = most;
    float sum = 0;
    FASTDL_UNROLL
    for (int i = 2 * half; i < kKeys / 2; i += 4) FASTDL_UNROLL
    for (int c = 0; c < 2; ++c) {
      s[i + c] = exp2_approximate(s[i + c] * factor - base);
      sum += s[i + c];
    }
    rows.total[half] = rows.total[half] * rows.shrink[half] + sum;
  }
}
template <class T, int kSteps>
__device__ __forceinline__ void narrow_weights(uint32_t (&p)[kSteps][4], const float (&s)[8 * kSteps]) {
  FASTDL_UNROLL
  for (int k = 0; k < kSteps; ++k) FASTDL_UNROLL
  for (int i = 0; i < 4; ++i) p[k][i] = packed<T>(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
}

template <int kGroups, int kStages, int kBytes>
struct MaskTiles {
  unsigned char masks[kGroups][kStages][kBytes];
};
struct NoMaskTiles {};

template <class P>
struct Shared
    : std::conditional_t<P::kMasking, MaskTiles<P::kGroups, P::kMaskStages, 2 * P::kMaskBlock>, NoMaskTiles> {
  unsigned char queries[P::kQueryBytes], keys[P::kStages][P::kKeyBytes], values[P::kStages][P::kKeyBytes];
  unsigned char own_results[P::kOnePlace ? 16 : P::kQueryBytes];
  Barrier key_full[P::kStages], key_empty[P::kStages], value_full[P::kStages], value_empty[P::kStages];
  Barrier query_full, query_empty, mask_full[P::kGroups][P::kMaskStages],
      mask_empty[P::kGroups][P::kMaskStages];
  int item;  // whose queries query_full announces; none are left where it is too large

  __device__ __forceinline__ unsigned char* results() { return P::kOnePlace ? queries : own_results; }
};

// One thread keeps everything but masks loaded that there is room for.
template <class P>
__device__ __forceinline__ void load_items(Shared<P>& shared, const Maps& maps, const HopperForward& f) {
  bulk_prefetch(maps.query);
  bulk_prefetch(maps.key);
  bulk_prefetch(maps.value);
  RingPlace<P::kStages> key, value;
  uint32_t parity = 1;
  const auto announce = [&](int number) {
    barrier_wait(shared.query_empty, parity);
    parity ^= 1;
    shared.item = number;
  };
  Numbers numbers;
  FASTDL_ROLLED
  for (; numbers.now < f.items(); numbers.next(f)) {
    const auto at = f.place<P>(numbers.now);
    const auto load = [&](unsigned char* to, int block_bytes, const TensorMap& map, int row, int head,
                          Barrier& full) {
      barrier_expect(full, uint32_t(P::kBlocks * block_bytes));
      FASTDL_UNROLL
      for (int block = 0; block < P::kBlocks; ++block)
        bulk_load(to + block * block_bytes, map, {block * kColumns, row, head, at.batch}, full);
    };
    const int group = at.head / f.ratio;
    const auto load_keys = [&](int step) {
      barrier_wait(shared.key_empty[key.stage], key.parity ^ 1);
      load(shared.keys[key.stage], P::kKeyBlock, maps.key, step * P::kKeys, group,
           shared.key_full[key.stage]);
      key = key.next();
    };
    load_keys(at.steps - 1);
    announce(numbers.now);
    load(shared.queries, P::kQueryBlock, maps.query, at.row, at.head, shared.query_full);
    FASTDL_ROLLED
    for (int step = at.steps - 1; step >= 0; --step) {
      if (step > 0) load_keys(step - 1);
      barrier_wait(shared.value_empty[value.stage], value.parity ^ 1);
      load(shared.values[value.stage], P::kKeyBlock, maps.value, step * P::kKeys, group,
           shared.value_full[value.stage]);
      value = value.next();
    }
  }
  announce(numbers.now);
  barrier_arrive(shared.query_full);
}

// Another one loads masks, for each warpgroup by itself.
template <class T, class P>
__device__ __forceinline__ void load_masks(Shared<P>& shared, const Masking<T>& masking,
                                           const HopperForward& f) {
  RingPlace<P::kMaskStages> mask;
  uint32_t parity = 0;
  FASTDL_ROLLED
  for (;; parity ^= 1) {
    barrier_wait(shared.query_full, parity);
    const int number = shared.item;
    barrier_arrive(shared.query_empty);
    if (number >= f.items()) return;
    const auto at = f.place<P>(number);
    if (!masking.scores.masked()) continue;
    FASTDL_ROLLED
    for (int step = at.steps - 1; step >= 0; --step) {
      FASTDL_ROLLED
      for (int group = 0; group < P::kGroups; ++group) {
        barrier_wait(shared.mask_empty[group][mask.stage], mask.parity ^ 1);
        masking.load(shared.masks[group][mask.stage], P::kMaskBlock, at.batch, at.head,
                     at.row + group * kGroupRows, step * P::kKeys, shared.mask_full[group][mask.stage]);
      }
      mask = mask.next();
    }
  }
}

// A warpgroup's 64 rows of every item.
template <class T, class P>
struct Group {
  static constexpr int kD = P::kD, kKeys = P::kKeys;
  static constexpr bool kMasking = P::kMasking;
  Shared<P>& shared;
  const MaskingIf<T, kMasking>& options;
  const int me, thread = int(threadIdx.x) % kGroupThreads, lane = lane_id();

  __device__ __forceinline__ void take_turn() const {
    sync_named(kTurn + me, 2 * kGroupThreads);
    wgmma_fence();
  }
  __device__ __forceinline__ void pass_turn() const {
    arrive_named(kTurn + (me + 1) % P::kGroups, 2 * kGroupThreads);
  }
  __device__ __forceinline__ void free(Barrier& empty) const {
    if (lane == 0) barrier_arrive(empty);
  }
  __device__ __forceinline__ void multiply_keys(float (&s)[kKeys / 2], int stage) const {
    const uint64_t a = matrix_along(shared.queries + me * kGroupRows * kLine),
                   b = matrix_along(shared.keys[stage]);
    FASTDL_UNROLL
    for (int k = 0; k < kD / 16; ++k)
      wgmma<T, kKeys>(s, matrix_advance(a, k / 4 * P::kQueryBlock + k % 4 * 32),
                      matrix_advance(b, k / 4 * P::kKeyBlock + k % 4 * 32), k > 0);
    wgmma_commit();
  }
  __device__ __forceinline__ void add_values(float (&y)[kD / 2], const uint32_t (&p)[kKeys / 16][4],
                                             int stage) const {
    const uint64_t b = matrix_across(shared.values[stage], P::kKeyBlock);
    FASTDL_UNROLL
    for (int k = 0; k < kKeys / 16; ++k) wgmma<T, kD, true>(y, p[k], matrix_advance(b, 2048 * k), true);
    wgmma_commit();
  }

  // Which weights of a tile stay, as bits: four for each eight columns.
  struct Kept {
    uint32_t bits[kKeys / 64];
  };
  __device__ __forceinline__ Kept keep(const HopperForward& f, const HopperForward::Place& at, int row,
                                       int column) const {
    Kept kept{};
    if constexpr (kMasking) {
      if (options.scores.threshold != 0) {
        FASTDL_UNROLL
        for (int k = 0; k < kKeys / 64; ++k)
          kept.bits[k] = kept_weights<false, T, 8>(options.scores, int64_t(at.batch) * f.heads + at.head, row,
                                                   column + 64 * k);
      }
    }
    return kept;
  }
  __device__ __forceinline__ void mask_and_weigh(float (&s)[kKeys / 2], Rows& rows, const HopperForward& f,
                                                 int row, int column, RingPlace<P::kMaskStages>& mask,
                                                 const Kept& kept) const {
    if constexpr (kMasking) {
      const bool masked = options.scores.masked();
      if (masked) barrier_wait(shared.mask_full[me][mask.stage], mask.parity);
      options.apply_to_queries(s, shared.masks[me][mask.stage], P::kMaskBlock, thread / 32 * 16);
      if (masked) {
        fence_async_shared();
        sync_warp();
        free(shared.mask_empty[me][mask.stage]);
        mask = mask.next();
      }
      weigh(s, rows, f, 1.0f, row, column);
      if (options.scores.threshold != 0) {
        FASTDL_UNROLL
        for (int i = 0; i < kKeys / 2; ++i) s[i] = kept.bits[i / 32] >> i % 32 & 1 ? s[i] : 0.0f;
      }
    } else {
      weigh(s, rows, f, f.factor, row, column);
    }
  }

  __device__ __forceinline__ void compute_items(const TensorMap& y_map, const HopperForward& f) const {
    if (me == P::kGroups - 1) pass_turn();
    RingPlace<P::kStages> value;  // keys are one tile further
    RingPlace<P::kMaskStages> mask;
    uint32_t parity = 0;
    float s[kKeys / 2] = {};
    uint32_t p[kKeys / 16][4];
    FASTDL_ROLLED
    for (;; parity ^= 1) {
      barrier_wait(shared.query_full, parity);
      const int number = shuffle(shared.item, 0);  // to the compiler the same in all lanes
      if (number >= f.items()) break;
      const auto at = f.place<P>(number);
      const int first = at.row + me * kGroupRows, row = first + thread / 32 * 16;  // the group's, the warp's
      Rows rows{{-infinity<float>(), -infinity<float>()}, {0, 0}, {0, 0}};
      float y[kD / 2] = {};
      int step = at.steps - 1;
      barrier_wait(shared.key_full[value.stage], value.parity);
      take_turn();
      multiply_keys(s, value.stage);
      pass_turn();
      Kept kept = keep(f, at, row, step * P::kKeys);
      wgmma_wait<0>();
      wgmma_touch(s);
      free(shared.key_empty[value.stage]);
      mask_and_weigh(s, rows, f, row, step * P::kKeys, mask, kept);
      narrow_weights<T>(p, s);
      FASTDL_ROLLED
      for (--step; step >= 0; --step) {
        const auto key = value.next();
        barrier_wait(shared.key_full[key.stage], key.parity);
        barrier_wait(shared.value_full[value.stage], value.parity);
        take_turn();
        multiply_keys(s, key.stage);
        add_values(y, p, value.stage);
        pass_turn();
        kept = keep(f, at, row, step * P::kKeys);  // beside the products
        wgmma_wait<1>();
        wgmma_touch(s);
        free(shared.key_empty[key.stage]);
        mask_and_weigh(s, rows, f, row, step * P::kKeys, mask, kept);
        wgmma_wait<0>();
        wgmma_touch(y);
        wgmma_touch(s);  // no weights are narrowed before the product with the last ones is over
        for (auto& step_weights : p) wgmma_touch(step_weights);
        free(shared.value_empty[value.stage]);
        value = key;
        if (ballot(rows.shrink[0] != 1 || rows.shrink[1] != 1) != 0) {  // a maximum rose
          FASTDL_UNROLL
          for (int i = 0; i < kD / 2; ++i) y[i] *= rows.shrink[i / 2 % 2];
        }
        narrow_weights<T>(p, s);
      }
      if constexpr (!P::kOnePlace) free(shared.query_empty);
      barrier_wait(shared.value_full[value.stage], value.parity);
      take_turn();
      add_values(y, p, value.stage);
      pass_turn();
      wgmma_wait<0>();
      wgmma_touch(y);
      free(shared.value_empty[value.stage]);
      value = value.next();
      finish(y, rows, y_map, f, at, first);
    }
    if (thread == 0) bulk_wait<0>();
  }

  __device__ __forceinline__ void finish(const float (&y)[kD / 2], const Rows& rows, const TensorMap& y_map,
                                         const HopperForward& f, const HopperForward::Place& at,
                                         int first) const {
    float inverse[2];
    FASTDL_UNROLL
    for (int half = 0; half < 2; ++half) {
      float sum = rows.total[half];
      sum += shuffle_xor(sum, 1);
      sum += shuffle_xor(sum, 2);
      const bool empty = sum == 0;
      inverse[half] = empty ? 0.0f : 1.0f / sum;
      if constexpr (kMasking) inverse[half] *= options.scores.kept;  // 1 without dropout
      const int i = first + thread / 32 * 16 + lane / 4 + 8 * half;
      if (lane % 4 == 0 && i < f.queries)
        f.lse[(int64_t(at.batch) * f.heads + at.head) * f.queries + i] =
            empty ? infinity<float>() : rows.base[half] + std::log2(sum);
    }
    unsigned char* const to = shared.results() + me * kGroupRows * kLine;
    if (thread == 0) bulk_wait_read<0>();  // the result before has left
    sync_named(kOwn + me, kGroupThreads);
    int line = (thread / 32 * 16 + lane / 4) * kLine + lane / 4 * 16 + lane % 4 * 4;  // in chunk 0
    opaque(line);
    FASTDL_UNROLL
    for (int i = 0; i < kD / 2; i += 2) {
      const int chunk = i / 4 % 8, half = i / 2 % 2;
      *reinterpret_cast<uint32_t*>(to + (line ^ chunk * 16) + half * 8 * kLine + i / 32 * P::kQueryBlock) =
          packed<T>(y[i] * inverse[half], y[i + 1] * inverse[half]);
    }
    fence_async_shared();
    sync_named(kOwn + me, kGroupThreads);
    if (thread == 0 && first < f.queries) {
      FASTDL_UNROLL
      for (int block = 0; block < P::kBlocks; ++block)
        bulk_store(y_map, to + block * P::kQueryBlock, {block * kColumns, first, at.head, at.batch});
      bulk_commit();
    }
    if constexpr (P::kOnePlace) {  // the next queries may come when this has left
      if (thread == 0) bulk_wait_read<0>();
      sync_named(kOwn + me, kGroupThreads);
      free(shared.query_empty);
    }
  }
};

}  // namespace
}  // namespace fastdl::cuda
