// Integers of 8 to 64 bits: arithmetic, comparisons, bits, and selection of elements of any dtype by their
// bits.
//
//   add, sub, mul   modulo 2^bits
//   division        x / y rounded down (floor_divide) or towards zero (trunc_divide), and what it leaves
//                   (remainder, fmod)
//   compare         out = x op y, one byte per element
//   clamp           out = min(max(x, lower), upper)
//
// Vectors of whole registers where an instruction does it, plain loops for the compiler where dtypes of
// several widths meet (ivdep: a result may be written over an operand, but not beside it). Work: ranges of
// the flattened space (loop.h).
#include <type_traits>

#include "cpu/elementwise/functions.h"
#include "cpu/elementwise/loop.h"

namespace fastdl {
namespace {

// Elements worth about 10 us.
template <class T>
constexpr int64_t kGrainOf = kGrain * 4 / int64_t(sizeof(T));

// `map` (loop.h) for lanes of integers, which have no masked loads: ends go through a vector on the stack.
template <class T, int N, class F>
void map_integers(const StridedLoop<N>& loop, F f) {
  const bool streams = worth_streaming(loop, sizeof(T));
  const auto run = [f, streams](int64_t n, T* z, const auto*... x) {
    constexpr int w = kWidth<T>;
    const F g = f;
    const auto part = [](const T* from, int64_t count) __attribute__((always_inline)) {
      Vec<T> v{};
      std::memcpy(&v, from, size_t(count) * sizeof(T));
      return v;
    };
    int64_t i = 0, rest = 0;
    if (streams) rest = std::min(n, int64_t(-reinterpret_cast<uintptr_t>(z) / sizeof(T)) & (w - 1));
    for (;;) {
      if (rest > 0) {
        const Vec<T> v = g(part(x + i, rest)...);
        std::memcpy(z + i, &v, size_t(rest) * sizeof(T));
      }
      i += rest;
      if (i == n) return;
      if (streams)
        for (; i + w <= n; i += w) {
          (prefetch_ahead(x + i), ...);
          stream_store(reinterpret_cast<double*>(z + i), (Vec<double>)g(load(x + i)...));
        }
      else
        for (; i + w <= n; i += w) store(z + i, g(load(x + i)...));
      rest = n - i;
    }
  };
  [&]<size_t... I>(std::index_sequence<I...>) {
    for_each_run<1, Same<I, T>...>(loop, kGrainOf<T>, run, streams);
  }(std::make_index_sequence<N>());
}

// The same element by element: z = f(x, y).
template <class Z, class T, class F>
void for_each_pair(const StridedLoop<3>& loop, int64_t grain, F f) {
  for_each_run<1, Z, T, T>(loop, grain, [f](int64_t n, Z* z, const T* x, const T* y) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) z[i] = f(x[i], y[i]);
  });
}

constexpr bool rounds_down(Binary op) {
  return op == Binary::floor_divide || op == Binary::remainder;
}
constexpr bool is_quotient(Binary op) {
  return op == Binary::floor_divide || op == Binary::trunc_divide;
}

// int64 by int64, lane by lane. By -1 as by 1 of the negative number, which
// may wrap; the instruction would trap.
[[gnu::noinline]] Vec<double> divide_lanes(Binary op, Vec<double> x, Vec<double> y) {
  using I = Vec<int64_t>;
  const I as = (I)x, bs = (I)y;
  I z;
  for (int i = 0; i < kWidth<double>; ++i) {
    const int64_t b = bs[i] == -1 ? 1 : bs[i], a = bs[i] == -1 ? int64_t(-uint64_t(as[i])) : as[i];
    const int64_t q = b == 0 ? 0 : a / b, r = b == 0 ? 0 : a - q * b;
    const int64_t lower =
        rounds_down(op) && r != 0 && (r ^ b) < 0 ? -1 : 0;  // where the quotient was rounded up
    z[i] = is_quotient(op) ? q + lower : r + (b & lower);
  }
  return (Vec<double>)z;
}
// The same by doubles, which hold integers below 2^51 exactly: some five times as fast as the instruction.
// The nearest quotient's remainder is at most half of y, and moved by one y where its sign is not the wanted
// one.
[[gnu::always_inline]] inline Vec<double> integer_division(Binary op, Vec<double> x, Vec<double> y) {
  using V = Vec<double>;
  using I = Vec<int64_t>;
  using U = Vec<uint64_t>;
  constexpr double kMagic = 0x1.8p52;  // an integer added to it is its bits' last places
  constexpr int64_t kMagicBits = 0x4338000000000000;
  constexpr uint64_t kLimit = uint64_t(1) << 51;
  if (any((I)((((U)x + kLimit) | ((U)y + kLimit)) >> 52) != 0)) return divide_lanes(op, x, y);
  const V a = (V)((I)x + kMagicBits) - kMagic, b = (V)((I)y + kMagicBits) - kMagic;
  const V nearest = (a / b + kMagic) - kMagic, rest = a - nearest * b, like = rounds_down(op) ? b : a;
  const V step = (like < 0.0) == (b < 0.0) ? broadcast(1.0) : broadcast(-1.0);
  const V move = (rest != 0.0) & ((rest < 0.0) != (like < 0.0)) ? step : V{};
  const V result = is_quotient(op) ? nearest - move : rest + move * b;
  const I bits = (I)(result + kMagic) - kMagicBits;
  return (V)((I)y == 0 ? I{} : bits);
}

// Narrower integers by floats, or by doubles those of 32 bits: with so many digits to spare no quotient is
// rounded up to an integer. By -1 as by 1 of the negative number, which may wrap.
template <class T>
void divide(Binary op, const StridedLoop<3>& loop) {
  if constexpr (std::is_same_v<T, int64_t>) {
    map<double, true>(loop, kGrainSlow,
                      [op](Vec<double> x, Vec<double> y) { return integer_division(op, x, y); });
  } else {
    using F = std::conditional_t<sizeof(T) == 4, double, float>;
    const int32_t down = -int32_t(rounds_down(op)), quotient = -int32_t(is_quotient(op));
    for_each_pair<T, T>(loop, kGrainSlow, [down, quotient](T x, T y) {
      const int32_t b = y, by = b == -1 || b == 0 ? 1 : b;
      const int32_t a = b == -1 ? int32_t(0u - uint32_t(x)) : int32_t(x);
      const int32_t q = int32_t(F(a) / F(by)), r = a - q * by;
      const int32_t lower = (r != 0 && (r ^ b) < 0 ? -1 : 0) & down;  // -1 where the quotient was rounded up
      const int32_t result = ((q + lower) & quotient) | ((r + (b & lower)) & ~quotient);
      return T(b == 0 ? 0 : result);
    });
  }
}

template <class T>
void arithmetic(Binary op, const StridedLoop<3>& loop) {
  using V = Vec<T>;
  using U = Vec<std::make_unsigned_t<T>>;
  constexpr int bits = 8 * int(sizeof(T));
  // What shifts are computed in: as narrow as there are instructions for it.
  using Signed = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;
  using Word = std::make_unsigned_t<Signed>;
  switch (op) {
    case Binary::add:
      return map_integers<T>(loop, [](V x, V y) { return (V)((U)x + (U)y); });
    case Binary::sub:
      return map_integers<T>(loop, [](V x, V y) { return (V)((U)x - (U)y); });
    case Binary::mul:
      return map_integers<T>(loop, [](V x, V y) { return (V)((U)x * (U)y); });
    case Binary::maximum:
      return map_integers<T>(loop, [](V x, V y) { return x > y ? x : y; });
    case Binary::minimum:
      return map_integers<T>(loop, [](V x, V y) { return x < y ? x : y; });
    case Binary::left_shift:
      return for_each_pair<T, T>(loop, kGrainOf<T>, [](T x, T y) {
        const bool inside = Word(y) < bits;
        return T(inside ? Word(x) << (Word(y) & (bits - 1)) : 0);
      });
    case Binary::right_shift:
      return for_each_pair<T, T>(loop, kGrainOf<T>, [](T x, T y) {
        const bool inside = Word(y) < bits;
        return T(inside ? Signed(x) >> (Word(y) & (bits - 1)) : Signed(x < 0 ? -1 : 0));
      });
    default:
      return divide<T>(op, loop);
  }
}

// Integers have an order without exceptions: two loops serve six comparisons.
template <class T>
void compare_in_order(Compare op, const StridedLoop<3>& loop) {
  const bool exchanged = op == Compare::gt || op == Compare::le;
  const uint8_t inverted = op == Compare::ne || op == Compare::le || op == Compare::ge;
  if (op == Compare::eq || op == Compare::ne)
    return for_each_pair<uint8_t, T>(loop, kGrain,
                                     [inverted](T x, T y) { return uint8_t(uint8_t(x == y) ^ inverted); });
  for_each_run<1, uint8_t, T, T>(loop, kGrain,
                                 [exchanged, inverted](int64_t n, uint8_t* z, const T* x, const T* y) {
                                   if (exchanged) std::swap(x, y);
#pragma GCC ivdep
                                   for (int64_t i = 0; i < n; ++i)
                                     z[i] = uint8_t(uint8_t(x[i] < y[i]) ^ inverted);
                                 });
}

template <class F>
void by_type(Integer type, F&& f) {
  switch (type) {
    case Integer::int8:
      return f(int8_t{});
    case Integer::uint8:
      return f(uint8_t{});
    case Integer::int16:
      return f(int16_t{});
    case Integer::int32:
      return f(int32_t{});
    case Integer::int64:
      return f(int64_t{});
  }
}

}  // namespace

void integer_forward(Integer type, Binary op, const StridedLoop<3>& loop) {
  by_type(type, [&]<class T>(T) { arithmetic<T>(op, loop); });
}

void integer_compare(Integer type, Compare op, const StridedLoop<3>& loop) {
  by_type(type, [&]<class T>(T) { compare_in_order<T>(op, loop); });
}

void integer_abs(Integer type, const StridedLoop<2>& loop) {
  by_type(type, [&]<class T>(T) {
    using V = Vec<T>;
    using U = Vec<std::make_unsigned_t<T>>;
    map_integers<T>(loop, [](V x) { return x < 0 ? (V)(-(U)x) : x; });
  });
}

void integer_clamp(Integer type, int64_t lower, int64_t upper, const StridedLoop<2>& loop) {
  by_type(type, [&]<class T>(T) {
    using V = Vec<T>;
    map_integers<T>(loop, [low = V{} + T(lower), high = V{} + T(upper)](V x) {
      const V raised = x > low ? x : low;
      return raised < high ? raised : high;
    });
  });
}

void bitwise_forward(int64_t bytes, Bitwise op, const StridedLoop<3>& loop) {
  const auto run = [&]<class T>(T) {
    using V = Vec<T>;
    switch (op) {
      case Bitwise::conjunction:
        return map_integers<T>(loop, [](V x, V y) { return x & y; });
      case Bitwise::disjunction:
        return map_integers<T>(loop, [](V x, V y) { return x | y; });
      case Bitwise::difference:
        return map_integers<T>(loop, [](V x, V y) { return x ^ y; });
    }
  };
  if (bytes == 1) return run(uint8_t{});
  if (bytes == 2) return run(int16_t{});
  bytes == 4 ? run(int32_t{}) : run(int64_t{});
}

void where_of_bytes(int64_t bytes, const StridedLoop<4>& loop) {
  if (bytes == 8) return where_forward<double>(loop);
  if (bytes == 4) return where_forward<float>(loop);
  const auto run = [&]<class T>(T) {
    for_each_run<1, T, uint8_t, T, T>(
        loop, kGrain, [](int64_t n, T* z, const uint8_t* c, const T* x, const T* y) {
#pragma GCC ivdep
          for (int64_t i = 0; i < n; ++i)  // (a jump would take ten times longer)
            z[i] = T(y[i] ^ ((x[i] ^ y[i]) & -T(c[i] != 0)));
        });
  };
  bytes == 2 ? run(int16_t{}) : run(uint8_t{});
}

}  // namespace fastdl
