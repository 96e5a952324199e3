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

template <class T>
struct Backward : RnnBody<T> {
  using C = Compute<T>;
  using RnnBody<T>::cell;
  using RnnBody<T>::hidden;
  using RnnBody<T>::output;
  T *grad_a, *grad_b, *grad_h0;
  C *cell_sum, *direct, *sum;
  T *states, *reset, *grad_output, *projected;
  const T *grad_y, *grad_h_n, *grad_c_n, *y, *gates, *cells, *h0, *c0, *mask;
  int64_t grad_y_step, y_step;

  // Of a row and a unit: what comes to h's gradient beside the product (between two products: that gradient),
  // then values of the forward pass. As they come from memory: nothing waits for them before the product.
  struct Item {
    T grad, mask, h, y, gate[4], c, c_before;
    C carried, later;
  };

  // Iterations, and the step of the k-th.
  __host__ __device__ __forceinline__ static int iterations(int steps) { return steps + 1; }
  __host__ __device__ __forceinline__ static int step(int steps, int k) { return steps - 1 - k; }
  __host__ __device__ __forceinline__ int rows(const RnnSteps& s, int phase) const {
    return phase == 1 || s.now.rows > s.after.rows ? s.now.rows : s.after.rows;
  }
  __device__ __forceinline__ T initial(int, int) const { return T(0.0f); }

  __device__ __forceinline__ void load_gates(Item& x, const RnnSteps& s, int r, int unit) const {
    const int count = cell == RnnCell::gru_before ? 3 : 4;
    FASTDL_UNROLL
    for (int g = 0; g < 4; ++g)
      if (g < count) x.gate[g] = gates[(g * this->all_rows + s.now.start + r) * hidden + unit];
    if (cell != RnnCell::lstm) return;
    const int64_t at = int64_t(r) * hidden + unit;
    x.c = cells[(s.now.start + r) * hidden + unit];
    if (r < s.before.rows)
      x.c_before = cells[(s.before.start + r) * hidden + unit];
    else if (c0 != nullptr)
      x.c_before = c0[at];
    if (r < s.after.rows)
      x.later = cell_sum[at];
    else if (grad_c_n != nullptr)
      x.later = widen(grad_c_n[at]);
  }
  __device__ __forceinline__ void load_state(Item& x, const RnnSteps& s, int r, int unit) const {
    if (r < s.before.rows)
      x.h = y[(s.before.start + r) * y_step + unit];
    else if (h0 != nullptr)
      x.h = h0[int64_t(r) * output + unit];
  }
  __device__ __forceinline__ Item load(const RnnSteps& s, int phase, int r, int unit) const {
    const int64_t at = int64_t(r) * output + unit;  // output == hidden unless an LSTM projects
    Item x{};
    if (phase == 1) {
      load_gates(x, s, r, unit);
      if (cell == RnnCell::lstm) return x;
      load_state(x, s, r, unit);
      x.carried = sum[at];
      return x;
    }
    if (mask != nullptr) x.mask = mask[at];
    if (r >= s.after.rows) {
      if (grad_h_n != nullptr) x.carried = widen(grad_h_n[at]);
    } else if (direct != nullptr) {
      x.carried = direct[at];
    }
    if (r >= s.now.rows) return x;
    if (grad_y != nullptr) x.grad = grad_y[(s.now.start + r) * grad_y_step + unit];
    load_state(x, s, r, unit);
    if (cell <= RnnCell::relu) x.y = y[(s.now.start + r) * y_step + unit];
    if (cell >= RnnCell::lstm && (cell != RnnCell::lstm || this->products == 1)) load_gates(x, s, r, unit);
    return x;
  }

  __device__ __forceinline__ C bias(int, int, int) const { return 0; }
  // Gradient number g of W_ih x + b_ih and of W_hh h + b_hh; `column` of the next product's rows.
  template <class Next>
  __device__ __forceinline__ void give(const RnnSteps& s, int g, int r, int unit, C a, C b, const Next& next,
                                       int column) const {
    const int count = cell == RnnCell::lstm ? 4 : cell >= RnnCell::gru ? 3 : 1;
    const int64_t at = ((s.now.start + r) * count + g) * hidden + unit;
    grad_a[at] = narrow<T>(a);
    const T value = narrow<T>(b);
    if (grad_b != grad_a) grad_b[at] = value;
    next.put(r, column, value);
  }
  template <class Next>
  __device__ __forceinline__ void lstm(const RnnSteps& s, int r, int unit, const Item& x, C g,
                                       const Next& next) const {
    const C i = x.gate[0], f = x.gate[1], k = x.gate[2], o = x.gate[3];
    const C t = std::tanh(C(widen(x.c))), dc = x.later + g * o * (1 - t * t);
    const auto put = [&](int n, C v) { give(s, n, r, unit, v, v, next, n * hidden + unit); };
    put(0, dc * k * i * (1 - i));
    put(1, dc * C(widen(x.c_before)) * f * (1 - f));
    put(2, dc * i * (1 - k * k));
    put(3, g * t * o * (1 - o));
    cell_sum[int64_t(r) * hidden + unit] = dc * f;
    if (projected != nullptr) projected[(s.now.start + r) * hidden + unit] = narrow<T>(o * t);
  }

  template <class Sum, class Next>
  __device__ __forceinline__ void finish(const RnnSteps& s, int phase, int r, int unit, const Item& x,
                                         Sum sum_of, const Next& next) const {
    const C total = sum_of(0);
    const int64_t at = int64_t(r) * output + unit;
    const auto put = [&](int n, C v) { give(s, n, r, unit, v, v, next, n * hidden + unit); };
    if (phase == 1) {
      if (cell == RnnCell::lstm) return lstm(s, r, unit, x, total, next);
      const C reset_gate = x.gate[0], z = x.gate[1], k = x.gate[2], g = x.carried;
      put(0, total * C(widen(x.h)) * reset_gate * (1 - reset_gate));
      put(1, g * (k - C(widen(x.h))) * z * (1 - z));
      direct[at] = g * (1 - z) + total * reset_gate;
      if (reset != nullptr) reset[(s.now.start + r) * hidden + unit] = narrow<T>(reset_gate * C(widen(x.h)));
      return;
    }
    C g = x.carried;  // of h after this step
    if (r < s.after.rows) {
      g += mask != nullptr ? total * C(widen(x.mask)) : total;
      if (r >= s.now.rows) {  // the sequence begins with the step after this one
        grad_h0[at] = narrow<T>(g);
        return;
      }
    }
    g += C(widen(x.grad));
    if (states != nullptr)
      states[(s.now.start + r) * output + unit] =
          narrow<T>(mask != nullptr ? C(widen(x.h)) * C(widen(x.mask)) : C(widen(x.h)));
    switch (cell) {
      case RnnCell::tanh:
        return put(0, g * (1 - C(widen(x.y)) * C(widen(x.y))));
      case RnnCell::relu:
        return put(0, C(widen(x.y)) > 0 ? g : C(0));
      case RnnCell::lstm: {
        if (this->products == 1) return lstm(s, r, unit, x, g, next);
        const T value = narrow<T>(g);
        grad_output[(s.now.start + r) * output + unit] = value;
        next.put(r, unit, value);
        return;
      }
      case RnnCell::gru: {
        const C r_gate = x.gate[0], z = x.gate[1], k = x.gate[2], q = x.gate[3];
        const C dn = g * (1 - z) * (1 - k * k);
        put(0, dn * q * r_gate * (1 - r_gate));
        put(1, g * (C(widen(x.h)) - k) * z * (1 - z));
        give(s, 2, r, unit, dn, dn * r_gate, next, 2 * hidden + unit);
        direct[at] = g * z;
        return;
      }
      case RnnCell::gru_before: {
        const C z = x.gate[1], k = x.gate[2], dn = g * z * (1 - k * k);
        give(s, 2, r, unit, dn, dn, next, unit);
        sum[at] = g;
        return;
      }
    }
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
                  bool tf32, RnnLaunches launches, Stream stream) {
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
    run_layer<T, Tensor::value>("rnn_backward", p, layer, true, scratch, plan, launches, stream);
  });
}

}  // namespace fastdl::cuda
