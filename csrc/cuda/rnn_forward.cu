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

template <class T, CellKind kKind = CellKind::any>
struct Forward : RnnBody<T, kKind> {
  using C = Compute<T>;
  template <CellKind kOther>
  using As = Forward<T, kOther>;
  using RnnBody<T, kKind>::is;
  using RnnBody<T, kKind>::hidden;
  using RnnBody<T, kKind>::output;
  T *y, *h_n, *c_n, *gates, *cells;
  C *carry, *update;
  const T *a, *h0, *c0, *mask, *b_ih, *b_hh;
  int64_t y_step;

  using Offset = typename RnnBody<T, kKind>::Offset;
  // Of the longest array.
  int64_t elements() const { return this->all_rows * std::max<int64_t>(4 * hidden, y_step); }

  // Of a row and a unit: gates' inputs, b_ih of the GRU's n, gru_before's state before, the mask. As they come
  // from memory: nothing waits for them before the product. c, the GRU's state before, or gru_before's z.
  static constexpr int kInput = 0, kBias = 4, kState = 5, kMask = 6, kValues = 7;
  struct Item {
    T value[kValues];
    C carried;
    __device__ __forceinline__ C operator[](int n) const { return C(widen(value[n])); }
  };
  // Gates (of the GRU: r, z, n, W_hn h + b_hn), c or gru_before's z, h.
  struct Result {
    C gate[4], carried;
    T value;
  };

  // Sums of a unit, where there is one product.
  __device__ __forceinline__ int sum_count() const { return this->gate_count(); }
  // Iterations, and the step of the k-th.
  __host__ __device__ __forceinline__ static int iterations(int steps) { return steps; }
  __host__ __device__ __forceinline__ static int step(int, int k) { return k; }
  __host__ __device__ __forceinline__ int rows(const RnnSteps& s, int) const { return s.now.rows; }
  __device__ __forceinline__ T initial(int r, int unit) const {
    const int64_t at = int64_t(r) * output + unit;
    if (h0 == nullptr) return T(0.0f);
    return mask != nullptr ? narrow<T>(C(widen(h0[at])) * C(widen(mask[at]))) : h0[at];
  }

  // Whether a row goes on from the step before, and what is carried on then of what the thread made of it.
  __device__ __forceinline__ bool follows(const RnnSteps& s, int r) const { return r < s.before.rows; }
  __device__ __forceinline__ C kept(const Result& last) const {
    return is(RnnCell::gru) ? C(widen(last.value)) : last.carried;
  }

  // `last` is what the thread has made of the row and the unit in the step before, null where it is in memory.
  // Returned is what is carried.
  template <class Take>
  __device__ __forceinline__ C load(const RnnSteps& s, int phase, int r, int unit, Take take,
                                    const Result* last) const {
    const int count = this->gate_count(), step = hidden;
    const Offset at = Offset(r) * hidden + unit, state = Offset(r) * output + unit;
    const bool follows = this->follows(s, r);
    if (!is(RnnCell::lstm) || phase == 0) {
      const Offset input = (Offset(s.now.start) + r) * (count * hidden) + unit;
      FASTDL_UNROLL
      for (int gate = 0; gate < 4; ++gate) {
        const bool here = !is(RnnCell::gru_before) || (gate == 2) == (phase == 1);
        if (gate < count && here) take(kInput + gate, a, input + gate * step, true);
      }
    }
    if (is(RnnCell::gru)) take(kBias, b_ih, 2 * hidden + unit, b_ih != nullptr);
    if (is(RnnCell::lstm) && phase + 1 == this->products()) take(kMask, mask, state, mask != nullptr);
    if (is(RnnCell::lstm) && phase == 0) {
      if (follows) return last != nullptr ? kept(*last) : carry[at];
      return c0 != nullptr ? C(widen(c0[at])) : C(0);
    }
    if (!this->is_gru()) return 0;
    if (is(RnnCell::gru) && follows && last != nullptr) return kept(*last);
    const T* const before = follows ? y : h0;
    const Offset place = follows ? (Offset(s.before.start) + r) * Offset(y_step) + unit : state;
    if (is(RnnCell::gru)) return before != nullptr ? C(widen(before[place])) : C(0);
    take(kState, before, place, before != nullptr);
    return phase == 1 ? update[at] : C(0);
  }

  // What is added to a product: both biases, but W_hh's alone for the GRU's n.
  __device__ __forceinline__ C bias(int phase, int gate, int unit) const {
    if (b_hh == nullptr || (is(RnnCell::lstm) && phase == 1)) return 0;
    const int at = (is(RnnCell::gru_before) && phase == 1 ? 2 : gate) * hidden + unit;
    const C b = widen(b_hh[at]);
    return is(RnnCell::gru) && gate == 2 ? b : C(widen(b_ih[at])) + b;
  }

  // sum[gate] is the product of row r for `unit`, and its bias; put(first element, step, count, values) for the
  // next one's row.
  template <class Put>
  __device__ __forceinline__ Result finish(const RnnSteps&, int phase, int, int unit, const Item& x,
                                           const C (&sum)[4], Put put) const {
    const auto input = [&x](int gate) { return x[kInput + gate]; };
    Result result{};
    const auto give = [&](T value) {
      const T values[1] = {value};
      put(unit, 0, 1, values);
      return result;
    };
    const auto emit = [&](C h) {
      result.value = narrow<T>(h);
      const bool masks = is(RnnCell::lstm) && mask != nullptr;
      return give(masks ? narrow<T>(C(widen(result.value)) * x[kMask]) : result.value);
    };
    C* const gate = result.gate;
    if (this->is_simple()) {
      const C v = input(0) + sum[0];
      if (is(RnnCell::tanh)) return emit(std::tanh(v));
      return emit(v > 0 || v != v ? v : C(0));
    }
    if (is(RnnCell::lstm)) {
      if (phase == 1) return emit(sum[0]);
      const C v[4] = {input(0) + sum[0], input(1) + sum[1], input(2) + sum[2], input(3) + sum[3]};
      gate[0] = gate_sigmoid(v[0]), gate[1] = gate_sigmoid(v[1]), gate[3] = gate_sigmoid(v[3]);
      gate[2] = std::tanh(v[2]);
      result.carried = gate[1] * x.carried + gate[0] * gate[2];
      const C m = gate[3] * std::tanh(result.carried);
      if (this->products() == 1) return emit(m);
      return give(narrow<T>(m));
    }
    if (is(RnnCell::gru)) {
      const C v[3] = {input(0) + sum[0], input(1) + sum[1], sum[2]};
      gate[0] = gate_sigmoid(v[0]), gate[1] = gate_sigmoid(v[1]), gate[3] = v[2];
      gate[2] = std::tanh(input(2) + x[kBias] + gate[0] * gate[3]);
      return emit((1 - gate[1]) * gate[2] + gate[1] * x.carried);
    }
    if (phase == 0) {
      gate[0] = gate_sigmoid(input(0) + sum[0]), gate[1] = gate_sigmoid(input(1) + sum[1]);
      result.carried = gate[1];
      return give(narrow<T>(gate[0] * x[kState]));
    }
    gate[2] = std::tanh(input(2) + sum[0]);
    return emit((1 - x.carried) * x[kState] + x.carried * gate[2]);
  }

  // `kept`: whether the thread keeps what its next step needs. All addresses come before the first store, after
  // which the compiler would fetch the fields of a body in shared memory again.
  __device__ __forceinline__ void store(const RnnSteps& s, int phase, int r, int unit, const Result& result,
                                        bool kept = false) const {
    const Offset row = Offset(s.now.start) + r;
    const Offset at = Offset(r) * hidden + unit, state = Offset(r) * output + unit;
    const Offset plane = row * hidden + unit, plane_step = Offset(this->all_rows) * hidden;
    const bool last = r >= s.after.rows, lstm = is(RnnCell::lstm);  // the sequence's last step
    const bool projects = lstm && phase == 1, results = phase + 1 == this->products();
    const bool keeps_gates = gates != nullptr && !this->is_simple() && !projects;
    const bool keeps_cells = cells != nullptr && lstm && !projects;
    T *const to_y = y + (row * Offset(y_step) + unit), *const to_h = h_n + state;
    T* const to_gates = keeps_gates ? gates + plane : nullptr;
    T* const to_cells = keeps_cells ? cells + plane : nullptr;
    T* const to_c = lstm ? c_n + at : nullptr;
    C* const to_carry = kept                                    ? nullptr
                        : lstm && !projects                     ? carry + at
                        : is(RnnCell::gru_before) && phase == 0 ? update + at
                                                                : nullptr;
    if (results) *to_y = result.value;
    if (keeps_gates) {
      FASTDL_UNROLL
      for (int g = 0; g < 4; ++g) {
        const bool here = is(RnnCell::gru_before) ? (phase == 0 ? g < 2 : g == 2) : true;
        if (here) to_gates[g * plane_step] = narrow<T>(result.gate[g]);
      }
    }
    if (keeps_cells) *to_cells = narrow<T>(result.carried);
    if (to_carry != nullptr) *to_carry = result.carried;
    if (results && last) *to_h = result.value;
    if (last && lstm && !projects) *to_c = narrow<T>(result.carried);
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
                 bool tf32, RnnLaunches launches, bool specialised, Stream stream) {
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
    run_layer<T, Tensor::value>("rnn", p, layer, false, scratch, plan, launches, specialised, stream);
  });
}

}  // namespace fastdl::cuda
