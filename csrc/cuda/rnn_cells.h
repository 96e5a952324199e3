// What blocks of a resident recurrent layer share: its weights in registers, its place in the cluster, its memory.
//
// Eight lanes hold a cell of the weights, 8 columns (units of one gate) x 128 elements of the sum (96 of
// 16-bit types, 32 of doubles), sixteen elements a lane; they halve the columns among each other as they add,
// until each has the sum of one. A block's 48 cells are tiles of columns times parts of the sum; whoever
// finishes a unit adds the parts in order. Products of a step that depend on each other have cells in warps
// of their own. Sequences are dealt out to clusters in turn: packed ones are of falling length.
#pragma once

#ifdef FASTDL_COMPILED_ONCE
#error "clusters need code for 9.0 of its own: see CMakeLists.txt"
#endif
#include "cuda/rnn_layer.h"

namespace fastdl::cuda {

constexpr int kResidentThreads = 384, kCellLanes = 8, kCellColumns = 8;
constexpr int kCells = kResidentThreads / kCellLanes, kWarpCells = 32 / kCellLanes;
constexpr int kResidentStatic = 20 << 10;  // more than a block's static shared memory
// Machine code for devices without clusters need not hold what they never launch.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr bool kClustersHere = false;
#else
constexpr bool kClustersHere = true;
#endif
template <class C>
constexpr int kChunk = int(16 / sizeof(C));
// As many as leave registers for everything else.
template <class T>
constexpr int kCellChunks = sizeof(T) == 4   ? 4
                            : sizeof(T) == 2 ? 3
                                             : 2;
template <class T>
constexpr int kCellSize = kCellLanes * kCellChunks<T> * kChunk<Compute<T>>;
template <class T>
using Cell = Compute<T>[kCellChunks<T>][kChunk<Compute<T>>][kCellColumns];

// A block's part of a product: units (of each gate), tiles of columns, parts of the sum; its first cell.
struct ResidentSlice {
  int units, tiles, parts, first;
  int state, bias;  // where the state is in shared memory, two copies, and what is added to sums, in elements
};
struct ResidentPlan {
  ResidentSlice slice[2];
  int cluster, groups, rows;  // blocks of a cluster; clusters of a direction, sequences of each
  int partial;                // sums of a row
  int zeros, inbox, sums;     // in shared memory: where what begins as zeros ends, two inboxes, sums
  int64_t bytes;
  double cycles;  // of a step, estimated

  // Sequences of a group among the first `rows`.
  __device__ __forceinline__ int count(int rows, int group) const {
    return (rows - group + groups - 1) / groups;
  }
  __device__ __forceinline__ ResidentSlice of(int phase) const { return phase == 0 ? slice[0] : slice[1]; }
};

// In which product a thread has weights, where its part of the state begins, where its column's sums go (-1:
// nowhere).
struct ResidentWork {
  int phase, from, to;
};
// Rows of a group, of a product and of the state after it.
struct ResidentRows {
  int now, next;
};
// A result: row of the group, of all; unit of the block, of all.
struct ResidentPlace {
  int r, row, column, unit;
};

// The next state's row in all blocks of the cluster, or in the only one.
template <class T, bool kCluster>
struct ClusterRow {
  Compute<T>* data;
  int cluster;
  uint64_t* inbox;
  // values[n] is element first + n step.
  template <int kCount>
  __device__ __forceinline__ void put(int first, int step, int count, const T (&values)[kCount]) const {
    if constexpr (kCluster) {
      FASTDL_ROLLED
      for (int block = 0; block < cluster; ++block) {
        FASTDL_UNROLL
        for (int n = 0; n < kCount; ++n)
          if (n < count)
            store_in_cluster<Compute<T>>(data + first + n * step, block, widen(values[n]), inbox);
      }
    } else {
      FASTDL_UNROLL
      for (int n = 0; n < kCount; ++n)
        if (n < count) data[first + n * step] = widen(values[n]);
    }
  }
};

// The lane's weights of a cell, zeros beyond: columns of units `unit`, ..., elements `first`, ...
template <class T, class C = Compute<T>>
__device__ __forceinline__ void load_cell(Cell<T>& cell, const StepProduct<T>& product, int gate, int unit,
                                          int first) {
  const int lane = lane_id() % kCellLanes;
  const T* const weight = product.weight + (int64_t(gate) * product.units + unit) * product.weight_step;
  const auto element = [&](int i) { return first + (i * kCellLanes + lane) * kChunk<C>; };
  if (product.async && product.element_step == 1) {
    FASTDL_UNROLL
    for (int i = 0; i < kCellChunks<T>; ++i) FASTDL_UNROLL
    for (int c = 0; c < kCellColumns; ++c) {
      Pack<T, kChunk<C>> pack{};
      if (unit + c < product.units && element(i) < product.size)
        pack = *reinterpret_cast<const Pack<T, kChunk<C>>*>(weight + c * product.weight_step + element(i));
      FASTDL_UNROLL
      for (int e = 0; e < kChunk<C>; ++e) cell[i][e][c] = widen(pack.v[e]);
    }
  } else if (product.async) {
    constexpr int kPer = int(16 / sizeof(T));
    FASTDL_UNROLL
    for (int i = 0; i < kCellChunks<T>; ++i) FASTDL_UNROLL
    for (int e = 0; e < kChunk<C>; ++e) FASTDL_UNROLL
    for (int c = 0; c < kCellColumns; c += kPer) {
      Pack<T, kPer> pack{};
      if (unit + c < product.units && element(i) + e < product.size)
        pack = *reinterpret_cast<const Pack<T, kPer>*>(weight + c + (element(i) + e) * product.element_step);
      FASTDL_UNROLL
      for (int n = 0; n < kPer; ++n) cell[i][e][c + n] = widen(pack.v[n]);
    }
  } else {
    FASTDL_UNROLL
    for (int i = 0; i < kCellChunks<T>; ++i) FASTDL_UNROLL
    for (int e = 0; e < kChunk<C>; ++e) FASTDL_UNROLL
    for (int c = 0; c < kCellColumns; ++c)
      cell[i][e][c] = unit + c < product.units && element(i) + e < product.size
                          ? widen(weight[c * product.weight_step + (element(i) + e) * product.element_step])
                          : C(0);
  }
}

// The product of a cell with a row's part of the state, from the lane's first element on: a lane has the sum of
// the column of its number, the last bits of `lane`.
template <class T, class C = Compute<T>>
__device__ __forceinline__ C cell_product(const Cell<T>& cell, const C* state, int lane) {
  C sum[kCellColumns] = {};
  FASTDL_UNROLL
  for (int i = 0; i < kCellChunks<T>; ++i) {
    const auto x = *reinterpret_cast<const Pack<C, kChunk<C>>*>(state + i * kCellLanes * kChunk<C>);
    FASTDL_UNROLL
    for (int e = 0; e < kChunk<C>; ++e) FASTDL_UNROLL
    for (int c = 0; c < kCellColumns; ++c) sum[c] += x.v[e] * cell[i][e][c];
  }
  FASTDL_UNROLL
  for (int half = kCellLanes / 2; half > 0; half /= 2) {
    const bool upper = lane & half;
    FASTDL_UNROLL
    for (int c = 0; c < half; ++c) {
      const C other = shuffle_xor(upper ? sum[c] : sum[c + half], half);
      sum[c] = (upper ? sum[c + half] : sum[c]) + other;
    }
  }
  return sum[0];
}

// A block at work: what it computes, its cluster's sequences, its shared memory.
template <class T, class Body, bool kCluster>
struct ResidentBlock {
  using C = Compute<T>;
  const StepTable& table;
  const ResidentPlan& plan;
  Body* body;        // in shared memory: registers are the weights'
  RnnSteps* around;  // the steps of iteration k at k % 4, unless all are alike
  C* shared;
  int rank, group;  // of the cluster's blocks; of the direction's clusters
  bool even;        // whether all steps are alike,
  int even_count;   // with so many of the group's rows

  __device__ __forceinline__ ResidentBlock(const StepTable& table, const ResidentPlan& plan, Body* body,
                                           RnnSteps* around, C* shared)
      : table(table),
        plan(plan),
        body(body),
        around(around),
        shared(shared),
        rank(int(blockIdx.x) % plan.cluster),
        group(int(blockIdx.x) / plan.cluster),
        even(table.even()),
        even_count(plan.count(table.rows[0], group)) {}

  // Exchange e goes to inbox e % 2: while this block waits for a neighbour's values others may have sent
  // theirs of the next exchange already, but none of the one after it, which need this block's.
  __device__ __forceinline__ uint64_t* inbox_of(int exchange) const {
    return reinterpret_cast<uint64_t*>(shared + plan.inbox) + exchange % 2;
  }
  // Until the last of so many exchanges is over. Also before leaving: stores arrive later than their blocks go, and
  // nobody may write to a block that has left.
  __device__ __forceinline__ void wait_for_others(int exchanges) const {
    if (exchanges > 0) inbox_wait(inbox_of(exchanges - 1), uint32_t(exchanges - 1) / 2);
  }
  __device__ __forceinline__ void expect(int exchange, int phase, int rows) const {
    const bool last = phase + 1 == body->products();
    inbox_expect(inbox_of(exchange), uint32_t(rows * body->product[last ? 0 : 1].size * int(sizeof(C))));
  }
  // Rows of the state are read by whole cells.
  __device__ __forceinline__ C* state(int phase, int copy, int r) const {
    const ResidentSlice slice = plan.of(phase);
    return shared + slice.state + ((copy & 1) * plan.rows + r) * slice.parts * kCellSize<T>;
  }
  // Sums of iteration k; who is late may still read those of the one before.
  __device__ __forceinline__ C* sums(int k, int phase) const {
    return shared + plan.sums + ((body->products() == 1 ? k : phase) & 1) * plan.rows * plan.partial;
  }
  // The n-th result of an iteration.
  __device__ __forceinline__ ResidentPlace place_of(int phase, int n) const {
    const int units = plan.of(phase).units, r = n / units;
    return ResidentPlace{r, group + r * plan.groups, n % units, rank * units + n % units};
  }
  __device__ __forceinline__ RnnSteps steps_of(int k) const {
    return even ? table.evenly_around(Body::step(table.steps, k), body->reverse) : around[k & 3];
  }
  // Those of iteration k + 1, of those of k.
  __device__ __forceinline__ RnnSteps following(int k, const RnnSteps& steps) const {
    const int n = Body::step(table.steps, k), m = Body::step(table.steps, k + 1);
    return m > n ? RnnSteps{steps.now, steps.after, table.at(m + 1, body->reverse)}
                 : RnnSteps{table.at(m - 1, body->reverse), steps.before, steps.now};
  }
  // The group's rows of the product, and of the state that it leads to.
  __device__ __forceinline__ ResidentRows rows_of(int k, int phase) const {
    if (!even) {
      const RnnSteps steps = around[k & 3];
      return {plan.count(body->rows(steps, phase), group), plan.count(steps.now.rows, group)};
    }
    if (k < table.steps) return {even_count, even_count};
    return {phase > 0 ? 0 : even_count, 0};  // backward, of the state before the first step
  }

  // What all need before anything else, by all of the block's threads.
  __device__ __forceinline__ void begin(const Body& layer, int threads) const {
    if (threadIdx.x == 0) {
      *body = layer;
      around[0] = table.around(Body::step(table.steps, 0), layer.reverse);
      around[1] = following(0, around[0]);
      if constexpr (kCluster)
        for (int n = 0; n < 2; ++n) inbox_begin(inbox_of(n));
    }
    for (int n = int(threadIdx.x); n < plan.zeros; n += threads) shared[n] = 0;
    sync_threads();
  }
  // Initial states, in both copies (a sequence may begin later), and biases; by so many threads.
  __device__ __forceinline__ void fill(int thread, int threads) const {
    const int size = body->product[0].size;
    for (int n = thread; n < plan.rows * size; n += threads) {
      const int r = n / size, e = n % size, row = group + r * plan.groups;
      if (row < body->batch) *(state(0, 0, r) + e) = *(state(0, 1, r) + e) = widen(body->initial(row, e));
    }
    for (int phase = 0; phase < body->products(); ++phase) {
      const ResidentSlice slice = plan.of(phase);
      for (int n = thread; n < slice.tiles * kCellColumns; n += threads) {
        const int unit = rank * slice.units + n % slice.units;
        shared[slice.bias + n] =
            unit < body->product[phase].units ? body->bias(phase, n / slice.units, unit) : C(0);
      }
    }
  }

  // The thread's weights.
  __device__ __forceinline__ ResidentWork load(Cell<T>& cell) const {
    const int own_cell = int(threadIdx.x) / kCellLanes;
    const int phase = body->products() > 1 && own_cell >= plan.slice[1].first ? 1 : 0;
    const ResidentSlice slice = plan.of(phase);
    const int tile = (own_cell - slice.first) % slice.tiles, part = (own_cell - slice.first) / slice.tiles;
    const int columns = slice.tiles * kCellColumns, column = tile * kCellColumns;
    const bool works = part < slice.parts;  // else it stays with its warp, whose shuffles need all lanes
    load_cell<T>(cell, body->product[phase], column / slice.units,
                 works ? rank * slice.units + column % slice.units : body->product[phase].units,
                 part * kCellSize<T>);
    return {ballot(works) != 0 ? phase : -1,
            (works ? part * kCellSize<T> : 0) + lane_id() % kCellLanes * kChunk<C>,
            works ? part * plan.rows * columns + column + lane_id() % kCellLanes : -1};
  }

  __device__ __forceinline__ void multiply(const Cell<T>& cell, const ResidentWork& work, int k, int phase,
                                           int rows) const {
    if (phase != work.phase) return;
    const ResidentSlice slice = plan.of(phase);
    C* to = sums(k, phase) + work.to;
    const C* from = state(phase, k, 0) + work.from;
    const int lane = work.from / kChunk<C>;  // of its cell, in the last bits: at hand
    FASTDL_ROLLED
    for (int r = 0; r < rows; ++r, to += slice.tiles * kCellColumns, from += slice.parts * kCellSize<T>) {
      const C sum = cell_product<T>(cell, from, lane);
      if (work.to >= 0) *to = sum;
    }
  }

  // What becomes of a product at a place, where `sum` is what is added to each gate's; the new state goes
  // to all who multiply it, in exchange e.
  __device__ __forceinline__ typename Body::Result finish(const RnnSteps& steps, int k, int phase,
                                                          const ResidentPlace& at,
                                                          const typename Body::Item& item, C (&sum)[4],
                                                          int exchange) const {
    const bool last = phase + 1 == body->products();
    const ResidentSlice slice = plan.of(phase);
    const int row_step = slice.tiles * kCellColumns, part_step = plan.rows * row_step;
    const int gates = gates_of(phase);
    const C* from = sums(k, phase) + at.r * row_step + at.column;
    FASTDL_ROLLED
    for (int part = 0; part < slice.parts; part += 2, from += 2 * part_step) {
      const bool two = part + 1 < slice.parts;
      FASTDL_UNROLL
      for (int gate = 0; gate < 4; ++gate) {
        if (gate >= gates) break;
        const C* const first = from + gate * slice.units;
        sum[gate] += first[0] + (two ? first[part_step] : C(0));
      }
    }
    const ClusterRow<T, kCluster> next{state(last ? 0 : 1, last ? k + 1 : k, at.r), plan.cluster,
                                       inbox_of(exchange)};
    return body->finish(steps, phase, at.row, at.unit, item, sum,
                        [&](auto&&... values) { next.put(values...); });
  }
  __device__ __forceinline__ int gates_of(int phase) const {
    return Body::kOneProduct ? body->sum_count() : body->product[phase].gates;
  }
  __device__ __forceinline__ void load_bias(C (&sum)[4], int phase, const ResidentPlace& at) const {
    const ResidentSlice slice = plan.of(phase);
    FASTDL_UNROLL
    for (int gate = 0; gate < 4; ++gate)
      sum[gate] = gate < gates_of(phase) ? shared[slice.bias + gate * slice.units + at.column] : C(0);
  }
};

}  // namespace fastdl::cuda
