// The gate arithmetic of each cell on a tile: some rows (sequences) of one step times up to 2 vectors of
// hidden units. Forward finds the gates' sums in memory and leaves the gates there; backward turns gates into
// gradients of those sums. Formulas: see kernels/reference/rnn.py.
//
// Pointers are those of the tile's first row and unit. In panels (product.h) rows follow each other, kNR
// apart; the arrays of the layer have row strides of their own.
#pragma once

#include <type_traits>

#include "common/rnn.h"
#include "cpu/gemm/tile.h"
#include "cpu/simd/math.h"

namespace fastdl::rnn {

using tile::kNR;

template <class T>
struct ForwardTile {
  int rows, cols;
  T* gates;             // panels, in: sums without bias
  int64_t gate_stride;  // from one gate's panel to the next
  const T* bias;        // gate g at [g * hidden]; gru's fourth is of W_hn h
  int64_t hidden;
  T *c, *cells;  // panels; cells: null if not kept
  T* h;          // panel
  T* y;          // h once more
  int64_t y_ld;
  T* inner;   // where a second product follows: its left operand, a panel
  bool keep;  // whether backward needs the gates
};

template <class T>
struct BackwardTile {
  int rows, cols;
  const T* gates;  // panels
  int64_t gate_stride;
  T* d;  // panels, out: gradients of the gates' sums
  int64_t d_stride;
  T* carry;         // panel; gradient of h: in from the step after, out what bypasses the product
  const T* grad_y;  // may be null
  int64_t grad_y_ld;
  T* dc;           // panel; gradient of c, in and out
  const T* cells;  // panel
  const T* y;      // simple cells: h'
  int64_t y_ld;
  const T* const* h_before;  // of each row
  const T* const* c_before;
  const T* through;  // panel; gru_before: gradient of r * h
  T* inner;          // projected lstm: o tanh(c'), gru_before: r * h; as weight gradients need them
  int64_t inner_ld;
  T* bias;         // sums of d over rows, added to
  int64_t hidden;  // from gate to gate of bias
};

namespace detail {

using simd::Vec;

// f(j, read, write): f once per vector of the tile's columns; read(p) and write(p, v) touch its lanes only.
template <class T, class F>
[[gnu::always_inline]] inline void for_columns(int cols, F&& f) {
  constexpr int w = simd::kWidth<T>;
  int j = 0;
  for (; j + w <= cols; j += w)
    f(
        j, [](const T* p) __attribute__((always_inline)) { return simd::load(p); },
        [](T* p, Vec<T> v) __attribute__((always_inline)) { simd::store<T>(p, v); });
  if (j < cols) {
    const int n = cols - j;
    f(
        j, [n](const T* p) __attribute__((always_inline)) { return simd::load_n(p, n); },
        [n](T* p, Vec<T> v) __attribute__((always_inline)) { simd::store_n(p, v, n); });
  }
}

// Sums of gates [first, first + G) into the bias gradient.
template <class T, int G>
[[gnu::always_inline]] inline void add_sums(const BackwardTile<T>& t, int first, int j,
                                            const Vec<T> (&sum)[G], auto read, auto write) {
#pragma GCC unroll 4
  for (int g = 0; g < G; ++g) {
    T* to = t.bias + (first + g) * t.hidden + j;
    write(to, read(to) + sum[g]);
  }
}

}  // namespace detail

// ------------------------------------------------------------------------------------------ forward

template <class T, bool kTanh>
void simple_forward(const ForwardTile<T>& t) {
  using namespace simd;
  detail::for_columns<T>(t.cols, [&](int j, auto read, auto write) __attribute__((always_inline)) {
    const Vec<T> bias = read(t.bias + j);
    for (int r = 0; r < t.rows; ++r) {
      const Vec<T> a = read(t.gates + r * kNR<T> + j) + bias;
      Vec<T> h;
      if constexpr (kTanh)
        h = tanh<T>(a);
      else
        h = max(broadcast<T>(0), a);
      write(t.h + r * kNR<T> + j, h);
      write(t.y + r * t.y_ld + j, h);
    }
  });
}

template <class T>
void lstm_forward(const ForwardTile<T>& t) {
  using namespace simd;
  const int64_t stride = t.gate_stride;
  detail::for_columns<T>(t.cols, [&](int j, auto read, auto write) __attribute__((always_inline)) {
    const T* bias = t.bias + j;
    const Vec<T> bi = read(bias), bf = read(bias + t.hidden), bg = read(bias + 2 * t.hidden),
                 bo = read(bias + 3 * t.hidden);
    for (int r = 0; r < t.rows; ++r) {
      T* gates = t.gates + r * kNR<T> + j;
      const Vec<T> i = sigmoid<T>(read(gates) + bi), f = sigmoid<T>(read(gates + stride) + bf),
                   g = tanh<T>(read(gates + 2 * stride) + bg), o = sigmoid<T>(read(gates + 3 * stride) + bo);
      T* c = t.c + r * kNR<T> + j;
      const Vec<T> cell = f * read(c) + i * g;
      write(c, cell);
      if (t.keep) {
        write(gates, i);
        write(gates + stride, f);
        write(gates + 2 * stride, g);
        write(gates + 3 * stride, o);
        write(t.cells + r * kNR<T> + j, cell);
      }
      const Vec<T> h = o * tanh<T>(cell);
      if (t.inner) {
        write(t.inner + r * kNR<T> + j, h);
      } else {
        write(t.h + r * kNR<T> + j, h);
        write(t.y + r * t.y_ld + j, h);
      }
    }
  });
}

template <class T>
void gru_forward(const ForwardTile<T>& t) {
  using namespace simd;
  const int64_t stride = t.gate_stride;
  detail::for_columns<T>(t.cols, [&](int j, auto read, auto write) __attribute__((always_inline)) {
    const T* bias = t.bias + j;
    const Vec<T> br = read(bias), bz = read(bias + t.hidden), bn = read(bias + 2 * t.hidden),
                 bq = read(bias + 3 * t.hidden);
    for (int k = 0; k < t.rows; ++k) {
      T *gates = t.gates + k * kNR<T> + j, *state = t.h + k * kNR<T> + j;
      const Vec<T> r = sigmoid<T>(read(gates) + br), z = sigmoid<T>(read(gates + stride) + bz),
                   q = read(gates + 3 * stride) + bq, n = tanh<T>(read(gates + 2 * stride) + bn + r * q);
      if (t.keep) {
        write(gates, r);
        write(gates + stride, z);
        write(gates + 2 * stride, n);
        write(gates + 3 * stride, q);
      }
      const Vec<T> h = z * (read(state) - n) + n;
      write(state, h);
      write(t.y + k * t.y_ld + j, h);
    }
  });
}

// r, z, and r * h for the second product.
template <class T>
void gru_before_reset(const ForwardTile<T>& t) {
  using namespace simd;
  detail::for_columns<T>(t.cols, [&](int j, auto read, auto write) __attribute__((always_inline)) {
    const Vec<T> br = read(t.bias + j), bz = read(t.bias + t.hidden + j);
    for (int k = 0; k < t.rows; ++k) {
      T *gates = t.gates + k * kNR<T> + j, *update = gates + t.gate_stride;
      const Vec<T> r = sigmoid<T>(read(gates) + br);
      write(gates, r);
      write(update, sigmoid<T>(read(update) + bz));
      write(t.inner + k * kNR<T> + j, r * read(t.h + k * kNR<T> + j));
    }
  });
}

template <class T>
void gru_before_update(const ForwardTile<T>& t) {
  using namespace simd;
  detail::for_columns<T>(t.cols, [&](int j, auto read, auto write) __attribute__((always_inline)) {
    const Vec<T> bn = read(t.bias + 2 * t.hidden + j);
    for (int k = 0; k < t.rows; ++k) {
      T *gates = t.gates + k * kNR<T> + j, *candidate = gates + 2 * t.gate_stride,
        *state = t.h + k * kNR<T> + j;
      const Vec<T> z = read(gates + t.gate_stride), n = tanh<T>(read(candidate) + bn), old = read(state);
      write(candidate, n);
      const Vec<T> h = z * (n - old) + old;
      write(state, h);
      write(t.y + k * t.y_ld + j, h);
    }
  });
}

// ------------------------------------------------------------------------------------------ backward

template <class T>
[[gnu::always_inline]] inline simd::Vec<T> grad_h(const BackwardTile<T>& t, int r, int j, auto read) {
  const simd::Vec<T> carry = read(t.carry + r * kNR<T> + j);
  return t.grad_y ? carry + read(t.grad_y + r * t.grad_y_ld + j) : carry;
}

template <class T, bool kTanh>
void simple_backward(const BackwardTile<T>& t) {
  using namespace simd;
  detail::for_columns<T>(t.cols, [&](int j, auto read, auto write) __attribute__((always_inline)) {
    Vec<T> sum[1]{};
    for (int r = 0; r < t.rows; ++r) {
      const Vec<T> g = grad_h<T>(t, r, j, read), h = read(t.y + r * t.y_ld + j);
      Vec<T> d;
      if constexpr (kTanh)
        d = g * (T(1) - h * h);
      else
        d = h > T(0) ? g : Vec<T>{};
      write(t.d + r * kNR<T> + j, d);
      sum[0] += d;
    }
    detail::add_sums<T>(t, 0, j, sum, read, write);
  });
}

template <class T>
void lstm_backward(const BackwardTile<T>& t) {
  using namespace simd;
  const int64_t from = t.gate_stride, to = t.d_stride;
  detail::for_columns<T>(t.cols, [&](int j, auto read, auto write) __attribute__((always_inline)) {
    Vec<T> sum[4]{};
    for (int r = 0; r < t.rows; ++r) {
      const T* gates = t.gates + r * kNR<T> + j;
      const Vec<T> i = read(gates), f = read(gates + from), g = read(gates + 2 * from),
                   o = read(gates + 3 * from), tc = tanh<T>(read(t.cells + r * kNR<T> + j)),
                   dh = grad_h<T>(t, r, j, read);
      T *dc = t.dc + r * kNR<T> + j, *d = t.d + r * kNR<T> + j;
      const Vec<T> ot = o * tc, dcell = read(dc) + dh * (o - ot * tc);
      if (t.inner) write(t.inner + r * t.inner_ld + j, ot);
      const Vec<T> di = dcell * g * (i - i * i), df = dcell * read(t.c_before[r] + j) * (f - f * f),
                   dg = dcell * i * (T(1) - g * g), dgate = dh * tc * (o - o * o);
      write(d, di);
      write(d + to, df);
      write(d + 2 * to, dg);
      write(d + 3 * to, dgate);
      write(dc, dcell * f);
      sum[0] += di, sum[1] += df, sum[2] += dg, sum[3] += dgate;
    }
    detail::add_sums<T>(t, 0, j, sum, read, write);
  });
}

template <class T>
void gru_backward(const BackwardTile<T>& t) {
  using namespace simd;
  const int64_t from = t.gate_stride, to = t.d_stride;
  detail::for_columns<T>(t.cols, [&](int j, auto read, auto write) __attribute__((always_inline)) {
    Vec<T> sum[4]{};
    for (int k = 0; k < t.rows; ++k) {
      const T* gates = t.gates + k * kNR<T> + j;
      const Vec<T> r = read(gates), z = read(gates + from), n = read(gates + 2 * from),
                   q = read(gates + 3 * from), dh = grad_h<T>(t, k, j, read);
      T* d = t.d + k * kNR<T> + j;
      const Vec<T> dhz = dh * z, dn = (dh - dhz) * (T(1) - n * n), dq = dn * r, dr = dq * q * (T(1) - r),
                   dz = (dhz - dhz * z) * (read(t.h_before[k] + j) - n);
      write(d, dr);
      write(d + to, dz);
      write(d + 2 * to, dn);
      write(d + 3 * to, dq);
      write(t.carry + k * kNR<T> + j, dhz);
      sum[0] += dr, sum[1] += dz, sum[2] += dn, sum[3] += dq;
    }
    detail::add_sums<T>(t, 0, j, sum, read, write);
  });
}

// Of n and z; the gradient of r follows from the product of n's with W_hn.
template <class T>
void gru_before_update_backward(const BackwardTile<T>& t) {
  using namespace simd;
  const int64_t from = t.gate_stride, to = t.d_stride;
  detail::for_columns<T>(t.cols, [&](int j, auto read, auto write) __attribute__((always_inline)) {
    Vec<T> sum[2]{};
    for (int k = 0; k < t.rows; ++k) {
      const T* gates = t.gates + k * kNR<T> + j;
      const Vec<T> z = read(gates + from), n = read(gates + 2 * from), dh = grad_h<T>(t, k, j, read);
      T* d = t.d + k * kNR<T> + j;
      const Vec<T> dhz = dh * z, dn = dhz * (T(1) - n * n),
                   dz = (dhz - dhz * z) * (n - read(t.h_before[k] + j));
      write(d + to, dz);
      write(d + 2 * to, dn);
      write(t.carry + k * kNR<T> + j, dh - dhz);
      sum[0] += dz, sum[1] += dn;
    }
    detail::add_sums<T>(t, 1, j, sum, read, write);
  });
}

template <class T>
void gru_before_reset_backward(const BackwardTile<T>& t) {
  using namespace simd;
  detail::for_columns<T>(t.cols, [&](int j, auto read, auto write) __attribute__((always_inline)) {
    Vec<T> sum[1]{};
    for (int k = 0; k < t.rows; ++k) {
      const Vec<T> r = read(t.gates + k * kNR<T> + j), through = read(t.through + k * kNR<T> + j),
                   rh = r * read(t.h_before[k] + j), dr = through * (rh - rh * r);
      write(t.inner + k * t.inner_ld + j, rh);
      write(t.d + k * kNR<T> + j, dr);
      T* carry = t.carry + k * kNR<T> + j;
      write(carry, read(carry) + through * r);
      sum[0] += dr;
    }
    detail::add_sums<T>(t, 0, j, sum, read, write);
  });
}

}  // namespace fastdl::rnn
