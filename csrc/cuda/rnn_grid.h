// All steps of a recurrent layer in one launch of blocks that are all there at once: each keeps its units'
// weights in shared memory for all steps, and between two products the blocks meet.
//
// What a step must take at least, for LSTM, 64 sequences, 512 units, on 132 multiprocessors at 1.7 GHz:
//   weights      2048 x 512: 2 MiB in 16 bits, 4 in float32. 128 blocks hold 16 or 32 KiB each if all have
//                the same sequences, 64 or 128 if there are four groups of 16
//   product      67 M multiply-adds: 2.4 us of FMAs (128 a cycle), 0.5 to 1 us of tensor cores
//   state        every block reads its sequences' h from the second-level cache at some 64 bytes a cycle:
//                64 KiB, 0.6 us for all 64 in 16 bits, 0.15 us for a group of 16
//   meeting      write, signal, see the signal, read: four times the cache's latency, 1 to 2 us
// So a block has 16 sequences (a row tile of mma) and up to 16 units with all of their gates where there are
// blocks enough: less of the state to read, and only the blocks of a group wait for each other. More
// sequences than groups take passes of 16. Thread (row, unit) of a pass finishes the same element in every
// step, so what it wrote itself it may read again, and what does not depend on the product (inputs, saved
// gates, c) is fetched before the wait.
//
// The sum is cut among the warps: each fetches its part of the state's rows into two lines of its own,
// without waiting for other warps, and multiplies it with its part of all columns; the sums of the eight
// parts meet in shared memory and are added in order. Backward is the same with the gates' gradients as the
// state and the transposed weights: a block makes dh of its units, from all gates' gradients, as the other
// way round (its own gates' part of every unit's dh) would need sums between blocks.
#pragma once

#include <algorithm>
#include <optional>

#include "cuda/rnn_layer.h"

namespace fastdl::cuda {

constexpr int kGridThreads = 256, kGridWarps = kGridThreads / 32;
constexpr int kGridRows = 16, kGridUnits = kGridThreads / kGridRows, kGridColumns = 4 * kGridUnits;
constexpr int kGridStep = 32;          // bytes of a line that one step of the tensor cores takes
constexpr int kCounterStep = 128 / 4;  // counters in cache lines of their own
constexpr double kMeeting = 7000;      // cycles of a step apart from products, as an H200 took them

// A block's part of a product's weights: columns in whole tiles of eight; bytes.
struct GridSlice {
  int columns, pitch, at;
};
// How a block's shared memory is used, in bytes: weights of both products, sums of the warps, lines.
struct GridPlan {
  int units;  // of a block
  GridSlice slice[2];
  int sums, sum_step, lines;
  int line_shift;  // a line has 2^line_shift chunks of 16 bytes
  int64_t bytes;
  unsigned blocks, groups;  // of a direction: blocks that share sequences, groups of sequences
  double cycles;            // of a step, estimated, to choose between plans

  // Not by an index: the compiler would copy the plan to memory.
  __device__ __forceinline__ GridSlice of(int phase) const { return phase == 0 ? slice[0] : slice[1]; }
};

// The state on its way to a warp: of each pass and each line of it 16 rows, two lines ahead.
struct WarpLines {
  unsigned char* to;           // the warp's two lines
  const unsigned char* state;  // the warp's part of row 0
  int64_t row_bytes;
  int bytes, shift, pitch;      // of the warp's part; of a line
  int rows, row_step, row, at;  // what comes next
  int copy;

  __device__ __forceinline__ int count(int first) const {
    return rows - first < kGridRows ? rows - first : kGridRows;
  }
  __device__ __forceinline__ void load() {
    if (row < rows) {
      unsigned char* const line = to + copy * kGridRows * pitch;
      for (int n = lane_id(); n < count(row) << shift; n += 32) {
        const int r = n >> shift, c = (n & ((1 << shift) - 1)) * 16;
        if (at + c < bytes) cp_async_16(line + r * pitch + c, state + (row + r) * row_bytes + at + c);
      }
    }
    cp_async_commit();
    copy ^= 1;
    at += 16 << shift;
    if (at >= bytes) at = 0, row += row_step;
  }
};

// A warp's part of a pass: sums[r * step + c] = its elements of state(r) . weight(c).
template <class T, bool kTensor>
__device__ __forceinline__ void warp_product(Compute<T>* sums, int step, WarpLines& lines, int& copy,
                                             const Lines<T>& weight, int columns, int count) {
  using C = Compute<T>;
  constexpr int kPer = int(16 / sizeof(T));
  const int lane = lane_id(), lx = lane % 8, ly = lane / 8, line_bytes = 16 << lines.shift;
  const bool single = count == 1;  // then the four threads of a column share the sum instead
  float fragment[kTensor ? kGridColumns / 8 : 1][4] = {};
  C sum[kTensor ? 1 : 4][kTensor ? 1 : kGridColumns / 8] = {};  // rows ly + 4 i, columns lx + 8 j
  int at = 0;
  do {
    cp_async_wait<1>();
    sync_warp();
    const Lines<T> state{reinterpret_cast<T*>(lines.to + copy * kGridRows * lines.pitch),
                         lines.pitch / int(sizeof(T))};
    const int bytes = lines.bytes - at < line_bytes ? lines.bytes - at : line_bytes;
    if constexpr (kTensor) {
      for (int k = 0; k < bytes / kGridStep; ++k) {
        uint32_t a[1][4];
        load_a<T>(a, state, 0, k);
        FASTDL_UNROLL
        for (int n = 0; n < kGridColumns / 16; ++n) {
          if (16 * n >= columns) break;
          // Weights are rounded already. Columns beyond are the first again, and not used.
          const int column = 16 * n + lane % 8 + lane / 16 * 8;
          uint32_t b[1][4];
          ldmatrix_x4<false>(
              b[0], weight.chunk(column < columns ? column : 0, (at + k * kGridStep) / 16 + lane / 8 % 2));
          multiply_add<T>(fragment[2 * n], a, b, 0);
          if (16 * n + 8 < columns) multiply_add<T>(fragment[2 * n + 1], a, b, 1);
        }
      }
    } else {
      for (int k = single ? ly : 0; k < bytes / 16; k += single ? 4 : 1) {
        Pack<T, kPer> x[4];
        FASTDL_UNROLL
        for (int i = 0; i < 4; ++i)
          if (4 * i < count)
            x[i] = *reinterpret_cast<const Pack<T, kPer>*>(state.chunk(single ? 0 : ly + 4 * i, k));
        FASTDL_UNROLL
        for (int j = 0; j < kGridColumns / 8; ++j) {
          if (8 * j >= columns) break;
          const auto w = *reinterpret_cast<const Pack<T, kPer>*>(weight.chunk(lx + 8 * j, at / 16 + k));
          FASTDL_UNROLL
          for (int i = 0; i < 4; ++i) {
            if (4 * i >= count) break;
            FASTDL_UNROLL
            for (int e = 0; e < kPer; ++e) sum[i][j] += C(widen(x[i].v[e])) * C(widen(w.v[e]));
          }
        }
      }
    }
    sync_warp();  // the line has been read
    lines.load();
    copy ^= 1;
    at += line_bytes;
  } while (at < lines.bytes);
  if constexpr (kTensor) {
    FASTDL_UNROLL
    for (int n = 0; n < kGridColumns / 8; ++n) {
      if (8 * n >= columns) break;
      FASTDL_UNROLL
      for (int h = 0; h < 2; ++h)
        *reinterpret_cast<Pack<float, 2>*>(sums + (lane / 4 + 8 * h) * step + 8 * n +
                                           lane % 4 * 2) = {{fragment[n][2 * h], fragment[n][2 * h + 1]}};
    }
  } else {
    FASTDL_UNROLL
    for (int j = 0; j < kGridColumns / 8; ++j) {
      if (8 * j >= columns) break;
      if (single) {
        sum[0][j] += shuffle_xor(sum[0][j], 8);
        sum[0][j] += shuffle_xor(sum[0][j], 16);
      }
      FASTDL_UNROLL
      for (int i = 0; i < 4; ++i)
        if (ly + 4 * i < count) sums[(ly + 4 * i) * step + lx + 8 * j] = sum[i][j];
    }
  }
}

// A block's columns of a product's weights, zeros beyond; rounded for the tensor cores.
template <class T, bool kTensor>
__device__ __forceinline__ void load_weights(const Lines<T>& to, const StepProduct<T>& product, int columns,
                                             int units, int first_unit) {
  constexpr int kPer = int(16 / sizeof(T));
  const int chunks = to.pitch / kPer - 1;
  for (int n = int(threadIdx.x); n < columns * chunks; n += kGridThreads) {
    const int c = n / chunks, chunk = n % chunks, e = chunk * kPer;
    const int gate = c / units, unit = first_unit + c % units;
    const bool there = gate < product.gates && unit < product.units;
    const T* const from =
        product.weight +
        (there ? (int64_t(gate) * product.units + unit) * product.weight_step + (e < product.size ? e : 0)
               : 0);
    T* const at = to.chunk(c, chunk);
    if (product.async) {
      cp_async_16_or_zeros(at, from, there && e < product.size);
      continue;
    }
    Pack<T, kPer> pack{};
    FASTDL_UNROLL
    for (int i = 0; i < kPer; ++i)
      if (there && e + i < product.size) pack.v[i] = from[i];
    *reinterpret_cast<Pack<T, kPer>*>(at) = pack;
  }
  cp_async_commit();
  cp_async_wait<0>();
  sync_threads();
  if constexpr (kTensor && sizeof(T) == 4) {
    for (int n = int(threadIdx.x); n < columns * chunks; n += kGridThreads) {
      uint32_t words[1][4];
      T* const at = to.chunk(n / chunks, n % chunks);
      memcpy(words, at, 16);
      to_terms<T>(words);
      memcpy(at, words, 16);
    }
    sync_threads();
  }
}

// Block (x, y, z): the x-th of those that share the units, group y of sequences, direction z.
template <class T, bool kTensor, class Body>
__global__ void __launch_bounds__(kGridThreads)
    rnn_grid(const Directions<Body> layer, const StepTable table, const GridPlan plan, uint32_t* counters) {
  using C = Compute<T>;
  FASTDL_DYNAMIC_SHARED(unsigned char, shared);
  const Body& body = layer.of[blockIdx.z];
  counters += (blockIdx.z * gridDim.y + blockIdx.y) * kCounterStep;
  const int warp = int(threadIdx.x) / 32, units = plan.units, first_unit = int(blockIdx.x) * units;
  for (int phase = 0; phase < body.products(); ++phase) {
    const GridSlice slice = plan.of(phase);
    load_weights<T, kTensor>({reinterpret_cast<T*>(shared + slice.at), slice.pitch / int(sizeof(T))},
                             body.product[phase], slice.columns, units, first_unit);
  }
  C* const sums = reinterpret_cast<C*>(shared + plan.sums);
  const int sum_step = plan.sum_step, line_pitch = (16 << plan.line_shift) + 16;
  const int own_row = int(threadIdx.x) / units, own_column = int(threadIdx.x) % units;
  const int first_row = int(blockIdx.y) * kGridRows, row_step = int(gridDim.y) * kGridRows;
  uint32_t met = 0;  // signals of the group when all blocks have come so far
  for (int k = 0; k < Body::iterations(table.steps); ++k) {
    const int n = Body::step(table.steps, k);
    const RnnSteps steps =
        table.even() ? table.evenly_around(n, body.reverse) : table.around(n, body.reverse);
    for (int phase = 0; phase < body.products(); ++phase) {
      const StepProduct<T>& product = body.product[phase];
      const int rows = first_unit < product.units ? body.rows(steps, phase) : 0,
                unit = first_unit + own_column;
      const auto present = [&](int row) {
        return own_row < kGridRows && row + own_row < rows && unit < product.units;
      };
      typename Body::Item item{};
      C bias[4] = {};
      if (present(first_row)) {
        item = load_item(body, steps, phase, first_row + own_row, unit);
        FASTDL_UNROLL
        for (int gate = 0; gate < 4; ++gate)
          if (gate < product.gates) bias[gate] = body.bias(phase, gate, unit);
      }
      if (threadIdx.x == 0) wait_for(counters, met);
      sync_threads();

      const GridSlice slice = plan.of(phase);
      const int all = slice.pitch / kGridStep;  // steps of the sum; the pitch has half of one more
      const int begin = all * warp / kGridWarps * kGridStep;
      WarpLines lines{shared + plan.lines + warp * 2 * kGridRows * line_pitch,
                      reinterpret_cast<const unsigned char*>(body.state(phase, k)) + begin,
                      int64_t(product.pitch) * int64_t(sizeof(T)),
                      all * (warp + 1) / kGridWarps * kGridStep - begin,
                      plan.line_shift,
                      line_pitch,
                      rows,
                      row_step,
                      first_row,
                      0,
                      0};
      const Lines<T> weight{reinterpret_cast<T*>(shared + slice.at + begin), slice.pitch / int(sizeof(T))};
      lines.load();
      lines.load();
      int copy = 0, own = -1;  // the last pass's row
      typename Body::Result result{};
      for (int row = first_row; row < rows; row += row_step) {
        if (row != first_row && present(row)) item = load_item(body, steps, phase, row + own_row, unit);
        warp_product<T, kTensor>(sums + warp * kGridRows * sum_step, sum_step, lines, copy, weight,
                                 slice.columns, lines.count(row));
        sync_threads();
        const bool finishes = present(row), stays = row + row_step >= rows;
        if (finishes) {
          const auto next = body.next(phase, k);
          C sum[4] = {bias[0], bias[1], bias[2], bias[3]};
          FASTDL_UNROLL
          for (int gate = 0; gate < 4; ++gate) {
            if (gate >= product.gates) break;
            FASTDL_UNROLL
            for (int part = 0; part < kGridWarps; ++part)
              sum[gate] += sums[(part * kGridRows + own_row) * sum_step + gate * units + own_column];
          }
          result = body.finish(steps, phase, row + own_row, unit, item, sum,
                               [&](auto&&... values) { next.put(row + own_row, values...); });
          if (!stays) body.store(steps, phase, row + own_row, unit, result);
        }
        if (stays) own = finishes ? row + own_row : -1;
        sync_threads();  // sums have been read, and what the block wrote is complete
      }
      cp_async_wait<0>();
      if (threadIdx.x == 0) signal(counters);
      // What no other block reads need not be there when they go on.
      if (own >= 0) body.store(steps, phase, own, unit, result);
      met += gridDim.x;
    }
  }
}

// The plan with so many units a block: as long lines as fit, if anything does.
template <class T, bool kTensor, class Body>
std::optional<GridPlan> grid_plan(const Body& body, int units) {
  GridPlan plan{};
  plan.units = units;
  int64_t bytes = 0;
  int most = 0, columns = 0, last = 0;
  for (int phase = 0; phase < body.products(); ++phase) {
    const StepProduct<T>& product = body.product[phase];
    const int steps = int((int64_t(product.size) * int64_t(sizeof(T)) + kGridStep - 1) / kGridStep);
    GridSlice& slice = plan.slice[phase];
    slice = {(product.gates * units + 7) / 8 * 8, steps * kGridStep + 16, int(bytes)};
    bytes += int64_t(slice.columns) * slice.pitch;
    if (bytes > shared_memory()) return std::nullopt;
    most = std::max(most, product.units);
    columns = std::max(columns, slice.columns);
    last = std::max(last, (steps + kGridWarps - 1) / kGridWarps);
  }
  plan.blocks = unsigned((most + units - 1) / units);
  plan.sums = int(bytes);
  plan.sum_step = columns / 16 * 16 + 8;  // pairs of four rows are in different banks
  bytes += int64_t(kGridWarps) * kGridRows * plan.sum_step * int64_t(sizeof(Compute<T>));
  plan.lines = int(bytes);
  for (int shift = 5; shift > 0; --shift) {  // 512 to 32 bytes
    const int line = 16 << shift;
    if (shift > 1 && line / 2 >= last * kGridStep) continue;  // half of it is all of a warp's part
    plan.line_shift = shift;
    plan.bytes = bytes + int64_t(kGridWarps) * 2 * kGridRows * (line + 16);
    if (plan.bytes <= shared_memory()) return plan;
  }
  return std::nullopt;
}

// The best plan for so many directions in a launch, by cycles of a step.
template <class T, bool kTensor, class Body>
std::optional<GridPlan> grid_plan_of(const Body& body, int directions) {
  constexpr double kFromShared = 128, kRate = kMultiplyAdds<T, kTensor>;
  const int tiles = (body.batch + kGridRows - 1) / kGridRows;
  const double rows = kTensor ? kGridRows : std::min(body.batch, kGridRows);
  std::optional<GridPlan> best;
  for (int units = kGridUnits; units >= 4; units /= 2) {
    auto plan = grid_plan<T, kTensor>(body, units);
    if (!plan) continue;
    const auto kernel = rnn_grid<T, kTensor, Body>;
    const int resident = remembered(
        kernel, plan->bytes, [&] { return resident_blocks(kernel, kGridThreads, size_t(plan->bytes)); });
    plan->groups = unsigned(std::min(tiles, resident / (int(plan->blocks) * directions)));
    if (plan->groups == 0) continue;
    const int passes = (tiles + int(plan->groups) - 1) / int(plan->groups);
    for (int phase = 0; phase < body.products(); ++phase) {
      const double size = body.product[phase].size, columns = plan->slice[phase].columns;
      // A third of what the units and memories could do, as an H200 had it.
      plan->cycles += kMeeting + 3 * passes * size *
                                     (rows * columns / kRate + columns * sizeof(T) / kFromShared +
                                      rows * sizeof(T) / kFromCache);
    }
    if (!best || plan->cycles < best->cycles) best = plan;
  }
  return best;
}

// The plan for all directions: of both at once, or one after the other where that is less work; cycles of a
// step of all.
struct GridChoice {
  GridPlan plan;
  bool together;
  double cycles;
};
template <class T, bool kTensor, class Body>
std::optional<GridChoice> grid_choice(const Body& body, int directions) {
  const auto one = grid_plan_of<T, kTensor>(body, 1);
  if (!one) return std::nullopt;
  if (directions == 2) {
    const auto both = grid_plan_of<T, kTensor>(body, 2);
    if (both && both->cycles <= 2 * one->cycles) return GridChoice{*both, true, both->cycles};
  }
  return GridChoice{*one, directions == 1, directions * one->cycles};
}

template <class T, bool kTensor, class Body>
void run_grid(const char* name, const Directions<Body>& layer, const StepTable& table, uint32_t* counters,
              const GridChoice& choice, Stream stream) {
  const GridPlan& plan = choice.plan;
  const auto start = [&](const Directions<Body>& part, int first) {
    launch_cooperative(name, rnn_grid<T, kTensor, Body>, dim3(plan.blocks, plan.groups, unsigned(part.count)),
                       dim3(kGridThreads), size_t(plan.bytes), stream, part, table, plan,
                       counters + first * int(plan.groups) * kCounterStep);
  };
  if (choice.together) return start(layer, 0);
  start({{layer.of[0], {}}, 1}, 0);
  start({{layer.of[1], {}}, 1}, 1);
}

}  // namespace fastdl::cuda
