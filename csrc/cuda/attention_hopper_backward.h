// Attention's backward pass on Hopper: wgmma, bulk copies, a warp that loads, two warpgroups that compute.
// 16-bit types, sizes 64 and 128; the rest is attention_tensor_backward.cu's.
//
// A block owns 128 keys and passes over tiles of queries, of each head of the keys' group: S^T = K Q^T and
// dP^T = V dY^T, P = 2^(factor S - lse), dS = P (dP - delta), dV += P^T dY, dK += dS^T Q, dQ = dS K. Rows of
// accumulators are keys, so P^T and dS^T are operands in place; dS goes through shared memory only for dQ,
// which sums over the keys of both warpgroups.
//
// Why five products. Two kernels without sums across blocks (one owns keys, one queries) make seven: at the
// 650 TFLOP/s of the best forward kernels, 460 of what counts. Partial dQ in memory would be a tile for each
// pair of tiles, keys / 128 times dQ. So blocks add to one float32 dQ in the second-level cache (32 KiB for
// each 10.5 MFLOP), *in the order of their keys*, so that the bits are the same every time: each tile of dQ
// says whose turn it is. A warp of its own waits for that, while the others are up to two tiles ahead.
// - No deadlock: blocks take their work from a counter, and wait for work of smaller numbers only. Whoever
//   has the smallest number among the unfinished waits for nobody.
// - Little waiting: all pass over queries from the last to the first. So causal blocks of one head are at the
//   same tile at the same time, and those that see few queries end early instead of beginning late. But a sum
//   must have arrived before the next block adds its own, 2 us or a step's time: of 64 blocks of a head the last
//   would wait for 63 of these. So numbers alternate between 16 heads, some 8 blocks of each being under way.
//   What those share is read from memory once for all 8, not for each, so heads need not fit into the cache.
//
// Dropout: which weights stay is made before, by a kernel of its own, a bit for each in the order in which
// threads have them, and comes by the copy engine as a word of a thread for 64 queries. (Read from memory by
// the threads themselves, or made here, it lets ptxas have each product wait for the one before.)
//
// Registers, 240 a thread: size 128 with 64 queries dK, dV 64 each, S, dP 32, P as an operand 16; size 64
// with 128 queries 32 each, 64, 32 (64 queries at a time), 32. dS takes P's place, dQ dP's.
//
// Shared memory, 227 KiB: K, V 64 (size 64: 32), three tiles of Q and two of dY 16 each, dS 16 (32), two
// tiles of dQ 32 each: 224. wgmma reads at most 128 bytes of it a cycle, which for a step's five products of
// 2560 cycles takes 2048 (size 128); other accesses take some 900.
#pragma once

#include "cuda/attention_hopper.h"

namespace fastdl::cuda {
namespace {

constexpr int kGroups = 2, kGroupThreads = 128, kWorkers = kGroups * kGroupThreads;
constexpr int kThreads = kGroupThreads + kWorkers;  // the first warpgroup loads and adds
constexpr int kLine = 128;                          // bytes of 64 elements, a row of a swizzled tile
// Named barriers, one of the first and two of each other.
enum : int { kScoresThere = 1, kSumsThere = 2, kSumsFree = 4, kGroupDone = 6 };

// Tiles are blocks of lines: 64 columns each, one block after the other.
// kMasking: there is a mask. A tile of a mask has the place of a third of Q.
template <int kD, bool kMasking, bool kDropout>
struct Plan {
  static constexpr int kKeys = kGroups * 64, kQueries = kD == 64 ? 128 : 64;
  static constexpr int kBlocks = kD / 64, kQueryBlocks = kQueries / 64;
  static constexpr int kKeyBlock = kKeys * kLine, kQueryBlock = kQueries * kLine;
  static constexpr int kKeyBytes = kBlocks * kKeyBlock, kQueryBytes = kBlocks * kQueryBlock;
  static constexpr int kScoreBytes = kQueryBlocks * kKeyBlock, kSumBytes = kQueries * kD * 4;
  static constexpr int kStatisticBytes = kQueries * 8;
  static constexpr int kMaskBlock = kQueries * kLine, kMaskBytes = kMasking ? 2 * kMaskBlock : 0;
  static constexpr int kKeptBytes = kDropout ? kQueryBlocks * kWorkers * 4 : 0;
  static constexpr int kQueryStages = kMasking ? 2 : 3, kGradStages = 2;
  // Size 64 has no room for two with a mask and dropout's bits.
  static constexpr int kSumStages = kD == 64 && kMasking && kDropout ? 1 : 2;

  struct Signals {
    Barrier keys_full, query_full[kQueryStages], query_free[kQueryStages], grad_full[kGradStages],
        grad_free[kGradStages], mask_full, mask_free, kept_full, kept_free;
    uint32_t number;
  };
  // Where they are in shared memory.
  static constexpr int kKey = 0, kValue = kKey + kKeyBytes, kQuery = kValue + kKeyBytes,
                       kGrad = kQuery + kQueryStages * kQueryBytes,
                       kScores = kGrad + kGradStages * kQueryBytes, kSums = kScores + kScoreBytes,
                       kMask = kSums + kSumStages * kSumBytes, kStatistics = kMask + kMaskBytes,
                       kKept = kStatistics + kQueryStages * kStatisticBytes, kSignals = kKept + kKeptBytes,
                       kBytes = kSignals + int(sizeof(Signals));
};

template <int kD>
constexpr int kQueriesOf = Plan<kD, false, false>::kQueries;

struct Maps {
  TensorMap query, key, value, grad_y, statistics, grad_key, grad_value;
  TensorMap kept;  // of rows of a word for each thread: (B, H, tiles, tiles of keys, 64 queries each)
};

struct Task {
  float* sums;      // (B, H, tiles, tile in the order of accumulators): dQ / scale
  uint32_t* turns;  // (B, H, tiles): the keys' tile that may add
  uint32_t* next;   // number of the next block
  int heads, groups, ratio, pairs, keys, query_tiles, key_tiles, together;  // pairs: B * groups
  bool causal;
  float factor, scale;
  float kept;  // what weights that dropout keeps are multiplied by
};

// What block `number` works on: all tiles of keys of `together` pairs alternately, then the next pairs. Its
// steps are tiles of queries, from the last to the first, of each head of the group.
struct Work {
  int batch, group, key_tile, first, steps;
  __device__ __forceinline__ Work(const Task& task, int number, int keys, int queries) {
    const int chunk = number / (task.together * task.key_tiles), start = chunk * task.together;
    const int rest = number - start * task.key_tiles;
    const int width = start + task.together < task.pairs ? task.together : task.pairs - start;
    const int pair = start + rest % width;
    key_tile = rest / width, batch = pair / task.groups, group = pair % task.groups;
    first = task.causal ? key_tile * keys / queries : 0;
    steps = first < task.query_tiles ? (task.query_tiles - first) * task.ratio : 0;
  }
};

// Accumulators as first operands of steps of 16 summands.
template <class T, int N>
__device__ __forceinline__ void pack_operands(uint32_t (*to)[4], const float (&sums)[N]) {
  FASTDL_UNROLL
  for (int k = 0; k < N / 2; ++k) to[k / 4][k % 4] = packed<T>(sums[2 * k], sums[2 * k + 1]);
}
// d = 64 rows of x times kN rows of y, over kBlocks blocks of columns.
template <class T, int kN, int kBlocks>
__device__ __forceinline__ void multiply_rows(float (&d)[kN / 2], const uint8_t* x, int x_block,
                                              const uint8_t* y, int y_block) {
  FASTDL_UNROLL
  for (int block = 0; block < kBlocks; ++block) {
    const uint64_t a = matrix_along(x + block * x_block), b = matrix_along(y + block * y_block);
    FASTDL_UNROLL
    for (int k = 0; k < 4; ++k)
      wgmma<T, kN>(d, matrix_advance(a, 32 * k), matrix_advance(b, 32 * k), block + k > 0);
  }
}
// d += weights, 64 rows, times 16 kSteps lines of y.
template <class T, int kN, int kSteps>
__device__ __forceinline__ void add_lines(float (&d)[kN / 2], const uint32_t (&weights)[kSteps][4],
                                          const uint8_t* y, int y_block) {
  const uint64_t b = matrix_across(y, y_block);
  FASTDL_UNROLL
  for (int k = 0; k < kSteps; ++k) wgmma<T, kN, true>(d, weights[k], matrix_advance(b, 16 * kLine * k), true);
}

// One thread.
template <class T, int kD, bool kMasking, bool kDropout>
__device__ __forceinline__ void load(const Maps& maps, const Task& task,
                                     const MaskingIf<T, kMasking>& options, const Work& work, uint8_t* tiles,
                                     typename Plan<kD, kMasking, kDropout>::Signals& signals) {
  using P = Plan<kD, kMasking, kDropout>;
  const int key = work.key_tile * P::kKeys;
  barrier_expect(signals.keys_full, 2 * P::kKeyBytes);
  FASTDL_UNROLL
  for (int b = 0; b < P::kBlocks; ++b) {
    const int at[] = {64 * b, key, work.group, work.batch};
    bulk_load(tiles + P::kKey + b * P::kKeyBlock, maps.key, at, signals.keys_full);
    bulk_load(tiles + P::kValue + b * P::kKeyBlock, maps.value, at, signals.keys_full);
  }
  RingPlace<P::kQueryStages> q;
  RingPlace<P::kGradStages> g;
  [[maybe_unused]] uint32_t parity = 1;
  FASTDL_ROLLED
  for (int h = 0; h < task.ratio; ++h) {
    const int head = work.group * task.ratio + h;
    FASTDL_ROLLED
    for (int tile = task.query_tiles - 1; tile >= work.first; --tile) {
      const int row = tile * P::kQueries;
      Barrier& query_full = signals.query_full[q.stage];
      barrier_wait(signals.query_free[q.stage], q.parity ^ 1);
      barrier_expect(query_full, P::kQueryBytes + P::kStatisticBytes);
      FASTDL_UNROLL
      for (int b = 0; b < P::kBlocks; ++b)
        bulk_load(tiles + P::kQuery + q.stage * P::kQueryBytes + b * P::kQueryBlock, maps.query,
                  {64 * b, row, head, work.batch}, query_full);
      bulk_load(tiles + P::kStatistics + q.stage * P::kStatisticBytes, maps.statistics,
                {2 * row, work.batch * task.heads + head}, query_full);
      if constexpr (kMasking) {
        barrier_wait(signals.mask_free, parity);
        options.load(tiles + P::kMask, P::kMaskBlock, work.batch, head, row, key, signals.mask_full);
      }
      if constexpr (kDropout) {
        barrier_wait(signals.kept_free, parity);
        const int at =
            ((work.batch * task.heads + head) * task.query_tiles + tile) * task.key_tiles + work.key_tile;
        barrier_expect(signals.kept_full, P::kKeptBytes);
        bulk_load(tiles + P::kKept, maps.kept, {0, at * P::kQueryBlocks}, signals.kept_full);
      }
      parity ^= 1;
      Barrier& grad_full = signals.grad_full[g.stage];
      barrier_wait(signals.grad_free[g.stage], g.parity ^ 1);
      barrier_expect(grad_full, P::kQueryBytes);
      FASTDL_UNROLL
      for (int b = 0; b < P::kBlocks; ++b)
        bulk_load(tiles + P::kGrad + g.stage * P::kQueryBytes + b * P::kQueryBlock, maps.grad_y,
                  {64 * b, row, head, work.batch}, grad_full);
      q = q.next(), g = g.next();
    }
  }
}

// One warp of each stage: what the workers leave of dQ there goes to memory. Two take turns, as a sum's way to the
// second-level cache and back takes about as long as a step.
template <class P>
__device__ __forceinline__ void add_sums(const Task& task, const Work& work, uint8_t* tiles, int stage) {
  const float* const from = reinterpret_cast<const float*>(tiles + P::kSums + stage * P::kSumBytes);
  if (stage < work.steps) arrive_named(kSumsFree + stage, 32 + kWorkers);
  const int steps_of_head = task.query_tiles - work.first;
  int head = work.batch * task.heads + work.group * task.ratio, within = stage;
  FASTDL_ROLLED
  for (int step = stage; step < work.steps; step += P::kSumStages, within += P::kSumStages) {
    FASTDL_ROLLED
    for (; within >= steps_of_head; within -= steps_of_head) ++head;
    const int64_t at = int64_t(head) * task.query_tiles + task.query_tiles - 1 - within;
    float* const to = task.sums + at * (P::kSumBytes / 4);
    sync_named(kSumsThere + stage, 32 + kWorkers);
    if (lane_id() == 0) {
      if (work.key_tile == 0) {
        bulk_store(to, from, P::kSumBytes);
      } else {
        turn_wait(task.turns[at], uint32_t(work.key_tile));
        bulk_add(to, from, P::kSumBytes);
      }
      bulk_commit();
      bulk_wait_read<0>();
    }
    sync_warp();
    if (step + P::kSumStages < work.steps) arrive_named(kSumsFree + stage, 32 + kWorkers);
    if (lane_id() == 0) {
      bulk_wait<0>();
      turn_pass(task.turns[at], uint32_t(work.key_tile + 1));
    }
    sync_warp();
  }
}

// A warpgroup: 64 keys.
template <class T, int kD, bool kMasking, bool kDropout>
__device__ __forceinline__ void compute(const Maps& maps, const Task& task,
                                        const MaskingIf<T, kMasking>& options, const Work& work,
                                        uint8_t* tiles,
                                        typename Plan<kD, kMasking, kDropout>::Signals& signals, int group) {
  using P = Plan<kD, kMasking, kDropout>;
  const int thread = int(threadIdx.x) % kGroupThreads, lane = lane_id();
  const int own = 64 * group, row = own + thread / 32 * 16 + lane / 4;  // of the block's keys
  const int key = work.key_tile * P::kKeys;
  const uint8_t* const key_rows = tiles + P::kKey + own * kLine;
  const uint8_t* const value_rows = tiles + P::kValue + own * kLine;
  // Columns 8 n + .. of this thread's row, or of the one eight further, in rows of accumulators.
  const auto place = [=](uint8_t* lines, int half, int n) {
    return static_cast<uint32_t*>(swizzled(lines + half * 8 * kLine, row, n)) + lane % 4;
  };

  float dk[kD / 2] = {}, dv[kD / 2] = {};
  RingPlace<P::kQueryStages> q;
  RingPlace<P::kGradStages> g;
  RingPlace<P::kSumStages> d;
  if (work.steps > 0) barrier_wait(signals.keys_full, 0);
  int tile = task.query_tiles - 1, last_stage = 0;
  FASTDL_ROLLED
  for (int step = 0; step < work.steps; ++step) {
    const uint8_t* const query = tiles + P::kQuery + q.stage * P::kQueryBytes;
    const uint8_t* const grad = tiles + P::kGrad + g.stage * P::kQueryBytes;
    const uint8_t* const statistics = tiles + P::kStatistics + q.stage * P::kStatisticBytes;
    const auto of_queries = [=](int n) {  // lse, delta of columns 8 n + .., lse, delta of the next
      return reinterpret_cast<const Pack<float, 4>*>(statistics)[4 * n + lane % 4];
    };

    float s[P::kQueries / 2], dp[32];
    const auto start_dp = [&](int part) {  // of 64 queries
      wgmma_fence();
      multiply_rows<T, 64, P::kBlocks>(dp, value_rows, P::kKeyBlock, grad + part * 64 * kLine,
                                       P::kQueryBlock);
      wgmma_commit();
    };
    barrier_wait(signals.query_full[q.stage], q.parity);
    wgmma_fence();
    multiply_rows<T, P::kQueries, P::kBlocks>(s, key_rows, P::kKeyBlock, query, P::kQueryBlock);
    wgmma_commit();
    wgmma_wait<1>();  // dK of the last step
    if (step > 0 && lane == 0) barrier_arrive(signals.query_free[last_stage]);
    barrier_wait(signals.grad_full[g.stage], g.parity);
    start_dp(0);

    float factor = task.factor;
    wgmma_wait<1>();
    wgmma_touch(s);
    if constexpr (kMasking) {
      barrier_wait(signals.mask_full, step % 2);
      options.template apply_to_keys<P::kQueries>(s, tiles + P::kMask, P::kMaskBlock, row - lane / 4);
      fence_async_shared();
      sync_warp();
      if (lane == 0) barrier_arrive(signals.mask_free);
      factor = 1;
    }
    FASTDL_UNROLL
    for (int n = 0; n < P::kQueries / 8; ++n) {
      const auto of = of_queries(n);
      FASTDL_UNROLL
      for (int c = 0; c < 4; ++c) s[4 * n + c] = power_of_two(s[4 * n + c] * factor - of.v[c % 2 * 2]);
    }
    // Queries beyond the last have no weights, as their lse is infinite.
    const int first_query = tile * P::kQueries;
    if (key + own + 64 > task.keys || (task.causal && first_query < key + own + 63)) {
      FASTDL_UNROLL
      for (int n = 0; n < P::kQueries / 8; ++n) FASTDL_UNROLL
      for (int c = 0; c < 4; ++c) {
        const int i = first_query + 8 * n + lane % 4 * 2 + c % 2, j = key + row + c / 2 * 8;
        if (j >= task.keys || (task.causal && j > i)) s[4 * n + c] = 0;
      }
    }
    uint32_t p[P::kQueries / 16][4], ds[P::kQueries / 16][4];
    pack_operands<T>(p, s);
    // Bits are applied to operands and to differences: accumulators of products may only be products' here.
    [[maybe_unused]] uint32_t kept[P::kQueryBlocks];
    if constexpr (kDropout) {
      barrier_wait(signals.kept_full, step % 2);
      FASTDL_UNROLL
      for (int part = 0; part < P::kQueryBlocks; ++part)
        kept[part] = reinterpret_cast<const uint32_t*>(
            tiles + P::kKept)[part * kWorkers + group * kGroupThreads + thread];
      fence_async_shared();
      sync_warp();
      if (lane == 0) barrier_arrive(signals.kept_free);
      FASTDL_UNROLL
      for (int k = 0; k < P::kQueries / 4; ++k) {
        const uint32_t both = kept[k / 16] >> 2 * k % 32;
        p[k / 4][k % 4] &= (both & 1) * 0xffffu | (both >> 1 & 1) * 0xffff0000u;
      }
    }
    wgmma_fence();
    add_lines<T, kD>(dv, p, grad, P::kQueryBlock);
    wgmma_commit();

    FASTDL_UNROLL
    for (int part = 0; part < P::kQueryBlocks; ++part) {
      if (part == 0)
        wgmma_wait<1>();
      else
        wgmma_wait<0>();
      wgmma_touch(dp);
      FASTDL_UNROLL
      for (int n = 0; n < 8; ++n) {
        const auto of = of_queries(8 * part + n);
        FASTDL_UNROLL
        for (int c = 0; c < 4; ++c) {
          const float delta = of.v[c % 2 * 2 + 1];
          float difference = dp[4 * n + c] - delta;
          if constexpr (kDropout)
            difference = kept[part] >> (4 * n + c) & 1 ? dp[4 * n + c] * task.kept - delta : -delta;
          dp[4 * n + c] = s[32 * part + 4 * n + c] * difference;
        }
      }
      if (part == 0) wgmma_wait<0>();  // dV: there are no registers for dS beside its operands
      pack_operands<T>(&ds[4 * part], dp);
      if (part + 1 < P::kQueryBlocks) start_dp(part + 1);
      // Lines of keys: across, to the product that sums over them.
      FASTDL_UNROLL
      for (int n = 0; n < 8; ++n) FASTDL_UNROLL
      for (int half = 0; half < 2; ++half)
        *place(tiles + P::kScores + part * P::kKeyBlock, half, n) = ds[4 * part + n / 2][n % 2 * 2 + half];
    }
    if (lane == 0) barrier_arrive(signals.grad_free[g.stage]);
    fence_async_shared();
    sync_named(kScoresThere, kWorkers);

    // A 64 x 64 part of dQ for each warpgroup: half of the queries, or half of the columns.
    float dq[32];
    const uint64_t ds_lines =
        matrix_across(tiles + P::kScores + (kD == 64 ? group : 0) * P::kKeyBlock, P::kKeyBlock);
    const uint64_t key_lines =
        matrix_across(tiles + P::kKey + (kD == 64 ? 0 : group) * P::kKeyBlock, P::kKeyBlock);
    wgmma_fence();
    FASTDL_UNROLL
    for (int k = 0; k < P::kKeys / 16; ++k)
      wgmma<T, 64, true, true>(dq, matrix_advance(ds_lines, 16 * kLine * k),
                               matrix_advance(key_lines, 16 * kLine * k), k > 0);
    wgmma_commit();
    add_lines<T, kD>(dk, ds, query, P::kQueryBlock);
    wgmma_commit();

    wgmma_wait<1>();
    wgmma_touch(dq);
    // Here both warpgroups have their dQ: neither dS nor keys are needed any more.
    sync_named(kSumsFree + d.stage, 32 + kWorkers);
    auto* const sums = reinterpret_cast<Pack<float, 4>*>(tiles + P::kSums + d.stage * P::kSumBytes);
    FASTDL_UNROLL
    for (int k = 0; k < 8; ++k)
      sums[(8 * group + k) * kGroupThreads + thread] = {
          {dq[4 * k], dq[4 * k + 1], dq[4 * k + 2], dq[4 * k + 3]}};
    fence_async_shared();
    arrive_named(kSumsThere + d.stage, 32 + kWorkers);
    sync_warp();  // the statistics have been read by all lanes: soon their stage is free
    last_stage = q.stage;
    q = q.next(), g = g.next(), d = d.next();
    tile = tile > work.first ? tile - 1 : task.query_tiles - 1;
  }
  wgmma_wait<0>();
  wgmma_touch(dk);
  wgmma_touch(dv);

  // Results take the places of keys and values.
  FASTDL_UNROLL
  for (int n = 0; n < kD / 8; ++n) FASTDL_UNROLL
  for (int half = 0; half < 2; ++half) {
    const int i = 4 * n + 2 * half, block = n / 8 * P::kKeyBlock;
    *place(tiles + P::kKey + block, half, n % 8) = packed<T>(dk[i] * task.scale, dk[i + 1] * task.scale);
    const float kept = kDropout ? task.kept : 1.0f;
    *place(tiles + P::kValue + block, half, n % 8) = packed<T>(dv[i] * kept, dv[i + 1] * kept);
  }
  fence_async_shared();
  sync_named(kGroupDone + group, kGroupThreads);
  if (thread == 0) {
    FASTDL_UNROLL
    for (int b = 0; b < P::kBlocks; ++b) {
      const int at[] = {64 * b, key + own, work.group, work.batch};
      bulk_store(maps.grad_key, key_rows + b * P::kKeyBlock, at);
      bulk_store(maps.grad_value, value_rows + b * P::kKeyBlock, at);
    }
    bulk_commit();
    bulk_wait<0>();
  }
}

}  // namespace
}  // namespace fastdl::cuda
