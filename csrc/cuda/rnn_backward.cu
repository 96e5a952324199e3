// Recurrent layers back through time: what becomes of a step's sums, and what its products multiply.
//
//   all cells         sums = W_hh^T (gradients of the step after), which makes the gradient of h complete;
//                     then the gradients of this step's gates
//   gru_before        the first product with r's and z's rows of W_hh only; then sums = W_hn^T (n's gradients)
//   projecting LSTM   the gradient of h for the second product; sums = W_hr^T of it, then the gates
//
// Steps run from the last to the first, and once more for the state before. Gates' gradients of all rows stay
// in memory, and so does the (masked) state before each row: gradients of weights, biases and inputs are
// products over all rows afterwards, the caller's. The gradient of c, and the part of h's that does not pass
// through W_hh, are carried in the type computed in.
#include "cuda/rnn_launch.h"

namespace fastdl::cuda {
namespace {

template <class T, CellKind kKind = CellKind::any>
struct Backward : RnnBody<T, kKind> {
  using C = Compute<T>;
  template <CellKind kOther>
  using As = Backward<T, kOther>;
  using RnnBody<T, kKind>::is;
  using RnnBody<T, kKind>::hidden;
  using RnnBody<T, kKind>::output;
  T *grad_a, *grad_b, *grad_h0;
  C *cell_sum, *direct, *sum;
  T *states, *reset, *grad_output, *projected;
  const T *grad_y, *grad_h_n, *grad_c_n, *y, *gates, *cells, *h0, *c0, *mask;
  int64_t grad_y_step, y_step;

  using Offset = typename RnnBody<T, kKind>::Offset;
  // Of the longest array.
  int64_t elements() const { return this->all_rows * std::max({int64_t(4 * hidden), grad_y_step, y_step}); }

  // Of a row and a unit: gradients of y and h_n, then values of the forward pass. As they come from memory:
  // nothing waits for them before the product. What is carried: the LSTM's gradient of c, else of h beside the
  // product, or between two products.
  static constexpr int kGrad = 0, kLast = 1, kMask = 2, kState = 3, kOutput = 4, kGate = 5, kCell = 9,
                       kCellBefore = 10, kValues = 11;
  struct Item {
    T value[kValues];
    C carried;
    __device__ __forceinline__ C operator[](int n) const { return C(widen(value[n])); }
  };
  // Gradients of W_ih x + b_ih; of the GRU's W_hn h + b_hn, or o tanh(c), or r h; what the step before is to add
  // to its own of c or h; the (masked) state before. Of an initial state, or between two products, grad[0] is
  // that of h.
  struct Result {
    C grad[4], other, carried, state;
  };

  // Sums of a unit, where there is one product.
  __device__ __forceinline__ int sum_count() const { return 1; }
  // Iterations, and the step of the k-th.
  __host__ __device__ __forceinline__ static int iterations(int steps) { return steps + 1; }
  __host__ __device__ __forceinline__ static int step(int steps, int k) { return steps - 1 - k; }
  __host__ __device__ __forceinline__ int rows(const RnnSteps& s, int phase) const {
    return phase == 1 || s.now.rows > s.after.rows ? s.now.rows : s.after.rows;
  }
  __device__ __forceinline__ T initial(int, int) const { return T(0.0f); }

  // Whether a row goes on from the step after, and what is carried on then of what the thread made of it.
  __device__ __forceinline__ bool follows(const RnnSteps& s, int r) const { return r < s.after.rows; }
  __device__ __forceinline__ C kept(const Result& last) const { return last.carried; }

  // `last` is what the thread has made of the row and the unit in the step after, null where it is in memory.
  // Returned is what is carried.
  template <class Take>
  __device__ __forceinline__ C load(const RnnSteps& s, int phase, int r, int unit, Take take,
                                    const Result* last) const {
    const Offset state = Offset(r) * output + unit, at = Offset(r) * hidden + unit;
    const Offset row = Offset(s.now.start) + r, row_before = Offset(s.before.start) + r;
    const bool follows = this->follows(s, r), here = r < s.now.rows, begins = r >= s.before.rows;
    const bool projects = is(RnnCell::lstm) && this->products() == 2;
    const bool has_gates = here && !this->is_simple() && (!projects || phase == 1);
    const bool has_state = here && (phase == 0 ? states != nullptr || this->is_gru() : !projects);
    // All arrays and places come first: after a copy the compiler would fetch fields in shared memory again.
    const T *const factor = mask, *const last_grad = follows ? nullptr : grad_h_n;
    const T *const grad = here ? grad_y : nullptr, *const before = begins ? h0 : y, *const now = y;
    const T *const gate = gates, *const c = cells, *const c_before = begins ? c0 : cells;
    const Offset place = row * hidden + unit, place_y = row * Offset(y_step) + unit;
    const Offset place_grad = row * Offset(grad_y_step) + unit;
    const Offset place_before = begins ? state : row_before * Offset(y_step) + unit;
    const Offset place_c = begins ? at : row_before * hidden + unit;
    const Offset plane_step = Offset(this->all_rows) * hidden;
    if (phase == 0) {
      if (is(RnnCell::lstm)) take(kMask, factor, state, factor != nullptr);
      take(kLast, last_grad, state, last_grad != nullptr), take(kGrad, grad, place_grad, grad != nullptr);
    }
    if (has_state) take(kState, before, place_before, before != nullptr);
    if (this->is_simple() && here) take(kOutput, now, place_y, true);
    if (has_gates) {
      FASTDL_UNROLL
      for (int g = 0; g < 4; ++g)
        if (g < 3 || !is(RnnCell::gru_before)) take(kGate + g, gate, place + g * plane_step, true);
      if (is(RnnCell::lstm))
        take(kCell, c, place, true), take(kCellBefore, c_before, place_c, c_before != nullptr);
    }
    if (is(RnnCell::lstm)) {
      if (!here || (projects && phase == 0)) return 0;
      if (follows) return last != nullptr ? kept(*last) : cell_sum[at];
      return grad_c_n != nullptr ? C(widen(grad_c_n[at])) : C(0);
    }
    if (phase == 1) return sum[state];
    if (!this->is_gru() || !follows) return 0;
    return last != nullptr ? kept(*last) : direct[state];
  }

  __device__ __forceinline__ C bias(int, int, int) const { return 0; }

  // The LSTM's gates, of h's gradient g.
  __device__ __forceinline__ void lstm(Result& result, const Item& x, C g) const {
    const C i = x[kGate], f = x[kGate + 1], k = x[kGate + 2], o = x[kGate + 3];
    const C t = std::tanh(x[kCell]), dc = x.carried + g * o * (1 - t * t);
    result.grad[0] = dc * k * i * (1 - i);
    result.grad[1] = dc * x[kCellBefore] * f * (1 - f);
    result.grad[2] = dc * i * (1 - k * k);
    result.grad[3] = g * t * o * (1 - o);
    result.carried = dc * f;
    result.other = o * t;
  }

  // sums[0] is the product of row r for `unit`; put(first element, step, count, values) for the
  // next one's row.
  template <class Put>
  __device__ __forceinline__ Result finish(const RnnSteps& s, int phase, int r, int unit, const Item& x,
                                           const C (&sums)[4], Put put) const {
    const C total = sums[0];
    Result result{};
    C* const grad = result.grad;
    const auto give = [&](int count, C only = 0) {
      T values[4];
      FASTDL_UNROLL
      for (int g = 0; g < 4; ++g)
        values[g] = narrow<T>(count == 1 ? only : g == 2 && is(RnnCell::gru) ? result.other : grad[g]);
      put(unit, hidden, count, values);
      return result;
    };
    if (phase == 1) {
      if (is(RnnCell::lstm)) {
        lstm(result, x, total);
        return give(4);
      }
      const C r_gate = x[kGate], z = x[kGate + 1], k = x[kGate + 2], h = x[kState], g = x.carried;
      grad[0] = total * h * r_gate * (1 - r_gate);
      grad[1] = g * (k - h) * z * (1 - z);
      result.other = r_gate * h;
      result.carried = g * (1 - z) + total * r_gate;
      return give(2);
    }
    const bool masks = is(RnnCell::lstm) && mask != nullptr;
    C g = x[kLast];  // of h after this step
    if (this->is_gru()) g += x.carried;
    if (r < s.after.rows) {
      g += masks ? total * x[kMask] : total;
      if (r >= s.now.rows) {  // the sequence begins with the step after this one
        grad[0] = g;
        return result;
      }
    }
    g += x[kGrad];
    result.state = masks ? x[kState] * x[kMask] : x[kState];
    if (this->is_simple()) {
      const C y_now = x[kOutput];
      grad[0] = is(RnnCell::tanh) ? g * (1 - y_now * y_now) : y_now > 0 ? g : C(0);
      return give(1, grad[0]);
    }
    if (is(RnnCell::lstm)) {
      if (this->products() == 1) {
        lstm(result, x, g);
        return give(4);
      }
      grad[0] = g;
      return give(1, g);
    }
    const C z = x[kGate + 1], k = x[kGate + 2];
    if (is(RnnCell::gru)) {
      const C r_gate = x[kGate], q = x[kGate + 3];
      grad[2] = g * (1 - z) * (1 - k * k);
      grad[0] = grad[2] * q * r_gate * (1 - r_gate);
      grad[1] = g * (x[kState] - k) * z * (1 - z);
      result.other = grad[2] * r_gate;
      result.carried = g * z;
      return give(3);
    }
    grad[2] = g * z * (1 - k * k);
    result.carried = g;
    return give(1, grad[2]);
  }

  // `kept`: whether the thread keeps what its next step needs.
  __device__ __forceinline__ void store(const RnnSteps& s, int phase, int r, int unit, const Result& result,
                                        bool kept = false) const {
    const Offset state = Offset(r) * output + unit, at = Offset(r) * hidden + unit;
    const Offset row = Offset(s.now.start) + r;
    if (r >= s.now.rows) {
      grad_h0[state] = narrow<T>(result.grad[0]);
      return;
    }
    const bool lstm = is(RnnCell::lstm), projects = lstm && this->products() == 2;
    const int count = this->gate_count(), step = hidden;
    const Offset first = row * (count * hidden) + unit;
    T *const to_a = grad_a + first, *const to_b = grad_b + first;
    const bool keeps_state = phase == 0 && states != nullptr;
    T* const to_state = keeps_state ? states + (row * output + unit) : nullptr;
    T* const to_other = is(RnnCell::gru_before) && phase == 1 && reset != nullptr
                            ? reset + (row * hidden + unit)
                        : projects && phase == 1 && projected != nullptr ? projected + (row * hidden + unit)
                                                                         : nullptr;
    // Gradients of c0 are those of c where the sequence begins.
    const bool carries = lstm ? !kept || r >= s.before.rows : this->is_gru() && !kept;
    C* const to_carried = lstm              ? cell_sum + at
                          : !this->is_gru() ? nullptr
                                            : (is(RnnCell::gru_before) && phase == 0 ? sum : direct) + state;
    if (keeps_state) *to_state = narrow<T>(result.state);
    if (projects && phase == 0) {
      grad_output[row * output + unit] = narrow<T>(result.grad[0]);
      return;
    }
    FASTDL_UNROLL
    for (int g = 0; g < 4; ++g) {
      const bool here = is(RnnCell::gru_before) ? (phase == 0 ? g == 2 : g < 2) : g < count;
      if (!here) continue;
      to_a[g * step] = narrow<T>(result.grad[g]);
      if (is(RnnCell::gru)) to_b[g * step] = narrow<T>(g == 2 ? result.other : result.grad[g]);
    }
    if (carries) *to_carried = result.carried;
    if (to_other != nullptr) *to_other = narrow<T>(result.other);
  }
};

// What the problem says of a direction: W_hh^T is P x (gates x H), W_hr^T H x P. In registers the weights are
// read as they are, transposed for other ways.
template <class T>
Backward<T> described(const RnnProblem& p, bool reverse, bool transposed) {
  const int H = int(p.hidden), P = int(p.output), width = int(p.gates()) * H;
  const bool before = p.cell == RnnCell::gru_before;
  const auto product = [&](int units, int size, int step) {
    StepProduct<T> result{nullptr, 1, units, 1, units, size, false, nullptr, 0};
    if (transposed) result.weight_step = step, result.element_step = 1;
    return result;
  };
  Backward<T> body{};
  body.product[0] = product(P, before ? 2 * H : width, width);
  body.product[1] = before ? product(H, H, width) : product(H, P, P);
  body.describe(p, reverse);
  return body;
}

}  // namespace

int64_t rnn_backward_scratch(Dtype dtype, const RnnProblem& p, bool tf32, RnnLaunches launches) {
  int64_t bytes = 0;
  by_dtype_and_unit(dtype, tf32, [&]<class T, class Tensor>(T, Tensor) {
    if (!resident_way<T, Tensor::value>(described<T>(p, false, false), p, launches))
      bytes = RnnScratch(sizeof(T), p, true).bytes(p.directions);
  });
  return bytes;
}

void rnn_backward(Dtype dtype, const RnnProblem& p, const std::vector<RnnBackward>& directions, void* scratch,
                  bool tf32, RnnLaunches launches, bool specialised, Stream stream) {
  by_dtype_and_unit(dtype, tf32, [&]<class T, class Tensor>(T, Tensor) {
    using C = Compute<T>;
    const auto in = [](const void* x) { return static_cast<const T*>(x); };
    const auto out = [](void* x) { return static_cast<T*>(x); };
    const auto wide = [](void* x) { return static_cast<C*>(x); };
    const auto plan = resident_way<T, Tensor::value>(described<T>(p, false, false), p, launches);
    Directions<Backward<T>> layer{};
    for (const RnnBackward& f : directions) {
      Backward<T>& body = layer.of[layer.count];
      body = described<T>(p, layer.count == 1, !plan);
      body.product[0].read(in(f.w_hh));
      if (p.projected())
        body.product[1].read(in(f.w_hr));
      else  // W_hn
        body.product[1].read(in(f.w_hh) + 2 * p.hidden * (plan ? p.hidden : 1));
      body.grad_a = out(f.grad_a), body.grad_b = out(f.grad_b), body.grad_h0 = out(f.grad_h0);
      body.cell_sum = wide(f.cell), body.direct = wide(f.direct), body.sum = wide(f.sum);
      body.states = out(f.before), body.reset = out(f.reset);
      body.grad_output = out(f.output), body.projected = out(f.product);
      body.grad_y = in(f.grad_y), body.grad_h_n = in(f.grad_h_n), body.grad_c_n = in(f.grad_c_n);
      body.y = in(f.y), body.gates = in(f.gates), body.cells = in(f.cells);
      body.h0 = in(f.h0), body.c0 = in(f.c0), body.mask = in(f.mask);
      body.grad_y_step = f.grad_y_step, body.y_step = f.y_step;
      ++layer.count;
    }
    run_layer<T, Tensor::value>("rnn_backward", p, layer, true, scratch, plan, launches, specialised, stream);
  });
}

}  // namespace fastdl::cuda
