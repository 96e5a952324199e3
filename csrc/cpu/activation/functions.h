// The activation functions, one functor each: forward(x) and backward(g, saved) = g * f'(x), side by side.
// A functor's fields are its parameters, in the order of the table in common/activation.h. Conventions at
// kinks, and what NaN and infinities give, are PyTorch's; comparisons are written so that NaN takes PyTorch's
// branch.
#pragma once

#include "cpu/simd/math.h"

namespace fastdl {

template <class T>
struct Relu {
  using V = simd::Vec<T>;
  V forward(V x) const { return simd::max(simd::broadcast<T>(0), x); }
  V backward(V g, V y) const { return y <= T(0) ? simd::broadcast<T>(0) : g; }
};

template <class T>
struct LeakyRelu {
  using V = simd::Vec<T>;
  T slope;
  V forward(V x) const { return x > T(0) ? x : x * slope; }
  V backward(V g, V x) const { return x > T(0) ? g : g * slope; }
};

template <class T>
struct Sigmoid {
  using V = simd::Vec<T>;
  V forward(V x) const { return simd::sigmoid<T>(x); }
  V backward(V g, V y) const { return g * (y * (T(1) - y)); }
};

template <class T>
struct Tanh {
  using V = simd::Vec<T>;
  V forward(V x) const { return simd::tanh<T>(x); }
  V backward(V g, V y) const { return g * (T(1) - y * y); }
};

// x Phi(x), Phi the normal distribution function
template <class T>
struct Gelu {
  using V = simd::Vec<T>;
  static constexpr T inverse_sqrt_2pi = T(0.39894228040143267794);
  V forward(V x) const {
    const V half = x * T(0.5);
    return half * simd::erf<T, simd::ErfOf::x_by_sqrt2>(x) + half;
  }
  V backward(V g, V x) const {
    const V distribution = simd::erf<T, simd::ErfOf::x_by_sqrt2>(x) * T(0.5) + T(0.5);
    const V density = simd::exp_bounded<T>(x * x * T(-0.5)) * inverse_sqrt_2pi;
    return g * (x * density + distribution);
  }
};

// x (1 + tanh(u)) / 2 = x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3)
template <class T>
struct GeluTanh {
  using V = simd::Vec<T>;
  static constexpr T k = T(2 * 0.79788456080286535588), cubic = T(0.044715);
  // There exp(-2u) is flushed to zero, and 2u is within what sigmoid_bounded takes.
  static constexpr T saturated = sizeof(T) == 4 ? T(10.03) : T(21.15);
  V forward(V x) const {
    const V c = simd::clamp<T>(x, -saturated, saturated), ck = c * k;
    return x * simd::sigmoid_bounded<T>(c * c * cubic * ck + ck);
  }
  V backward(V g, V x) const {
    const V c = simd::clamp<T>(x, -saturated, saturated), ck = c * k, z = c * c * cubic;
    const V s = simd::sigmoid_bounded<T>(z * ck + ck);
    return g * ((s - s * s) * (z * T(3) * ck + ck) + s);
  }
};

template <class T>
struct Silu {
  using V = simd::Vec<T>;
  V forward(V x) const { return x * simd::sigmoid<T>(x); }
  V backward(V g, V x) const {
    const V s = simd::sigmoid<T>(x);
    return g * (s * (x * (T(1) - s) + T(1)));
  }
};

// x tanh(log(1 + e)), e = exp(x): tanh(log(u)) = (u^2 - 1) / (u^2 + 1), so x n / (n + 2) with n = e (e + 2).
template <class T>
struct Mish {
  using V = simd::Vec<T>;
  static constexpr T saturated = sizeof(T) == 4 ? T(20) : T(40);  // n / (n + 2) rounds to 1
  V forward(V x) const {
    const V e = simd::exp_bounded<T>(simd::min(simd::broadcast<T>(saturated), x));
    const V n = e * (e + T(2));
    return x * simd::quotient<T>(n, n + T(2));
  }
  V backward(V g, V x) const {
    const V c = simd::min(simd::broadcast<T>(saturated), x);
    const V e = simd::exp_bounded<T>(c);
    const V n = e * (e + T(2));
    const V r = simd::reciprocal<T>(n + T(2));
    return g * (r * (n + (c * e) * (e + T(1)) * r * T(4)));
  }
};

// scale * (x > 0 ? x : alpha (exp(input_scale x) - 1)): ELU, CELU and SELU
template <class T>
struct Elu {
  using V = simd::Vec<T>;
  T alpha, scale, input_scale;
  V forward(V x) const {
    return x < T(0) ? simd::expm1_negative<T>(x * input_scale) * (alpha * scale) : x * scale;
  }
  V backward(V g, V x) const {
    const V c = simd::min(simd::broadcast<T>(0), x);
    return g * (x > T(0) ? simd::broadcast<T>(scale)
                         : simd::exp_bounded<T>(c * input_scale) * (alpha * scale * input_scale));
  }
};

// log(1 + exp(beta x)) / beta, and x itself where beta x > threshold
template <class T>
struct Softplus {
  using V = simd::Vec<T>;
  T beta, threshold;
  V forward(V x) const {
    const V z = x * beta;
    const V y =
        simd::max(simd::broadcast<T>(0), z) + simd::log1p_unit<T>(simd::exp_bounded<T>(-simd::abs<T>(z)));
    return z > threshold ? x : y * (T(1) / beta);
  }
  V backward(V g, V x) const {
    const V z = x * beta;
    return z > threshold ? g : g * simd::sigmoid<T>(z);
  }
};

template <class T>
struct Hardtanh {
  using V = simd::Vec<T>;
  T low, high;
  V forward(V x) const { return simd::clamp<T>(x, low, high); }
  V backward(V g, V x) const { return (x <= low) | (x >= high) ? simd::broadcast<T>(0) : g; }
};

// min(max(x + 3, 0), 6) / 6
template <class T>
struct Hardsigmoid {
  using V = simd::Vec<T>;
  V forward(V x) const { return simd::clamp<T>(x + T(3), T(0), T(6)) * T(1.0 / 6); }
  V backward(V g, V x) const { return (x > T(-3)) & (x < T(3)) ? g * T(1.0 / 6) : simd::broadcast<T>(0); }
};

template <class T>
struct Hardswish {
  using V = simd::Vec<T>;
  V forward(V x) const { return x * simd::clamp<T>(x + T(3), T(0), T(6)) * T(1.0 / 6); }
  V backward(V g, V x) const {
    const V inside = g * (x * T(1.0 / 3) + T(0.5));
    return x <= T(-3) ? simd::broadcast<T>(0) : (x >= T(3) ? g : inside);
  }
};

template <class T>
struct Hardshrink {
  using V = simd::Vec<T>;
  T lambd;
  V forward(V x) const { return (x >= -lambd) & (x <= lambd) ? simd::broadcast<T>(0) : x; }
  V backward(V g, V x) const { return (x >= -lambd) & (x <= lambd) ? simd::broadcast<T>(0) : g; }
};

template <class T>
struct Softshrink {
  using V = simd::Vec<T>;
  T lambd;
  V forward(V x) const { return x > lambd ? x - lambd : (x < -lambd ? x + lambd : x * T(0)); }
  V backward(V g, V x) const { return (x >= -lambd) & (x <= lambd) ? simd::broadcast<T>(0) : g; }
};

template <class T>
struct Tanhshrink {
  using V = simd::Vec<T>;
  V forward(V x) const { return x - simd::tanh<T>(x); }
  V backward(V g, V x) const {
    const V y = simd::tanh<T>(x);
    return g * (y * y);
  }
};

template <class T>
struct Softsign {
  using V = simd::Vec<T>;
  V forward(V x) const { return x / (simd::abs<T>(x) + T(1)); }
  V backward(V g, V x) const {
    const V r = T(1) / (simd::abs<T>(x) + T(1));
    return g * (r * r);
  }
};

// log(sigmoid(x)) = min(x, 0) - log(1 + exp(-|x|))
template <class T>
struct Logsigmoid {
  using V = simd::Vec<T>;
  V forward(V x) const {
    return simd::min(simd::broadcast<T>(0), x) - simd::log1p_unit<T>(simd::exp_bounded<T>(-simd::abs<T>(x)));
  }
  V backward(V g, V x) const { return g * simd::sigmoid<T>(-x); }
};

template <class T>
struct Threshold {
  using V = simd::Vec<T>;
  T threshold, value;
  V forward(V x) const { return x <= threshold ? simd::broadcast<T>(value) : x; }
  V backward(V g, V x) const { return x <= threshold ? simd::broadcast<T>(0) : g; }
};

}  // namespace fastdl
