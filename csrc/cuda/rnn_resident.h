// All steps of a recurrent layer in one launch, with the recurrent weights in registers: of one block, or of
// the blocks of a cluster, which give each other their results through distributed shared memory.
//
// A cluster has a few sequences of one direction and all units. What a step must take at least, for one
// sequence and a full block (GRU of 128 units in float32: 49152 weights, 192 KiB):
//   weights   from shared memory at 128 bytes a cycle 1536 cycles, for every tile of sequences; from
//             registers none, so a block does with one sequence what FMAs need: 49152 / 128 = 384 cycles
//   state     every thread reads 16 elements, four accesses of 16 bytes: 48 a block, some 200 cycles
//   sums      7 shuffles a warp, partial sums through shared memory, two barriers: some 200 cycles
//   gates     a chain of exp, divide, tanh: some 250 cycles; in a cluster a store to the others and its
//             barrier, some 400 more
// so about 0.5 us, 0.8 in a cluster, and 0.25 more for every other sequence. (What was asked at run time, which
// cell, which rows, cost an H200 2.3 us more: hence kernels for each cell, and no search where all steps are alike.)
//
// Eight lanes hold a cell of the weights, 8 columns (units of one gate) x 128 elements of the sum (96 of
// 16-bit types, 32 of doubles), sixteen elements a lane; they halve the columns among each other as they add,
// until each has the sum of one. A block's 48 cells are tiles of columns times parts of the sum; `finish`
// adds the parts in order. Products of a step that depend on each other have cells in warps of their own.
// Thread (row, unit) finishes the same element in every step, so it may keep what the next one needs. What
// does not depend on the product is fetched, and results are stored, while others multiply. Sequences are
// dealt out in turn: packed ones are of falling length.
#pragma once

#ifdef FASTDL_COMPILED_ONCE
#error "clusters need code for 9.0 of its own: see CMakeLists.txt"
#endif
#include <algorithm>
#include <optional>

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

// Block (x, y): block x % cluster of group x / cluster of sequences, direction y. Blocks that have all
// weights for themselves are instantiations of their own, as registers are what there is least of.
template <class T, class Body, bool kCluster>
__global__ void __launch_bounds__(kResidentThreads, 1)
    rnn_resident(const Directions<Body> layer, const StepTable table, const ResidentPlan plan) {
  using C = Compute<T>;
  if constexpr (kCluster && !kClustersHere) return;
  FASTDL_DYNAMIC_SHARED(C, shared);
  // Registers are the weights': what else is kept from step to step is in shared memory.
  FASTDL_SHARED(Body, own_body, 1);
  FASTDL_SHARED(RnnSteps, around, 4);  // unless all steps are alike
  // Exchange e goes to inbox e % 2: while this block waits for a neighbour's values others may have sent
  // theirs of the next exchange already, but none of the one after it, which need this block's.
  const auto inbox_of = [&](int exchange) {
    return reinterpret_cast<uint64_t*>(shared + plan.inbox) + exchange % 2;
  };
  const auto wait_for_others = [&](int exchange) { inbox_wait(inbox_of(exchange), uint32_t(exchange) / 2); };
  const int iterations = Body::iterations(table.steps);
  if (threadIdx.x == 0) {
    own_body[0] = layer.of[blockIdx.y];
    around[0] = table.around(Body::step(table.steps, 0), own_body[0].reverse);
    if constexpr (kCluster)
      for (int n = 0; n < 2; ++n) inbox_begin(inbox_of(n));
  }
  for (int n = int(threadIdx.x); n < plan.zeros; n += kResidentThreads) shared[n] = 0;
  sync_threads();
  const Body& body = own_body[0];
  const int rank = int(blockIdx.x) % plan.cluster, group = int(blockIdx.x) / plan.cluster;
  // Rows of the state are read by whole cells.
  const auto state = [&](int phase, int copy, int r) {
    const ResidentSlice slice = plan.of(phase);
    return shared + slice.state + ((copy & 1) * plan.rows + r) * slice.parts * kCellSize<T>;
  };
  const int size = body.product[0].size;
  for (int n = int(threadIdx.x); n < plan.rows * size; n += kResidentThreads) {
    const int r = n / size, e = n % size, row = group + r * plan.groups;
    if (row < body.batch) *(state(0, 0, r) + e) = *(state(0, 1, r) + e) = widen(body.initial(row, e));
  }

  for (int phase = 0; phase < body.products(); ++phase) {
    const ResidentSlice slice = plan.of(phase);
    for (int n = int(threadIdx.x); n < slice.tiles * kCellColumns; n += kResidentThreads) {
      const int unit = rank * slice.units + n % slice.units;
      shared[slice.bias + n] =
          unit < body.product[phase].units ? body.bias(phase, n / slice.units, unit) : C(0);
    }
  }

  Cell<T> cell;
  ResidentWork work;
  {
    const int own_cell = int(threadIdx.x) / kCellLanes;
    const int phase = body.products() > 1 && own_cell >= plan.slice[1].first ? 1 : 0;
    const ResidentSlice slice = plan.of(phase);
    const int tile = (own_cell - slice.first) % slice.tiles, part = (own_cell - slice.first) / slice.tiles;
    const int columns = slice.tiles * kCellColumns, column = tile * kCellColumns;
    const bool works = part < slice.parts;  // else it stays with its warp, whose shuffles need all lanes
    work = {ballot(works) != 0 ? phase : -1,
            (works ? part * kCellSize<T> : 0) + lane_id() % kCellLanes * kChunk<C>,
            works ? part * plan.rows * columns + column + lane_id() % kCellLanes : -1};
    load_cell<T>(cell, body.product[phase], column / slice.units,
                 works ? rank * slice.units + column % slice.units : body.product[phase].units,
                 part * kCellSize<T>);
  }

  const bool even = table.even(), reverse = body.reverse;
  const int even_count = plan.count(table.rows[0], group);
  const auto steps_of = [&](int k) {
    return even ? table.evenly_around(Body::step(table.steps, k), reverse) : around[k & 3];
  };
  // The thread's n-th result of an iteration; what it has of the first one stays in registers.
  const auto place_of = [&](int phase, int n) {
    const int units = plan.of(phase).units, r = n / units;
    return ResidentPlace{r, group + r * plan.groups, n % units, rank * units + n % units};
  };
  // From the last warp on: where not all have weights, those that do finish nothing, and multiply meanwhile.
  const int warp_begin = int(threadIdx.x) / 32 * 32;
  const int number = kResidentThreads - 32 - warp_begin + (int(threadIdx.x) - warp_begin);
  const ResidentPlace first = place_of(0, number);
  const auto own_place = [&](int phase) {
    return Body::kOneProduct || phase == 0 ? first : place_of(phase, number);
  };
  typename Body::Item item{};
  typename Body::Result result{};
  // Values on their way would take registers all along the product, which there are not: they go to shared memory.
  // (Two bytes cannot, and 16-bit types leave more registers. A thread's own stores need not be seen by copies:
  // cells with two products read back what they wrote.)
  constexpr bool kAsync = Body::kOneProduct && sizeof(T) == 4;
  FASTDL_SHARED(T, on_their_way, kAsync ? Body::kValues * kResidentThreads : 1);
  const auto own_value = [&](int n) -> T& {
    return on_their_way[kAsync ? n * kResidentThreads + int(threadIdx.x) : 0];
  };
  if constexpr (kAsync) {
    FASTDL_UNROLL
    for (int n = 0; n < Body::kValues; ++n) own_value(n) = T(0.0f);  // some are never there
  }
  const typename Body::Result* const last_result = Body::kOneProduct ? &result : nullptr;
  bool finished = false;  // result is of the iteration before
  // Whether results wait until the block has met and other warps multiply; in a cluster all wait for the others.
  constexpr bool kLater = !kCluster && Body::kOneProduct;
  const auto store = [&](int k, int phase) {
    const ResidentPlace own = own_place(phase);
    if (finished) body.store(steps_of(k), phase, own.row, own.unit, result, Body::kOneProduct);
  };
  if constexpr (kCluster) cluster_sync();
  int exchanges = 0;  // of the cluster, so far: of iterations without a sequence of this group there is none
  for (int k = 0, phase = 0; k < iterations;) {
    const bool last = phase + 1 == body.products();
    if constexpr (!kCluster) sync_threads();
    // What nobody waits for, while other warps have begun to multiply or the others' values are on their way:
    // the results of the iteration before, and what this one needs from memory.
    if (kLater && k > 0) store(k - 1, 0);
    const ResidentPlace own = own_place(phase);
    {
      const RnnSteps steps = steps_of(k);
      [[maybe_unused]] const T* const anywhere = body.product[0].weight;
      finished =
          own.r < plan.rows && own.row < body.rows(steps, phase) && own.unit < body.product[phase].units;
      if (finished) {
        if constexpr (kAsync)
          item.carried = body.load(
              steps, phase, own.row, own.unit,
              [&](int n, const T* from) {
                cp_async_4_or_zeros(&own_value(n), from != nullptr ? from : anywhere, from != nullptr);
              },
              last_result);
        else
          item = load_item(body, steps, phase, own.row, own.unit, last_result);
      }
      if constexpr (kAsync) cp_async_commit();
    }
    int count = even_count, next_count = even_count;  // rows of this product, of the next state
    if (!even) {
      const RnnSteps steps = around[k & 3];
      count = plan.count(body.rows(steps, phase), group), next_count = plan.count(steps.now.rows, group);
      // Some threads may still read the steps of the iteration before.
      const int n = Body::step(table.steps, k), m = Body::step(table.steps, k + 1);
      if (last && threadIdx.x == kResidentThreads - 1)
        around[(k + 1) & 3] = m > n ? RnnSteps{steps.now, steps.after, table.at(m + 1, reverse)}
                                    : RnnSteps{table.at(m - 1, reverse), steps.before, steps.now};
    } else if (k >= table.steps) {  // backward, of the state before the first step
      next_count = 0;
      if (phase > 0) count = 0;
    }
    const ResidentSlice slice = plan.of(phase);
    // Some threads may still read the sums of the iteration before.
    C* const sums = shared + plan.sums + ((body.products() == 1 ? k : phase) & 1) * plan.rows * plan.partial;
    if constexpr (kCluster) {
      const int to_come = exchanges - 1;
      if (next_count > 0) {
        if (threadIdx.x == 0)
          inbox_expect(inbox_of(exchanges),
                       uint32_t(next_count * body.product[last ? 0 : 1].size * int(sizeof(C))));
        ++exchanges;
      }
      if (to_come >= 0) wait_for_others(to_come);
    }
    if (phase == work.phase) {
      C* to = sums + work.to;
      const C* from = state(phase, k, 0) + work.from;
      const int lane = work.from / kChunk<C>;  // of its cell, in the last bits: at hand
      FASTDL_ROLLED
      for (int r = 0; r < count; ++r, to += slice.tiles * kCellColumns, from += slice.parts * kCellSize<T>) {
        const C sum = cell_product<T>(cell, from, lane);
        if (work.to >= 0) *to = sum;
      }
    }
    sync_threads();
    const auto finish = [&](const RnnSteps& steps, const ResidentPlace& at, const typename Body::Item& of) {
      const int row_step = slice.tiles * kCellColumns, part_step = plan.rows * row_step;
      const int gates = Body::kOneProduct ? body.sum_count() : body.product[phase].gates;
      constexpr int kAtOnce = 2;
      C sum[4];
      FASTDL_UNROLL
      for (int gate = 0; gate < 4; ++gate)
        sum[gate] = gate < gates ? shared[slice.bias + gate * slice.units + at.column] : C(0);
      const C* from = sums + at.r * row_step + at.column;
      FASTDL_ROLLED
      for (int part = 0; part < slice.parts; part += kAtOnce, from += kAtOnce * part_step) {
        FASTDL_UNROLL
        for (int gate = 0; gate < 4; ++gate) {
          if (gate >= gates) break;
          C partial[kAtOnce];
          FASTDL_UNROLL
          for (int i = 0; i < kAtOnce; ++i)
            partial[i] = part + i < slice.parts ? from[i * part_step + gate * slice.units] : C(0);
          sum[gate] += partial[0] + partial[1];
        }
      }
      const ClusterRow<T, kCluster> next{state(last ? 0 : 1, last ? k + 1 : k, at.r), plan.cluster,
                                         inbox_of(exchanges - 1)};
      return body.finish(steps, phase, at.row, at.unit, of, sum,
                         [&](auto&&... values) { next.put(values...); });
    };
    if constexpr (kAsync) {
      cp_async_wait<0>();
      FASTDL_UNROLL
      for (int n = 0; n < Body::kValues; ++n) item.value[n] = own_value(n);
    }
    if (finished) result = finish(steps_of(k), own, item);
    if constexpr (!kLater) store(k, phase);
    FASTDL_ROLLED
    for (int n = number + kResidentThreads; n < count * slice.units; n += kResidentThreads) {
      const ResidentPlace at = place_of(phase, n);
      if (at.unit >= body.product[phase].units) continue;
      const RnnSteps steps = steps_of(k);
      body.store(steps, phase, at.row, at.unit,
                 finish(steps, at, load_item(body, steps, phase, at.row, at.unit)));
    }
    phase = last ? 0 : 1;
    k += last;
  }
  if constexpr (kLater) store(iterations - 1, 0);
  // Nobody writes to a block that has left: stores arrive later than their blocks go.
  if (kCluster && exchanges > 0) wait_for_others(exchanges - 1);
}

// The plan with clusters of that many blocks: one sequence each where there are enough of them.
template <class T, class Body>
std::optional<ResidentPlan> resident_plan(const Body& body, int directions, int cluster) {
  using C = Compute<T>;
  // Of a step and its product: cycles apart from the products; of a row, for each warp of a scheduler.
  constexpr double kStep = 1000, kCluster = 1000, kRow = 190;
  ResidentPlan plan{};
  plan.cluster = cluster;
  int cells = 0, row = 0, biases = 0;
  for (int phase = 0; phase < body.products(); ++phase) {
    const StepProduct<T>& product = body.product[phase];
    ResidentSlice& slice = plan.slice[phase];
    if (product.units > kCells * kCellColumns * cluster || product.size > kCells * kCellSize<T> * cluster)
      return std::nullopt;
    slice.units = ((product.units + cluster - 1) / cluster + kCellColumns - 1) / kCellColumns * kCellColumns;
    slice.tiles = product.gates * slice.units / kCellColumns;
    slice.parts = (product.size + kCellSize<T> - 1) / kCellSize<T>;
    slice.first = (cells + kWarpCells - 1) / kWarpCells * kWarpCells;
    cells = slice.first + slice.tiles * slice.parts;
    if (cells > kCells || (cluster - 1) * slice.units >= product.units) return std::nullopt;
    row += 2 * slice.parts * kCellSize<T>;
    biases += slice.tiles * kCellColumns;
    plan.partial = std::max(plan.partial, slice.parts * slice.tiles * kCellColumns);
  }
  const auto kernel = rnn_resident<T, Body, true>;
  const int clusters = cluster == 1 ? multiprocessors() : remembered(kernel, cluster, [&] {
    return resident_clusters(kernel, cluster, kResidentThreads, size_t(shared_memory() - kResidentStatic));
  });
  plan.groups = std::min(body.batch, clusters / directions);
  if (plan.groups == 0) return std::nullopt;
  plan.rows = (body.batch + plan.groups - 1) / plan.groups;
  plan.groups = (body.batch + plan.rows - 1) / plan.rows;
  plan.bytes = (int64_t(plan.rows) * (row + 2 * plan.partial) + biases) * int64_t(sizeof(C)) + 16;
  // launch() asks for more than 48 KiB by the dynamic size alone.
  if (plan.bytes + kResidentStatic > (48 << 10)) plan.bytes = std::max<int64_t>(plan.bytes, (48 << 10) + 16);
  if (plan.bytes > shared_memory() - kResidentStatic) return std::nullopt;
  int at = 0;
  for (int phase = 0; phase < body.products(); ++phase) {
    ResidentSlice& slice = plan.slice[phase];
    slice.state = at;
    at += 2 * plan.rows * slice.parts * kCellSize<T>;
    const int warps = (slice.tiles * slice.parts + kWarpCells - 1) / kWarpCells;
    plan.cycles += kStep + (cluster > 1 ? kCluster : 0) + plan.rows * ((warps + 3) / 4) * kRow;
  }
  plan.zeros = at;
  for (int phase = 0; phase < body.products(); ++phase) {
    plan.slice[phase].bias = at;
    at += plan.slice[phase].tiles * kCellColumns;
  }
  plan.inbox = at;
  plan.sums = at + int(16 / sizeof(C));
  return plan;
}

// The best plan by cycles of a step with clusters of at most that many blocks, if the weights fit.
template <class T, class Body>
std::optional<ResidentPlan> resident_plan_of(const Body& body, int directions, int largest) {
  std::optional<ResidentPlan> best;
  for (int cluster = 1; cluster <= largest; cluster *= 2) {
    const auto plan = resident_plan<T>(body, directions, cluster);
    if (plan && (!best || plan->cycles < best->cycles)) best = plan;
    if (best && best->rows == 1) break;  // more blocks would only meet more slowly
  }
  return best;
}

template <class T, class Body>
void run_resident(const char* name, const Directions<Body>& layer, const StepTable& table,
                  const ResidentPlan& plan, Stream stream) {
  by_kind(layer, [&](const auto& known) {
    using Known = std::remove_cvref_t<decltype(known.of[0])>;
    launch_clusters(name, plan.cluster > 1 ? rnn_resident<T, Known, true> : rnn_resident<T, Known, false>,
                    plan.cluster, dim3(unsigned(plan.groups * plan.cluster), unsigned(known.count)),
                    dim3(kResidentThreads), size_t(plan.bytes), stream, known, table, plan);
  });
}

}  // namespace fastdl::cuda
