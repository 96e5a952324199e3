// What the kernels of recurrent layers share: a direction of a layer as a step's products and what follows
// them.
//
// A step has one product of the recurrent weights with the state, or two that depend on each other. What a
// product multiplies lies in an exchange buffer of its own: a row for each sequence, padded with zeros to
// whole steps of the tensor cores, and twice, so that a step writes one copy while others still read the
// other. Results that the caller sees are written beside it. A body (rnn_forward.cu, rnn_backward.cu) says
// what becomes of the sums of a row and a unit: `load` fetches what does not depend on them, `finish` does
// the rest. How products are computed, and by how many launches, is up to rnn_step.h, rnn_resident.h and
// rnn_grid.h.
#pragma once

#include "cuda/fragments.h"
#include "cuda/rnn.h"

namespace fastdl::cuda {

// Steps are numbered in the order in which they are computed forward. Backward, `after` is done.
struct RnnStep {
  int rows;
  int64_t start;
};
struct RnnSteps {
  RnnStep before, now, after;
};

// Rows of all steps, as an argument of a kernel. Batches only get smaller: there are at most as many runs of
// equal ones as sequences.
struct StepTable {
  static constexpr int kRuns = 64;
  int steps, runs;
  int end[kRuns], rows[kRuns];  // the step after the run; rows of its steps
  int64_t start[kRuns];         // where step 0 would start if all had as many rows

  __device__ __forceinline__ RnnStep at(int n, bool reverse) const {
    if (n < 0 || n >= steps) return {0, 0};
    const int t = reverse ? steps - 1 - n : n;
    int first = 0, last = runs - 1;
    while (first < last) {
      const int middle = (first + last) / 2;
      if (t < end[middle])
        last = middle;
      else
        first = middle + 1;
    }
    return {rows[first], start[first] + int64_t(t) * rows[first]};
  }
  __device__ __forceinline__ RnnSteps around(int n, bool reverse) const {
    return {at(n - 1, reverse), at(n, reverse), at(n + 1, reverse)};
  }
};

// Sums over `size` elements, for each of `units` units `gates` of them.
template <class T>
struct StepProduct {
  const T* weight;  // of a unit's gate: row gate * units + unit, rows weight_step elements apart
  int64_t weight_step, element_step;  // one of them is 1; element_step but for backward's resident weights
  int gates, units, size;
  bool async;  // whether weights can be read by 16 bytes, along the step of 1
  T* state;    // two copies of a row for each sequence
  int pitch;   // elements between rows

  void read(const T* from) {
    const int64_t line = element_step == 1 ? size : units,
                  step = element_step == 1 ? weight_step : element_step;
    weight = from;
    async = aligned(from, 16) && line * int64_t(sizeof(T)) % 16 == 0 && step * int64_t(sizeof(T)) % 16 == 0;
  }
};

// Rows that a step writes for the next product.
template <class T>
struct NextRows {
  T* data;
  int pitch;
  __device__ __forceinline__ void put(int r, int element, T value) const {
    data[int64_t(r) * pitch + element] = value;
  }
};

template <class T>
struct RnnBody {
  StepProduct<T> product[2];
  int products, batch;
  RnnCell cell;
  int hidden, output;
  bool reverse;
  int64_t all_rows;

  void describe(const RnnProblem& p, bool in_reverse) {
    products = p.cell == RnnCell::gru_before || p.projected() ? 2 : 1;
    batch = int(p.batch()), cell = p.cell, hidden = int(p.hidden), output = int(p.output);
    reverse = in_reverse, all_rows = p.rows();
  }
  __device__ __forceinline__ const T* state(int phase, int k) const {
    return product[phase].state + int64_t(k % 2) * batch * product[phase].pitch;
  }
  // Where iteration k writes what the product after `phase` multiplies.
  __device__ __forceinline__ NextRows<T> next(int phase, int k) const {
    const bool last = phase + 1 == products;
    const StepProduct<T>& to = product[last ? 0 : 1];
    return {to.state + int64_t((last ? k + 1 : k) % 2) * batch * to.pitch, to.pitch};
  }
};

// Both directions of a layer, or one.
template <class Body>
struct Directions {
  Body of[2];
  int count;
};

// For choosing how to launch, by estimates: of a multiprocessor, multiply-adds in a cycle (half of the tensor
// cores' peak) and bytes from the second-level cache.
template <class T, bool kTensor>
constexpr double kMultiplyAdds = sizeof(T) == 2   ? 512
                                 : sizeof(T) == 8 ? 64
                                 : kTensor        ? 256
                                                  : 128;
constexpr double kFromCache = 64;

// A gate's sigmoid: shorter than numeric.h's, and 0 where exp overflows, which is what it rounds to.
template <class C>
__device__ __forceinline__ C gate_sigmoid(C x) {
  return 1 / (1 + std::exp(-x));
}

// Lines of a product's operand, with whole steps of the tensor cores and 16 bytes more: eight lines' chunks
// are in different banks.
template <class T>
struct Lines {
  T* data;
  int pitch;  // elements
  __device__ __forceinline__ T* chunk(int row, int c) const {
    return data + row * pitch + c * int(16 / sizeof(T));
  }
};

}  // namespace fastdl::cuda
