// Recurrent layers back through time: one launch for all steps (rnn_resident.h) or one for each step, or two
// for cells with two products in a step.
//
//   all cells             sums = W_hh^T (gradients of the step after), which makes the gradient of h
//   complete; then
//                         the gradients of this step's gates, of a block's units
//   gru_before            the first product with r's and z's rows of W_hh only; then sums = W_hn^T (n's
//   gradients) projecting LSTM       the gradient of h to memory; sums = W_hr^T of it, then the gates
//
// Gates' gradients of all rows stay in memory, and so does the (masked) state before each row: gradients of
// weights, biases and inputs are products over all rows afterwards, the caller's. The gradient of c, and the
// part of h's that does not pass through W_hh, are carried in the type computed in.
#include <algorithm>

#include "cuda/rnn_resident.h"

namespace fastdl::cuda {
namespace {

template <class T>
struct Backward {
  using C = Compute<T>;
  T *grad_a, *grad_b, *grad_h0;
  C *cell_sum, *direct, *sum;
  T *states, *reset, *grad_output, *product;
  const T *grad_y, *grad_h_n, *grad_c_n, *y, *gates, *cells, *h0, *c0, *mask, *w_hh, *w_hr;
  int64_t grad_y_step, y_step, all_rows;
  RnnCell cell;
  int hidden, output;
  RnnStep before, now, after;  // in the order of the forward pass; backward, `after` is done
  bool second;                 // the step's second product
  bool async, reverse;
  T* tile;  // with resident weights: where the next product finds this step's gradients
  int tile_row, tile_pitch;

  __device__ __forceinline__ C state(int r, int unit) const {
    if (r < before.rows) return widen(y[(before.start + r) * y_step + unit]);
    return h0 != nullptr ? C(widen(h0[int64_t(r) * output + unit])) : C(0);
  }
  __device__ __forceinline__ C gate(int g, int r, int unit) const {
    return widen(gates[(g * all_rows + now.start + r) * hidden + unit]);
  }
  // Gradient number g of W_ih x + b_ih and of W_hh h + b_hh.
  __device__ __forceinline__ void give(int g, int r, int unit, C a, C b) const {
    const int count = cell == RnnCell::lstm ? 4 : cell >= RnnCell::gru ? 3 : 1;
    const int64_t at = ((now.start + r) * count + g) * hidden + unit;
    grad_a[at] = narrow<T>(a);
    if (grad_b != grad_a) grad_b[at] = narrow<T>(b);
    if (tile != nullptr) tile[(r - tile_row) * tile_pitch + g * hidden + unit] = narrow<T>(b);
  }
  __device__ __forceinline__ void give(int g, int r, int unit, C a) const { give(g, r, unit, a, a); }

  __device__ __forceinline__ void lstm(int r, int unit, C g) const {
    const int64_t at = int64_t(r) * hidden + unit;
    const C i = gate(0, r, unit), f = gate(1, r, unit), k = gate(2, r, unit), o = gate(3, r, unit);
    const C c = widen(cells[(now.start + r) * hidden + unit]);
    C c_before = 0;
    if (r < before.rows)
      c_before = widen(cells[(before.start + r) * hidden + unit]);
    else if (c0 != nullptr)
      c_before = widen(c0[at]);
    const C t = std::tanh(c);
    C later = 0;
    if (r < after.rows)
      later = cell_sum[at];
    else if (grad_c_n != nullptr)
      later = widen(grad_c_n[at]);
    const C dc = later + g * o * (1 - t * t);
    give(0, r, unit, dc * k * i * (1 - i));
    give(1, r, unit, dc * c_before * f * (1 - f));
    give(2, r, unit, dc * i * (1 - k * k));
    give(3, r, unit, g * t * o * (1 - o));
    cell_sum[at] = dc * f;
    if (product != nullptr) product[(now.start + r) * hidden + unit] = narrow<T>(o * t);
  }

  // For rnn_resident: the forward pass's steps from the last to the first, and once more for the state
  // before.
  __device__ __forceinline__ void begin(int n, int steps, int batch) {
    const int last = steps - 2;
    const auto step = [&](int k) -> RnnStep {
      if (k < 0 || k > last) return {0, 0};
      return {batch, int64_t(reverse ? last - k : k) * batch};
    };
    before = step(last - n - 1), now = step(last - n), after = step(last - n + 1);
  }
  __device__ __forceinline__ T initial(int, int) const { return T(0.0f); }
  template <class Sum>
  __device__ __forceinline__ void finish(int r, int unit, Sum sum) const {
    finish_sum(r, unit, sum(0));
  }

  // What follows the product, of row r and `unit`.
  __device__ __forceinline__ void finish_sum(int r, int unit, C total) const {
    const int64_t at = int64_t(r) * output + unit;  // output == hidden unless an LSTM projects
    if (second) {
      if (cell == RnnCell::lstm) return lstm(r, unit, total);
      const C reset_gate = gate(0, r, unit), z = gate(1, r, unit), k = gate(2, r, unit);
      const C h = state(r, unit), g = sum[at];
      give(0, r, unit, total * h * reset_gate * (1 - reset_gate));
      give(1, r, unit, g * (k - h) * z * (1 - z));
      direct[at] = g * (1 - z) + total * reset_gate;
      if (reset != nullptr) reset[(now.start + r) * hidden + unit] = narrow<T>(reset_gate * h);
      return;
    }
    const bool gated = cell == RnnCell::gru || cell == RnnCell::gru_before;
    C g = 0;  // of h after this step
    if (r < after.rows) {
      g = mask != nullptr ? total * C(widen(mask[at])) : total;
      if (gated) g += direct[at];
      if (r >= now.rows) {  // the sequence begins with the step after this one
        grad_h0[at] = narrow<T>(g);
        return;
      }
    } else if (grad_h_n != nullptr) {
      g = widen(grad_h_n[at]);
    }
    if (grad_y != nullptr) g += C(widen(grad_y[(now.start + r) * grad_y_step + unit]));
    const C h = state(r, unit);
    if (states != nullptr)
      states[(now.start + r) * output + unit] = narrow<T>(mask != nullptr ? h * C(widen(mask[at])) : h);
    switch (cell) {
      case RnnCell::tanh: {
        const C now_h = widen(y[(now.start + r) * y_step + unit]);
        return give(0, r, unit, g * (1 - now_h * now_h));
      }
      case RnnCell::relu:
        return give(0, r, unit, C(widen(y[(now.start + r) * y_step + unit])) > 0 ? g : C(0));
      case RnnCell::lstm:
        if (w_hr == nullptr) return lstm(r, unit, g);
        grad_output[(now.start + r) * output + unit] = narrow<T>(g);
        return;
      case RnnCell::gru: {
        const C r_gate = gate(0, r, unit), z = gate(1, r, unit), k = gate(2, r, unit), q = gate(3, r, unit);
        const C dn = g * (1 - z) * (1 - k * k);
        give(0, r, unit, dn * q * r_gate * (1 - r_gate));
        give(1, r, unit, g * (h - k) * z * (1 - z));
        give(2, r, unit, dn, dn * r_gate);
        direct[at] = g * z;
        return;
      }
      case RnnCell::gru_before: {
        const C z = gate(1, r, unit), k = gate(2, r, unit);
        give(2, r, unit, g * z * (1 - k * k));
        sum[at] = g;
        return;
      }
    }
  }
};

template <class T, bool kTensor>
__global__ void __launch_bounds__(kStepThreads)
    rnn_backward_step(const Backward<T> f, int columns, int size) {
  using C = Compute<T>;
  FASTDL_DYNAMIC_SHARED(unsigned char, shared);
  const int first_row = int(blockIdx.y) * kRows, first_unit = int(blockIdx.x) * kColumns;
  const int count = f.second ? f.now.rows : f.now.rows > f.after.rows ? f.now.rows : f.after.rows;
  const int rows = count - first_row < kRows ? count - first_row : kRows;
  const int gates = f.cell == RnnCell::lstm ? 4 : f.cell >= RnnCell::gru ? 3 : 1;
  const int64_t width = int64_t(gates) * f.hidden;
  StateRows<T> gradients{f.grad_b + f.after.start * width, nullptr, width, 0, f.after.rows, f.after.rows};
  GateRows<T> weights{f.w_hh, width, 1, kColumns, first_unit, columns};
  if (f.second && f.cell == RnnCell::lstm) {
    gradients = {f.grad_output + f.now.start * f.output, nullptr, f.output, 0, f.now.rows, f.now.rows};
    weights.weight = f.w_hr, weights.step = f.output;
  } else if (f.second) {
    gradients = {f.grad_b + f.now.start * width + 2 * f.hidden, nullptr, width, 0, f.now.rows, f.now.rows};
    weights.weight = f.w_hh + 2 * f.hidden;
  }
  step_product<T, kTensor>(
      shared, [&](int r) { return gradients(first_row + r); }, weights, rows, size, f.async);
  const C* const sums = reinterpret_cast<const C*>(shared);
  for (int n = int(threadIdx.x); n < rows * kColumns; n += kStepThreads) {
    const int r = n / kColumns, u = n % kColumns;
    if (first_unit + u < columns) f.finish_sum(first_row + r, first_unit + u, sums[r * kSumStep + u]);
  }
}

}  // namespace

void rnn_backward(Dtype dtype, const RnnProblem& p, bool reverse, const RnnBackward& f, Stream stream) {
  by_dtype_and_unit(dtype, f.tf32, [&]<class T, class Tensor>(T, Tensor) {
    using C = Compute<T>;
    const auto in = [](const void* x) { return static_cast<const T*>(x); };
    const auto out = [](void* x) { return static_cast<T*>(x); };
    const int H = int(p.hidden), P = int(p.output), width = int(p.gates()) * H;
    const bool before = p.cell == RnnCell::gru_before, twice = before || f.w_hr != nullptr;
    const auto packs = [](int64_t n) { return n * int64_t(sizeof(T)) % 16 == 0; };
    bool async = packs(H) && packs(P);
    for (const void* x :
         {static_cast<const void*>(f.grad_b), static_cast<const void*>(f.output), f.w_hh, f.w_hr})
      async = async && aligned(x, 16);
    for (int64_t n = p.steps() - 1; n >= -1; --n) {
      Backward<T> step{out(f.grad_a),
                       out(f.grad_b),
                       out(f.grad_h0),
                       static_cast<C*>(f.cell),
                       static_cast<C*>(f.direct),
                       static_cast<C*>(f.sum),
                       out(f.before),
                       out(f.reset),
                       out(f.output),
                       out(f.product),
                       in(f.grad_y),
                       in(f.grad_h_n),
                       in(f.grad_c_n),
                       in(f.y),
                       in(f.gates),
                       in(f.cells),
                       in(f.h0),
                       in(f.c0),
                       in(f.mask),
                       in(f.w_hh),
                       in(f.w_hr),
                       f.grad_y_step,
                       f.y_step,
                       p.rows(),
                       p.cell,
                       H,
                       P,
                       rnn_step(p, reverse, n - 1),
                       rnn_step(p, reverse, n),
                       rnn_step(p, reverse, n + 1),
                       false,
                       async,
                       reverse,
                       nullptr,
                       0,
                       0};
      if (n == p.steps() - 1 && !twice &&
          run_resident<T, Tensor::value>("rnn_backward", step, in(f.w_hh), P, width, P, int(p.steps()) + 1, p,
                                         stream))
        return;
      const auto run = [&](int rows, int columns, int size) {
        launch("rnn_backward", rnn_backward_step<T, Tensor::value>,
               dim3(unsigned((columns + kColumns - 1) / kColumns), unsigned((rows + kRows - 1) / kRows)),
               dim3(kStepThreads), kStepBytes, stream, step, columns, size);
      };
      run(std::max(step.now.rows, step.after.rows), P, before ? 2 * H : width);
      if (twice && n >= 0) {
        step.second = true;
        run(step.now.rows, H, before ? H : P);
      }
    }
  });
}

}  // namespace fastdl::cuda
