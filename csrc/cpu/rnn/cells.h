// The gate arithmetic of each cell on a tile: some rows (sequences) of one step times up to 2 vectors of
// hidden units. Forward finds the gates' sums in memory and leaves the gates there; backward turns gates into
// gradients of those sums. Formulas: see kernels/reference/rnn.py.
#pragma once

#include <type_traits>

#include "common/rnn.h"
#include "cpu/simd/math.h"

namespace fastdl::rnn {

template <class T>
struct ForwardTile {
  int rows, cols;
  int64_t hidden;  // distance between gates within a row, and of c's and cells' rows
  T* gates;        // row r, gate g, unit j at [r * gates_ld + g * hidden + j]; likewise below
  int64_t gates_ld;
  const T* bias_n;  // gru: of W_hn h
  T *c, *cells;     // cells: null if not kept
  T* h;
  int64_t h_ld;
  T* y;  // h once more
  int64_t y_ld;
  T* inner;  // where a second product follows: its left operand
  int64_t inner_ld;
  bool keep;  // whether backward needs the gates
};

template <class T>
struct BackwardTile {
  int rows, cols;
  int64_t hidden;
  const T* gates;
  int64_t gates_ld;
  T* d;  // out: gradients of the gates' sums
  int64_t d_ld;
  T* carry;  // gradient of h: in from the step after, out what bypasses the product
  int64_t carry_ld;
  const T* grad_y;  // may be null
  int64_t grad_y_ld;
  T* dc;  // gradient of c, in and out
  const T* cells;
  const T* y;  // simple cells: h'
  int64_t y_ld;
  const T* const* h_before;  // of each row, at unit 0 of the tile
  const T* const* c_before;
  const T* through;  // gru_before: gradient of r * h
  int64_t through_ld;
  T* inner;  // projected lstm: o tanh(c'), gru_before: r * h; as weight gradients need them
  T* bias;   // sums of d over rows, added to; gate g at [g * hidden]
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

template <class T>
Vec<T> one() {
  return simd::broadcast<T>(1);
}

}  // namespace detail

// ------------------------------------------------------------------------------------------ forward

template <class T, bool kTanh>
void simple_forward(const ForwardTile<T>& t) {
  using namespace simd;
  detail::for_columns<T>(t.cols, [&](int j, auto read, auto write) __attribute__((always_inline)) {
    for (int r = 0; r < t.rows; ++r) {
      const Vec<T> a = read(t.gates + r * t.gates_ld + j);
      Vec<T> h;
      if constexpr (kTanh)
        h = tanh<T>(a);
      else
        h = max(broadcast<T>(0), a);
      write(t.h + r * t.h_ld + j, h);
      write(t.y + r * t.y_ld + j, h);
    }
  });
}

template <class T>
void lstm_forward(const ForwardTile<T>& t) {
  using namespace simd;
  detail::for_columns<T>(t.cols, [&](int j, auto read, auto write) __attribute__((always_inline)) {
    for (int r = 0; r < t.rows; ++r) {
      T* gates = t.gates + r * t.gates_ld + j;
      const Vec<T> i = sigmoid<T>(read(gates)), f = sigmoid<T>(read(gates + t.hidden)),
                   g = tanh<T>(read(gates + 2 * t.hidden)), o = sigmoid<T>(read(gates + 3 * t.hidden));
      T* c = t.c + r * t.hidden + j;
      const Vec<T> cell = f * read(c) + i * g;
      write(c, cell);
      if (t.keep) {
        write(gates, i);
        write(gates + t.hidden, f);
        write(gates + 2 * t.hidden, g);
        write(gates + 3 * t.hidden, o);
        write(t.cells + r * t.hidden + j, cell);
      }
      const Vec<T> h = o * tanh<T>(cell);
      if (t.inner) {
        write(t.inner + r * t.inner_ld + j, h);
      } else {
        write(t.h + r * t.h_ld + j, h);
        write(t.y + r * t.y_ld + j, h);
      }
    }
  });
}

template <class T>
void gru_forward(const ForwardTile<T>& t) {
  using namespace simd;
  detail::for_columns<T>(t.cols, [&](int j, auto read, auto write) __attribute__((always_inline)) {
    const Vec<T> bias = t.bias_n ? read(t.bias_n + j) : Vec<T>{};
    for (int k = 0; k < t.rows; ++k) {
      T *gates = t.gates + k * t.gates_ld + j, *state = t.h + k * t.h_ld + j;
      const Vec<T> r = sigmoid<T>(read(gates)), z = sigmoid<T>(read(gates + t.hidden)),
                   q = read(gates + 3 * t.hidden) + bias, n = tanh<T>(read(gates + 2 * t.hidden) + r * q);
      if (t.keep) {
        write(gates, r);
        write(gates + t.hidden, z);
        write(gates + 2 * t.hidden, n);
        write(gates + 3 * t.hidden, q);
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
    for (int k = 0; k < t.rows; ++k) {
      T* gates = t.gates + k * t.gates_ld + j;
      const Vec<T> r = sigmoid<T>(read(gates));
      write(gates, r);
      write(gates + t.hidden, sigmoid<T>(read(gates + t.hidden)));
      write(t.inner + k * t.inner_ld + j, r * read(t.h + k * t.h_ld + j));
    }
  });
}

template <class T>
void gru_before_update(const ForwardTile<T>& t) {
  using namespace simd;
  detail::for_columns<T>(t.cols, [&](int j, auto read, auto write) __attribute__((always_inline)) {
    for (int k = 0; k < t.rows; ++k) {
      T *gates = t.gates + k * t.gates_ld + j, *state = t.h + k * t.h_ld + j;
      const Vec<T> z = read(gates + t.hidden), n = tanh<T>(read(gates + 2 * t.hidden)), old = read(state);
      write(gates + 2 * t.hidden, n);
      const Vec<T> h = z * (n - old) + old;
      write(state, h);
      write(t.y + k * t.y_ld + j, h);
    }
  });
}

// ------------------------------------------------------------------------------------------ backward

template <class T>
[[gnu::always_inline]] inline simd::Vec<T> grad_h(const BackwardTile<T>& t, int r, int j, auto read) {
  const simd::Vec<T> carry = read(t.carry + r * t.carry_ld + j);
  return t.grad_y ? carry + read(t.grad_y + r * t.grad_y_ld + j) : carry;
}

template <class T, bool kTanh>
void simple_backward(const BackwardTile<T>& t) {
  using namespace simd;
  detail::for_columns<T>(t.cols, [&](int j, auto read, auto write) __attribute__((always_inline)) {
    Vec<T> sum{};
    for (int r = 0; r < t.rows; ++r) {
      const Vec<T> g = grad_h<T>(t, r, j, read), h = read(t.y + r * t.y_ld + j);
      Vec<T> d;
      if constexpr (kTanh)
        d = g * (T(1) - h * h);
      else
        d = h > T(0) ? g : Vec<T>{};
      write(t.d + r * t.d_ld + j, d);
      sum += d;
    }
    write(t.bias + j, read(t.bias + j) + sum);
  });
}

template <class T>
void lstm_backward(const BackwardTile<T>& t) {
  using namespace simd;
  const int64_t hidden = t.hidden;
  detail::for_columns<T>(t.cols, [&](int j, auto read, auto write) __attribute__((always_inline)) {
    Vec<T> sum[4]{};
    for (int r = 0; r < t.rows; ++r) {
      const T* gates = t.gates + r * t.gates_ld + j;
      const Vec<T> i = read(gates), f = read(gates + hidden), g = read(gates + 2 * hidden),
                   o = read(gates + 3 * hidden), tc = tanh<T>(read(t.cells + r * hidden + j)),
                   dh = grad_h<T>(t, r, j, read);
      T *dc = t.dc + r * hidden + j, *d = t.d + r * t.d_ld + j;
      const Vec<T> ot = o * tc, dcell = read(dc) + dh * (o - ot * tc);
      if (t.inner) write(t.inner + r * hidden + j, ot);
      const Vec<T> di = dcell * g * (i - i * i), df = dcell * read(t.c_before[r] + j) * (f - f * f),
                   dg = dcell * i * (T(1) - g * g), dgate = dh * tc * (o - o * o);
      write(d, di);
      write(d + hidden, df);
      write(d + 2 * hidden, dg);
      write(d + 3 * hidden, dgate);
      write(dc, dcell * f);
      sum[0] += di, sum[1] += df, sum[2] += dg, sum[3] += dgate;
    }
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) write(t.bias + g * hidden + j, read(t.bias + g * hidden + j) + sum[g]);
  });
}

template <class T>
void gru_backward(const BackwardTile<T>& t) {
  using namespace simd;
  const int64_t hidden = t.hidden;
  detail::for_columns<T>(t.cols, [&](int j, auto read, auto write) __attribute__((always_inline)) {
    Vec<T> sum[4]{};
    for (int k = 0; k < t.rows; ++k) {
      const T* gates = t.gates + k * t.gates_ld + j;
      const Vec<T> r = read(gates), z = read(gates + hidden), n = read(gates + 2 * hidden),
                   q = read(gates + 3 * hidden), dh = grad_h<T>(t, k, j, read);
      T* d = t.d + k * t.d_ld + j;
      const Vec<T> dhz = dh * z, dn = (dh - dhz) * (T(1) - n * n), dq = dn * r, dr = dq * q * (T(1) - r),
                   dz = (dhz - dhz * z) * (read(t.h_before[k] + j) - n);
      write(d, dr);
      write(d + hidden, dz);
      write(d + 2 * hidden, dn);
      write(d + 3 * hidden, dq);
      write(t.carry + k * t.carry_ld + j, dhz);
      sum[0] += dr, sum[1] += dz, sum[2] += dn, sum[3] += dq;
    }
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) write(t.bias + g * hidden + j, read(t.bias + g * hidden + j) + sum[g]);
  });
}

// Of n and z; the gradient of r follows from the product of n's with W_hn.
template <class T>
void gru_before_update_backward(const BackwardTile<T>& t) {
  using namespace simd;
  const int64_t hidden = t.hidden;
  detail::for_columns<T>(t.cols, [&](int j, auto read, auto write) __attribute__((always_inline)) {
    Vec<T> sum[2]{};
    for (int k = 0; k < t.rows; ++k) {
      const T* gates = t.gates + k * t.gates_ld + j;
      const Vec<T> z = read(gates + hidden), n = read(gates + 2 * hidden), dh = grad_h<T>(t, k, j, read);
      T* d = t.d + k * t.d_ld + j;
      const Vec<T> dhz = dh * z, dn = dhz * (T(1) - n * n),
                   dz = (dhz - dhz * z) * (n - read(t.h_before[k] + j));
      write(d + hidden, dz);
      write(d + 2 * hidden, dn);
      write(t.carry + k * t.carry_ld + j, dh - dhz);
      sum[0] += dz, sum[1] += dn;
    }
    write(t.bias + hidden + j, read(t.bias + hidden + j) + sum[0]);
    write(t.bias + 2 * hidden + j, read(t.bias + 2 * hidden + j) + sum[1]);
  });
}

template <class T>
void gru_before_reset_backward(const BackwardTile<T>& t) {
  using namespace simd;
  detail::for_columns<T>(t.cols, [&](int j, auto read, auto write) __attribute__((always_inline)) {
    Vec<T> sum{};
    for (int k = 0; k < t.rows; ++k) {
      const Vec<T> r = read(t.gates + k * t.gates_ld + j), through = read(t.through + k * t.through_ld + j),
                   rh = r * read(t.h_before[k] + j), dr = through * (rh - rh * r);
      write(t.inner + k * t.hidden + j, rh);
      write(t.d + k * t.d_ld + j, dr);
      T* carry = t.carry + k * t.carry_ld + j;
      write(carry, read(carry) + through * r);
      sum += dr;
    }
    write(t.bias + j, read(t.bias + j) + sum);
  });
}

}  // namespace fastdl::rnn
