// Recurrent layers forward: one launch for all steps (rnn_resident.h) or one for each step, or two where a
// step has two products that depend on each other.
//
//   all cells but these   sums = W_hh (masked h), then all gates and the new state of a block's units
//   gru_before            sums for r and z, then r h to memory; sums = W_hn (r h), then the new state
//   projecting LSTM       gates, then m = o tanh(c) to memory; sums = W_hr m
//
// W_ih x + b_ih of all rows is there already. The state is read where the step before wrote it, in y. c is
// carried in the type computed in. Saved for backward: gates (a plane of N x H each; the GRU's fourth is W_hn
// h + b_hn) and cells.
#include "cuda/rnn_resident.h"

namespace fastdl::cuda {
namespace {

template <class T>
struct Forward {
  using C = Compute<T>;
  T *y, *h_n, *c_n, *gates, *cells, *between;
  C *carry, *update;
  T *masked, *next_masked;  // states of the step before times the mask, and where this step's go
  const T *a, *h0, *c0, *masked_h0, *mask, *w_hh, *b_hh, *w_hr;
  int64_t y_step, all_rows;
  RnnCell cell;
  int hidden, output;
  RnnStep before, now, after;
  bool second;  // the step's second product
  bool async, reverse;
  T* tile;  // with resident weights: where the next product finds this step's (masked) state
  int tile_row, tile_pitch;

  __device__ __forceinline__ C state(int r, int unit) const {
    if (r < before.rows) return widen(y[(before.start + r) * y_step + unit]);
    return h0 != nullptr ? C(widen(h0[int64_t(r) * output + unit])) : C(0);
  }
  __device__ __forceinline__ void emit(int r, int unit, C h) const {
    const T value = narrow<T>(h);
    y[(now.start + r) * y_step + unit] = value;
    const int64_t at = int64_t(r) * output + unit;
    if (r >= after.rows) h_n[at] = value;  // the sequence's last step
    const T seen = mask != nullptr ? narrow<T>(C(widen(value)) * C(widen(mask[at]))) : value;
    if (tile != nullptr)
      tile[(r - tile_row) * tile_pitch + unit] = seen;
    else if (mask != nullptr)
      next_masked[at] = seen;
  }

  // For rnn_resident: step n of sequences of one length.
  __device__ __forceinline__ void begin(int n, int steps, int batch) {
    const auto step = [&](int k) -> RnnStep {
      if (k < 0 || k >= steps) return {0, 0};
      return {batch, int64_t(reverse ? steps - 1 - k : k) * batch};
    };
    before = step(n - 1), now = step(n), after = step(n + 1);
  }
  __device__ __forceinline__ T initial(int r, int e) const {
    const T* const from = mask != nullptr ? masked_h0 : h0;
    return from != nullptr ? from[int64_t(r) * output + e] : T(0.0f);
  }

  __device__ __forceinline__ void keep(int gate, int r, int unit, C value) const {
    if (gates != nullptr) gates[(gate * all_rows + now.start + r) * hidden + unit] = narrow<T>(value);
  }

  // What follows the product, of row r and `unit`; sum(gate) is W_hh h there.
  template <class Sum>
  __device__ __forceinline__ void finish(int r, int unit, Sum sum) const {
    const int count = cell == RnnCell::lstm ? 4 : cell >= RnnCell::gru ? 3 : 1;
    const auto input = [&](int gate) -> C {
      return widen(a[(now.start + r) * count * hidden + gate * hidden + unit]);
    };
    const auto recurrent = [&](int gate) -> C {
      return sum(gate) + (b_hh != nullptr ? C(widen(b_hh[gate * hidden + unit])) : C(0));
    };
    const int64_t at = int64_t(r) * hidden + unit;
    switch (cell) {
      case RnnCell::tanh:
        return emit(r, unit, std::tanh(input(0) + recurrent(0)));
      case RnnCell::relu: {
        const C x = input(0) + recurrent(0);
        return emit(r, unit, x > 0 || x != x ? x : C(0));
      }
      case RnnCell::lstm: {
        if (second) return emit(r, unit, sum(0));
        const C i = sigmoid(input(0) + recurrent(0)), f = sigmoid(input(1) + recurrent(1));
        const C g = std::tanh(input(2) + recurrent(2)), o = sigmoid(input(3) + recurrent(3));
        C c = r < before.rows ? carry[at] : c0 != nullptr ? C(widen(c0[at])) : C(0);
        c = f * c + i * g;
        carry[at] = c;
        if (r >= after.rows) c_n[at] = narrow<T>(c);
        keep(0, r, unit, i), keep(1, r, unit, f), keep(2, r, unit, g), keep(3, r, unit, o);
        if (cells != nullptr) cells[(now.start + r) * hidden + unit] = narrow<T>(c);
        const C m = o * std::tanh(c);
        if (w_hr == nullptr) return emit(r, unit, m);
        between[at] = narrow<T>(m);
        return;
      }
      case RnnCell::gru: {
        const C reset = sigmoid(input(0) + recurrent(0)), z = sigmoid(input(1) + recurrent(1));
        const C q = recurrent(2), n = std::tanh(input(2) + reset * q);
        keep(0, r, unit, reset), keep(1, r, unit, z), keep(2, r, unit, n), keep(3, r, unit, q);
        return emit(r, unit, (1 - z) * n + z * state(r, unit));
      }
      case RnnCell::gru_before: {
        if (!second) {
          const C reset = sigmoid(input(0) + recurrent(0)), z = sigmoid(input(1) + recurrent(1));
          keep(0, r, unit, reset), keep(1, r, unit, z);
          update[at] = z;
          between[at] = narrow<T>(reset * state(r, unit));
          return;
        }
        const C bias = b_hh != nullptr ? C(widen(b_hh[2 * hidden + unit])) : C(0);
        const C n = std::tanh(input(2) + sum(0) + bias), z = update[at];
        keep(2, r, unit, n);
        return emit(r, unit, (1 - z) * state(r, unit) + z * n);
      }
    }
  }
};

template <class T, bool kTensor>
__global__ void __launch_bounds__(kStepThreads)
    rnn_forward_step(const Forward<T> f, int gates, int units, int columns, int size) {
  using C = Compute<T>;
  FASTDL_DYNAMIC_SHARED(unsigned char, shared);
  const int first_row = int(blockIdx.y) * kRows, first_unit = int(blockIdx.x) * units;
  const int rows = f.now.rows - first_row < kRows ? f.now.rows - first_row : kRows;
  const bool masked = f.mask != nullptr;
  StateRows<T> state;
  if (f.second)
    state = {f.between, nullptr, f.hidden, 0, f.now.rows, f.now.rows};
  else if (masked)
    state = {f.masked, f.masked_h0, f.output, f.output, f.before.rows, f.now.rows};
  else
    state = {f.y + f.before.start * f.y_step, f.h0, f.y_step, f.output, f.before.rows, f.now.rows};
  const T* weight = f.w_hh;
  if (f.second) weight = f.cell == RnnCell::lstm ? f.w_hr : f.w_hh + 2 * int64_t(f.hidden) * f.output;
  const GateRows<T> weights{weight, size, gates, units, first_unit, columns};
  step_product<T, kTensor>(shared, [&](int r) { return state(first_row + r); }, weights, rows, size, f.async);
  const C* const sums = reinterpret_cast<const C*>(shared);
  for (int n = int(threadIdx.x); n < rows * units; n += kStepThreads) {
    const int r = n / units, u = n % units;
    if (first_unit + u < columns)
      f.finish(first_row + r, first_unit + u,
               [&](int gate) { return sums[r * kSumStep + gate * units + u]; });
  }
}

}  // namespace

void rnn_forward(Dtype dtype, const RnnProblem& p, bool reverse, const RnnForward& f, Stream stream) {
  by_dtype_and_unit(dtype, f.tf32, [&]<class T, class Tensor>(T, Tensor) {
    using C = Compute<T>;
    const auto in = [](const void* x) { return static_cast<const T*>(x); };
    const auto out = [](void* x) { return static_cast<T*>(x); };
    const int H = int(p.hidden), P = int(p.output);
    const bool twice = p.cell == RnnCell::gru_before || f.w_hr != nullptr;
    const auto packs = [](int64_t n) { return n * int64_t(sizeof(T)) % 16 == 0; };
    bool async = packs(H) && packs(P) && packs(f.y_step);
    for (const void* x :
         {static_cast<const void*>(f.y), f.h0, f.masked_h0, static_cast<const void*>(f.masked),
          static_cast<const void*>(f.between), f.w_hh, f.w_hr})
      async = async && aligned(x, 16);
    T* masked[2] = {out(f.masked), f.masked != nullptr ? out(f.masked) + p.batch() * P : nullptr};
    for (int64_t n = 0; n < p.steps(); ++n) {
      Forward<T> step{out(f.y),
                      out(f.h_n),
                      out(f.c_n),
                      out(f.gates),
                      out(f.cells),
                      out(f.between),
                      static_cast<C*>(f.carry),
                      static_cast<C*>(f.update),
                      masked[n % 2],
                      masked[(n + 1) % 2],
                      in(f.a),
                      in(f.h0),
                      in(f.c0),
                      in(f.masked_h0),
                      in(f.mask),
                      in(f.w_hh),
                      in(f.b_hh),
                      in(f.w_hr),
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
      if (n == 0 && !twice &&
          run_resident<T, Tensor::value>("rnn", step, in(f.w_hh), int(p.gates()) * H, P, H, int(p.steps()), p,
                                         stream))
        return;
      // Of a product: gates, columns of a gate, elements of the sum.
      const auto run = [&](int gates, int columns, int size) {
        const int units = kColumns / gates;
        launch("rnn", rnn_forward_step<T, Tensor::value>,
               dim3(unsigned((columns + units - 1) / units), unsigned((step.now.rows + kRows - 1) / kRows)),
               dim3(kStepThreads), kStepBytes, stream, step, gates, units, columns, size);
      };
      run(p.cell == RnnCell::gru_before ? 2 : int(p.gates()), H, P);
      if (twice) {
        step.second = true;
        run(1, p.cell == RnnCell::lstm ? P : H, H);
      }
    }
  });
}

}  // namespace fastdl::cuda
