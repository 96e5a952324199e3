// Recurrent layers forward: what becomes of a step's sums, and where its products find what they multiply.
//
//   all cells but these   sums = W_hh (masked h), then all gates and the new state
//   gru_before            sums for r and z, then r h for the second product; sums = W_hn (r h), then the state
//   projecting LSTM       gates, then m = o tanh(c) for the second product; sums = W_hr m
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

  // Of a row and a unit: gates' inputs, b_ih of the GRU's n, the state before. As they come from memory:
  // nothing waits for them before the product.
  struct Item {
    T input[4], bias, h, mask;
    C carried;
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
      if (gate < count && !later && !projects)
        x.input[gate] = a[(s.now.start + r) * count * hidden + gate * hidden + unit];
    }
    if (cell == RnnCell::gru && b_ih != nullptr) x.bias = b_ih[2 * hidden + unit];
    if (cell == RnnCell::gru || cell == RnnCell::gru_before) {
      if (r < s.before.rows)
        x.h = y[(s.before.start + r) * y_step + unit];
      else if (h0 != nullptr)
        x.h = h0[state];
      if (phase == 1) x.carried = update[at];
    }
    if (cell == RnnCell::lstm && phase == 0) {
      if (r < s.before.rows)
        x.carried = carry[at];
      else if (c0 != nullptr)
        x.carried = widen(c0[at]);
    }
    if (mask != nullptr && phase + 1 == this->products) x.mask = mask[state];
    return x;
  }

  template <class Next>
  __device__ __forceinline__ void emit(const RnnSteps& s, int r, int unit, const Item& x, C h,
                                       const Next& next) const {
    const T value = narrow<T>(h);
    y[(s.now.start + r) * y_step + unit] = value;
    if (r >= s.after.rows) h_n[int64_t(r) * output + unit] = value;  // the sequence's last step
    next.put(r, unit, mask != nullptr ? narrow<T>(C(widen(value)) * widen(x.mask)) : value);
  }
  __device__ __forceinline__ void keep(const RnnSteps& s, int gate, int r, int unit, C value) const {
    if (gates != nullptr) gates[(gate * this->all_rows + s.now.start + r) * hidden + unit] = narrow<T>(value);
  }

  // What is added to a product: both biases, but W_hh's alone for the GRU's n.
  __device__ __forceinline__ C bias(int phase, int gate, int unit) const {
    if (b_hh == nullptr || (cell == RnnCell::lstm && phase == 1)) return 0;
    const int at = (cell == RnnCell::gru_before && phase == 1 ? 2 : gate) * hidden + unit;
    const C b = widen(b_hh[at]);
    return cell == RnnCell::gru && gate == 2 ? b : C(widen(b_ih[at])) + b;
  }

  // sum(gate) is the product of row r for `unit`, and its bias.
  template <class Sum, class Next>
  __device__ __forceinline__ void finish(const RnnSteps& s, int phase, int r, int unit, const Item& x,
                                         Sum sum, const Next& next) const {
    const int64_t at = int64_t(r) * hidden + unit;
    const auto input = [&x](int gate) { return C(widen(x.input[gate])); };
    switch (cell) {
      case RnnCell::tanh:
        return emit(s, r, unit, x, std::tanh(input(0) + sum(0)), next);
      case RnnCell::relu: {
        const C v = input(0) + sum(0);
        return emit(s, r, unit, x, v > 0 || v != v ? v : C(0), next);
      }
      case RnnCell::lstm: {
        if (phase == 1) return emit(s, r, unit, x, sum(0), next);
        const C i = gate_sigmoid(input(0) + sum(0)), f = gate_sigmoid(input(1) + sum(1));
        const C g = std::tanh(input(2) + sum(2)), o = gate_sigmoid(input(3) + sum(3));
        const C c = f * x.carried + i * g, m = o * std::tanh(c);
        carry[at] = c;
        if (r >= s.after.rows) c_n[at] = narrow<T>(c);
        keep(s, 0, r, unit, i), keep(s, 1, r, unit, f), keep(s, 2, r, unit, g), keep(s, 3, r, unit, o);
        if (cells != nullptr) cells[(s.now.start + r) * hidden + unit] = narrow<T>(c);
        if (this->products == 1) return emit(s, r, unit, x, m, next);
        next.put(r, unit, narrow<T>(m));
        return;
      }
      case RnnCell::gru: {
        const C reset = gate_sigmoid(input(0) + sum(0)), z = gate_sigmoid(input(1) + sum(1));
        const C q = sum(2), n = std::tanh(input(2) + C(widen(x.bias)) + reset * q);
        keep(s, 0, r, unit, reset), keep(s, 1, r, unit, z), keep(s, 2, r, unit, n), keep(s, 3, r, unit, q);
        return emit(s, r, unit, x, (1 - z) * n + z * C(widen(x.h)), next);
      }
      case RnnCell::gru_before: {
        if (phase == 0) {
          const C reset = gate_sigmoid(input(0) + sum(0)), z = gate_sigmoid(input(1) + sum(1));
          keep(s, 0, r, unit, reset), keep(s, 1, r, unit, z);
          update[at] = z;
          next.put(r, unit, narrow<T>(reset * C(widen(x.h))));
          return;
        }
        const C n = std::tanh(input(2) + sum(0)), z = x.carried;
        keep(s, 2, r, unit, n);
        return emit(s, r, unit, x, (1 - z) * C(widen(x.h)) + z * n, next);
      }
    }
  }
};

// What the problem says of a direction; W_hh is (gates x H) x P, W_hr P x H.
template <class T>
Forward<T> described(const RnnProblem& p, bool reverse) {
  const bool before = p.cell == RnnCell::gru_before;
  const auto product = [](int64_t gates, int64_t units, int64_t size) {
    return StepProduct<T>{nullptr, size, 1, int(gates), int(units), int(size), false, nullptr, 0};
  };
  Forward<T> body{};
  body.product[0] = product(before ? 2 : p.gates(), p.hidden, p.output);
  body.product[1] = product(1, before ? p.hidden : p.output, p.hidden);
  body.describe(p, reverse);
  return body;
}

}  // namespace

int64_t rnn_forward_scratch(Dtype dtype, const RnnProblem& p, bool tf32, RnnLaunches launches) {
  int64_t bytes = 0;
  by_dtype_and_unit(dtype, tf32, [&]<class T, class Tensor>(T, Tensor) {
    if (!resident_way<T, Tensor::value>(described<T>(p, false), p, launches))
      bytes = RnnScratch(sizeof(T), p, false).bytes(p.directions);
  });
  return bytes;
}

void rnn_forward(Dtype dtype, const RnnProblem& p, const std::vector<RnnForward>& directions, void* scratch,
                 bool tf32, RnnLaunches launches, Stream stream) {
  by_dtype_and_unit(dtype, tf32, [&]<class T, class Tensor>(T, Tensor) {
    using C = Compute<T>;
    const auto in = [](const void* x) { return static_cast<const T*>(x); };
    const auto out = [](void* x) { return static_cast<T*>(x); };
    Directions<Forward<T>> layer{};
    for (const RnnForward& f : directions) {
      Forward<T>& body = layer.of[layer.count];
      body = described<T>(p, layer.count == 1);
      body.product[0].read(in(f.w_hh));
      body.product[1].read(p.projected() ? in(f.w_hr) : in(f.w_hh) + 2 * p.hidden * p.output);
      body.y = out(f.y), body.h_n = out(f.h_n), body.c_n = out(f.c_n);
      body.gates = out(f.gates), body.cells = out(f.cells);
      body.carry = static_cast<C*>(f.carry), body.update = static_cast<C*>(f.update);
      body.a = in(f.a), body.h0 = in(f.h0), body.c0 = in(f.c0), body.mask = in(f.mask),
      body.b_ih = in(f.b_ih), body.b_hh = in(f.b_hh);
      body.y_step = f.y_step;
      ++layer.count;
    }
    const auto plan = resident_way<T, Tensor::value>(layer.of[0], p, launches);
    run_layer<T, Tensor::value>("rnn", p, layer, false, scratch, plan, launches, stream);
  });
}

}  // namespace fastdl::cuda
