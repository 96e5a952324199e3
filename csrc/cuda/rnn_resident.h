// All steps of a recurrent layer in one launch, where the recurrent weights fit into a block's shared memory.
//
// A block has a few sequences and all units. Its weights come to shared memory once, the state (backward: the
// gates' gradients) stays there between steps; only inputs and results of a step pass through global memory.
// So a step costs about a microsecond instead of a launch, and blocks need not wait for each other. For cells
// with one product in a step.
#pragma once

#include "cuda/rnn_layer.h"

namespace fastdl::cuda {

constexpr int kResidentThreads = 256;
template <bool kTensor>
constexpr int kResidentRows = kTensor ? 16 : 8;

// sums[r * step + c] = state(r) . weight(c) for all columns of the first `rows` rows.
template <class T, bool kTensor>
__device__ __forceinline__ void resident_product(Compute<T>* sums, int step, const Lines<T>& state,
                                                 const Lines<T>& weight, int columns, int size, int rows) {
  using C = Compute<T>;
  constexpr int kPer = int(16 / sizeof(T));
  if constexpr (kTensor) {
    const int steps = (size + kStepSize<T> - 1) / kStepSize<T>;
    for (int n = int(threadIdx.x) / 32 * 16; n < columns; n += kResidentThreads / 32 * 16) {
      float sum[2][4] = {};
      for (int k = 0; k < steps; ++k) {
        uint32_t a[4], b[4];
        load_a<T>(a, state, 0, k);
        load_b<T>(b, weight, n, k);
        multiply_add<T>(sum[0], a, b[0], b[1]);
        multiply_add<T>(sum[1], a, b[2], b[3]);
      }
      FASTDL_UNROLL
      for (int j = 0; j < 2; ++j) FASTDL_UNROLL
      for (int c = 0; c < 4; ++c)
        sums[(c / 2 * 8 + lane_id() / 4) * step + n + 8 * j + lane_id() % 4 * 2 + c % 2] = sum[j][c];
    }
  } else {
    constexpr int kWidth = kResidentThreads / 2;  // two threads share a column, four rows each
    const int first = int(threadIdx.x) / kWidth * 4, packs = (size + kPer - 1) / kPer;
    for (int c = int(threadIdx.x) % kWidth; c < columns && first < rows; c += 2 * kWidth) {
      const int other = c + kWidth < columns ? c + kWidth : c;
      C sum[4][2] = {};
      for (int k = 0; k < packs; ++k) {
        const auto w0 = *reinterpret_cast<const Pack<T, kPer>*>(weight.chunk(c, k));
        const auto w1 = *reinterpret_cast<const Pack<T, kPer>*>(weight.chunk(other, k));
        FASTDL_UNROLL
        for (int r = 0; r < 4; ++r) {
          if (first + r >= rows) break;
          const auto x = *reinterpret_cast<const Pack<T, kPer>*>(state.chunk(first + r, k));
          FASTDL_UNROLL
          for (int e = 0; e < kPer; ++e) {
            sum[r][0] += C(widen(x.v[e])) * C(widen(w0.v[e]));
            sum[r][1] += C(widen(x.v[e])) * C(widen(w1.v[e]));
          }
        }
      }
      FASTDL_UNROLL
      for (int r = 0; r < 4; ++r) {
        sums[(first + r) * step + c] = sum[r][0];
        sums[(first + r) * step + other] = c == other ? sum[r][0] : sum[r][1];
      }
    }
  }
}

// Sizes of a block's shared memory, for the host and the kernel.
template <class T, bool kTensor>
struct ResidentPlan {
  int columns, size, units;  // of the product; columns of `finish`
  int padded, pitch, sum_step;

  ResidentPlan(int columns, int size, int units)
      : columns(columns),
        size(size),
        units(units),
        padded((columns + 15) / 16 * 16),
        pitch((size + kStepSize<T> - 1) / kStepSize<T> * kStepSize<T> + int(16 / sizeof(T))),
        sum_step(padded + 2) {}
  int64_t bytes() const {
    const int64_t rows = kResidentRows<kTensor>;
    return int64_t(sizeof(Compute<T>)) * rows * sum_step + int64_t(sizeof(T)) * (padded + rows) * pitch;
  }
};

template <class T, bool kTensor, class Body>
__global__ void __launch_bounds__(kResidentThreads)
    rnn_resident(const Directions<Body> layer, const StepTable table, ResidentPlan<T, kTensor> plan) {
  using C = Compute<T>;
  constexpr int kCount = kResidentRows<kTensor>;
  FASTDL_DYNAMIC_SHARED(unsigned char, shared);
  const Body& body = layer.of[blockIdx.y];
  const StepProduct<T>& product = body.product[0];
  C* const sums = reinterpret_cast<C*>(shared);
  const Lines<T> weight{reinterpret_cast<T*>(sums + kCount * plan.sum_step), plan.pitch};
  const Lines<T> state{weight.data + plan.padded * plan.pitch, plan.pitch};
  const int first_row = int(blockIdx.x) * kCount;
  for (int n = int(threadIdx.x); n < plan.padded * plan.pitch; n += kResidentThreads) {
    const int c = n / plan.pitch, e = n % plan.pitch;
    weight.data[n] =
        c < plan.columns && e < plan.size ? product.weight[int64_t(c) * product.weight_step + e] : T(0.0f);
  }
  for (int n = int(threadIdx.x); n < kCount * plan.pitch; n += kResidentThreads) {
    const int r = n / plan.pitch, e = n % plan.pitch;
    state.data[n] = first_row + r < body.batch && e < plan.size ? body.initial(first_row + r, e) : T(0.0f);
  }
  const NextRows<T> next{state.data, first_row, plan.pitch};
  for (int k = 0; k < Body::iterations(table.steps); ++k) {
    const RnnSteps steps = table.around(Body::step(table.steps, k), body.reverse);
    const int all = body.rows(steps, 0);
    const int rows = all - first_row < kCount ? all - first_row : kCount;
    sync_threads();  // the state is complete
    resident_product<T, kTensor>(sums, plan.sum_step, state, weight, plan.columns, plan.size, rows);
    sync_threads();
    for (int n = int(threadIdx.x); n < rows * plan.units; n += kResidentThreads) {
      const int r = n / plan.units, unit = n % plan.units;
      const auto item = body.load(steps, 0, first_row + r, unit);
      body.finish(
          steps, 0, first_row + r, unit, item,
          [&](int gate) { return sums[r * plan.sum_step + gate * plan.units + unit]; }, next);
    }
  }
}

// Starts the kernel, if the weights fit.
template <class T, bool kTensor, class Body>
bool run_resident(const char* name, const Directions<Body>& layer, const StepTable& table, Stream stream) {
  const Body& body = layer.of[0];
  const StepProduct<T>& product = body.product[0];
  const ResidentPlan<T, kTensor> plan(product.gates * product.units, product.size, product.units);
  if (body.products > 1 || plan.bytes() > shared_memory()) return false;
  constexpr int kCount = kResidentRows<kTensor>;
  launch(name, rnn_resident<T, kTensor, Body>,
         dim3(unsigned((body.batch + kCount - 1) / kCount), unsigned(layer.count)), dim3(kResidentThreads),
         size_t(plan.bytes()), stream, layer, table, plan);
  return true;
}

}  // namespace fastdl::cuda
