// Recurrent layers forward: what becomes of a step's sums, and where its products find what they multiply.
//
//   all cells but these   sums = W_hh (masked h), then all gates and the new state
//   gru_before            sums for r and z, then r h for the second product; sums = W_hn (r h), then the
//   state projecting LSTM       gates, then m = o tanh(c) for the second product; sums = W_hr m
//
// W_ih x of all rows is there already. c is carried in the type computed in. Saved for backward: gates
// (a plane of N x H each; the GRU's fourth is W_hn h + b_hn) and cells.
#include "cuda/rnn_launch.h"

namespace fastdl::cuda {
namespace {

template <class T>
struct Forward : RnnBody<T> {
  using C = Compute<T>;
  using RnnBody<T>::cell;
  using RnnBody<T>::hidden;
  using RnnBody<T>::output;
  T *y, *h_n, *c_n, *gates, *cells;
  C *carry, *update;
  const T *a, *h0, *c0, *mask, *b_ih, *b_hh;
  int64_t y_step;

  // Of a row and a unit: gates' inputs with their biases, but for W_hh's of the GRU's n; the state before.
  struct Item {
    C input[4], bias, h, carried, mask;
  };

  // Iterations, and the step of the k-th.
  __host__ __device__ __forceinline__ static int iterations(int steps) { return steps; }
  __host__ __device__ __forceinline__ static int step(int, int k) { return k; }
  __host__ __device__ __forceinline__ int rows(const RnnSteps& s, int) const { return s.now.rows; }
  __device__ __forceinline__ T initial(int r, int unit) const {
    const int64_t at = int64_t(r) * output + unit;
    if (h0 == nullptr) return T(0.0f);
    return mask != nullptr ? narrow<T>(C(widen(h0[at])) * C(widen(mask[at]))) : h0[at];
  }

  __device__ __forceinline__ Item load(const RnnSteps& s, int phase, int r, int unit) const {
    const int count = cell == RnnCell::lstm ? 4 : cell >= RnnCell::gru ? 3 : 1;
    const int64_t at = int64_t(r) * hidden + unit, state = int64_t(r) * output + unit;
    Item x{};
    const bool projects = phase == 1 && cell == RnnCell::lstm;
    FASTDL_UNROLL
    for (int gate = 0; gate < 4; ++gate) {
      const bool later = cell == RnnCell::gru_before && (gate == 2) != (phase == 1);
      if (gate >= count || later || projects) continue;
      x.input[gate] = widen(a[(s.now.start + r) * count * hidden + gate * hidden + unit]);
      if (b_hh == nullptr) continue;
      x.input[gate] += widen(b_ih[gate * hidden + unit]);
      const C bias = widen(b_hh[gate * hidden + unit]);
      if (cell == RnnCell::gru && gate == 2)
        x.bias = bias;
      else
        x.input[gate] += bias;
    }
    if (cell == RnnCell::gru || cell == RnnCell::gru_before) {
      if (r < s.before.rows)
        x.h = widen(y[(s.before.start + r) * y_step + unit]);
      else if (h0 != nullptr)
        x.h = widen(h0[state]);
      if (phase == 1) x.carried = update[at];
    }
    if (cell == RnnCell::lstm && phase == 0) {
      if (r < s.before.rows)
        x.carried = carry[at];
      else if (c0 != nullptr)
        x.carried = widen(c0[at]);
    }
    if (mask != nullptr && phase + 1 == this->products) x.mask = widen(mask[state]);
    return x;
  }

  __device__ __forceinline__ void emit(const RnnSteps& s, int r, int unit, const Item& x, C h,
                                       const NextRows<T>& next) const {
    const T value = narrow<T>(h);
    y[(s.now.start + r) * y_step + unit] = value;
    if (r >= s.after.rows) h_n[int64_t(r) * output + unit] = value;  // the sequence's last step
    next.at(r, unit) = mask != nullptr ? narrow<T>(C(widen(value)) * x.mask) : value;
  }
  __device__ __forceinline__ void keep(const RnnSteps& s, int gate, int r, int unit, C value) const {
    if (gates != nullptr) gates[(gate * this->all_rows + s.now.start + r) * hidden + unit] = narrow<T>(value);
  }

  // sum(gate) is the product of row r for `unit`.
  template <class Sum>
  __device__ __forceinline__ void finish(const RnnSteps& s, int phase, int r, int unit, const Item& x,
                                         Sum sum, const NextRows<T>& next) const {
    const int64_t at = int64_t(r) * hidden + unit;
    switch (cell) {
      case RnnCell::tanh:
        return emit(s, r, unit, x, std::tanh(x.input[0] + sum(0)), next);
      case RnnCell::relu: {
        const C v = x.input[0] + sum(0);
        return emit(s, r, unit, x, v > 0 || v != v ? v : C(0), next);
      }
      case RnnCell::lstm: {
        if (phase == 1) return emit(s, r, unit, x, sum(0), next);
        const C i = sigmoid(x.input[0] + sum(0)), f = sigmoid(x.input[1] + sum(1));
        const C g = std::tanh(x.input[2] + sum(2)), o = sigmoid(x.input[3] + sum(3));
        const C c = f * x.carried + i * g, m = o * std::tanh(c);
        carry[at] = c;
        if (r >= s.after.rows) c_n[at] = narrow<T>(c);
        keep(s, 0, r, unit, i), keep(s, 1, r, unit, f), keep(s, 2, r, unit, g), keep(s, 3, r, unit, o);
        if (cells != nullptr) cells[(s.now.start + r) * hidden + unit] = narrow<T>(c);
        if (this->products == 1) return emit(s, r, unit, x, m, next);
        next.at(r, unit) = narrow<T>(m);
        return;
      }
      case RnnCell::gru: {
        const C reset = sigmoid(x.input[0] + sum(0)), z = sigmoid(x.input[1] + sum(1));
        const C q = sum(2) + x.bias, n = std::tanh(x.input[2] + reset * q);
        keep(s, 0, r, unit, reset), keep(s, 1, r, unit, z), keep(s, 2, r, unit, n), keep(s, 3, r, unit, q);
        return emit(s, r, unit, x, (1 - z) * n + z * x.h, next);
      }
      case RnnCell::gru_before: {
        if (phase == 0) {
          const C reset = sigmoid(x.input[0] + sum(0)), z = sigmoid(x.input[1] + sum(1));
          keep(s, 0, r, unit, reset), keep(s, 1, r, unit, z);
          update[at] = z;
          next.at(r, unit) = narrow<T>(reset * x.h);
          return;
        }
        const C n = std::tanh(x.input[2] + sum(0)), z = x.carried;
        keep(s, 2, r, unit, n);
        return emit(s, r, unit, x, (1 - z) * x.h + z * n, next);
      }
    }
  }
};

}  // namespace

int64_t rnn_scratch(Dtype dtype, const RnnProblem& p, bool backward) {
  const int64_t item = dtype == Dtype::float64 ? 8 : dtype == Dtype::float32 ? 4 : 2;
  return RnnScratch(item, p, backward).bytes(p.directions);
}

void rnn_forward(Dtype dtype, const RnnProblem& p, const std::vector<RnnForward>& directions, void* scratch,
                 bool tf32, RnnLaunches launches, Stream stream) {
  by_dtype_and_unit(dtype, tf32, [&]<class T, class Tensor>(T, Tensor) {
    using C = Compute<T>;
    const auto in = [](const void* x) { return static_cast<const T*>(x); };
    const auto out = [](void* x) { return static_cast<T*>(x); };
    const int H = int(p.hidden), P = int(p.output), gates = int(p.gates());
    const bool before = p.cell == RnnCell::gru_before;
    Directions<Forward<T>> layer{};
    for (const RnnForward& f : directions) {
      Forward<T>& body = layer.of[layer.count];
      const auto product = [&](const T* weight, int gates, int units, int size) {
        return StepProduct<T>{weight,  size, gates, units, size, packed(weight, size, size, sizeof(T)),
                              nullptr, 0};
      };
      body.product[0] = product(in(f.w_hh), before ? 2 : gates, H, P);
      if (before)
        body.product[1] = product(in(f.w_hh) + 2 * p.hidden * P, 1, H, H);
      else
        body.product[1] = product(in(f.w_hr), 1, P, H);
      body.products = before || p.projected() ? 2 : 1;
      body.batch = int(p.batch()), body.cell = p.cell, body.hidden = H, body.output = P;
      body.reverse = layer.count == 1, body.all_rows = p.rows();
      body.y = out(f.y), body.h_n = out(f.h_n), body.c_n = out(f.c_n);
      body.gates = out(f.gates), body.cells = out(f.cells);
      body.carry = static_cast<C*>(f.carry), body.update = static_cast<C*>(f.update);
      body.a = in(f.a), body.h0 = in(f.h0), body.c0 = in(f.c0), body.mask = in(f.mask),
      body.b_ih = in(f.b_ih), body.b_hh = in(f.b_hh);
      body.y_step = f.y_step;
      ++layer.count;
    }
    run_layer<T, Tensor::value>("rnn", p, layer, false, scratch, launches, stream);
  });
}

}  // namespace fastdl::cuda
