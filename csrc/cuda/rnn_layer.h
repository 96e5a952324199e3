// What the kernels of recurrent layers share: a direction of a layer as a step's products and what follows
// them.
//
// A step has one product of the recurrent weights with the state, or two that depend on each other. What a
// product multiplies lies in an exchange buffer of its own: a row for each sequence, padded with zeros to
// whole steps of the tensor cores, and twice, so that a step writes one copy while others still read the
// other. Results that the caller sees are written beside it. A body (rnn_forward.cu, rnn_backward.cu) says
// what becomes of the sums of a row and a unit: `load` fetches what does not depend on them, `finish` computes
// and gives what the next product multiplies, `store` writes what the caller gets, for which nobody waits. How
// products are computed, and by how many launches, is up to rnn_step.h, rnn_resident.h and rnn_grid.h.
#pragma once

#include <bit>
#include <map>
#include <mutex>
#include <tuple>

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

// What a kernel knows of its cell when it is compiled: nothing, or that it is tanh or relu, or the only one. All
// but `any` have one product. A step is a chain of dependent instructions, and what need not be asked shortens it.
enum class CellKind : int { any, simple, lstm, gru };

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
  // The same where all steps have as many rows: without a search.
  __device__ __forceinline__ bool even() const { return runs == 1; }
  __device__ __forceinline__ RnnSteps evenly_around(int n, bool reverse) const {
    const auto step = [&](int m) -> RnnStep {
      if (m < 0 || m >= steps) return {0, 0};
      return {rows[0], int64_t(reverse ? steps - 1 - m : m) * rows[0]};
    };
    return {step(n - 1), step(n), step(n + 1)};
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
  // values[n] is element first + n step of row r.
  template <int kCount>
  __device__ __forceinline__ void put(int r, int first, int step, int count,
                                      const T (&values)[kCount]) const {
    T* const to = data + int64_t(r) * pitch + first;
    FASTDL_UNROLL
    for (int n = 0; n < kCount; ++n)
      if (n < count) to[n * step] = values[n];
  }
};

template <class T, CellKind kKind>
struct RnnBody {
  StepProduct<T> product[2];
  int all_products, batch;
  RnnCell cell;
  int hidden, output;
  bool reverse;
  int64_t all_rows;

  void describe(const RnnProblem& p, bool in_reverse) {
    all_products = p.cell == RnnCell::gru_before || p.projected() ? 2 : 1;
    batch = int(p.batch()), cell = p.cell, hidden = int(p.hidden), output = int(p.output);
    reverse = in_reverse, all_rows = p.rows();
  }
  static constexpr bool kOneProduct = kKind != CellKind::any;
  // Places of elements, of which kernels that know their cell have fewer than 2^31.
  using Offset = std::conditional_t<kOneProduct, int, int64_t>;
  __host__ __device__ __forceinline__ int products() const { return kOneProduct ? 1 : all_products; }
  __host__ __device__ __forceinline__ bool is(RnnCell other) const {
    if constexpr (kKind == CellKind::lstm) return other == RnnCell::lstm;
    if constexpr (kKind == CellKind::gru) return other == RnnCell::gru;
    return (kKind == CellKind::any || other <= RnnCell::relu) && cell == other;
  }
  __host__ __device__ __forceinline__ bool is_simple() const {
    return kKind == CellKind::simple || (kKind == CellKind::any && cell <= RnnCell::relu);
  }
  __host__ __device__ __forceinline__ bool is_gru() const {
    return is(RnnCell::gru) || is(RnnCell::gru_before);
  }
  __host__ __device__ __forceinline__ int gate_count() const {
    return is(RnnCell::lstm) ? 4 : is_simple() ? 1 : 3;
  }
  __device__ __forceinline__ const T* state(int phase, int k) const {
    return product[phase].state + int64_t(k % 2) * batch * product[phase].pitch;
  }
  // Where iteration k writes what the product after `phase` multiplies.
  __device__ __forceinline__ NextRows<T> next(int phase, int k) const {
    const bool last = phase + 1 == products();
    const StepProduct<T>& to = product[last ? 0 : 1];
    return {to.state + int64_t((last ? k + 1 : k) % 2) * batch * to.pitch, to.pitch};
  }
};

// What a body's load() takes from memory, at once. Its `take` gets the number of a value, its array and place there,
// and whether it is there; zero otherwise.
template <class Body>
__device__ __forceinline__ typename Body::Item load_item(const Body& body, const RnnSteps& s, int phase,
                                                         int r, int unit,
                                                         const typename Body::Result* last = nullptr) {
  typename Body::Item x{};
  x.carried = body.load(
      s, phase, r, unit,
      [&x](int n, const auto* array, auto at, bool there) {
        if (there) x.value[n] = array[at];
      },
      last);
  return x;
}

// Both directions of a layer, or one.
template <class Body>
struct Directions {
  Body of[2];
  int count;

  // For a kernel that knows more of the cell, which is no data.
  template <CellKind kKind>
  auto as() const {
    return std::bit_cast<Directions<typename Body::template As<kKind>>>(*this);
  }
};

// f(the layer for kernels that know its cell); those of doubles do not.
template <class Body, class F>
void by_kind(const Directions<Body>& layer, F&& f) {
  const Body& body = layer.of[0];
  if constexpr (sizeof(typename Body::C) == 4) {
    if (body.products() == 1 && body.elements() <= INT32_MAX) {
      if (body.is_simple()) return f(layer.template as<CellKind::simple>());
      if (body.is(RnnCell::lstm)) return f(layer.template as<CellKind::lstm>());
      return f(layer.template as<CellKind::gru>());
    }
  }
  f(layer);
}

// What a device says of a kernel that wants `size` of something: asked once, as it takes tens of microseconds.
template <class... P, class Ask>
int remembered(void (*kernel)(P...), int64_t size, Ask&& ask) {
  static std::mutex guard;
  static std::map<std::tuple<void (*)(P...), int64_t, int, int, int64_t>, int> known;
  const std::tuple key(kernel, size, capability(), multiprocessors(), shared_memory());
  const std::lock_guard lock(guard);
  const auto found = known.find(key);
  return found != known.end() ? found->second : known.emplace(key, ask()).first->second;
}

// For choosing how to launch, by estimates: of a multiprocessor, multiply-adds in a cycle (half of the tensor
// cores' peak) and bytes from the second-level cache.
template <class T, bool kTensor>
constexpr double kMultiplyAdds = sizeof(T) == 2   ? 512
                                 : sizeof(T) == 8 ? 64
                                 : kTensor        ? 256
                                                  : 128;
constexpr double kFromCache = 64;

// A gate's sigmoid: shorter than numeric.h's, and 0 where exp overflows, which is what it rounds to. Exact
// division has a branch for every range of numbers; this one is a unit in the last place away.
template <class C>
__device__ __forceinline__ C gate_sigmoid(C x) {
  if constexpr (sizeof(C) == 4)
    return reciprocal_approximate(1 + std::exp(-x));
  else
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
