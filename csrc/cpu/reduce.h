// Sums and other folds over any set of axes; the kernels are in reduce/.
//
// A ReduceProblem describes one or two inputs of one shape (the second may be broadcast, stride 0) whose axes
// are either kept or reduced. Axes are sorted by x's strides, outermost first, and merged where every operand
// allows it.
#pragma once

#include <cstdint>

namespace fastdl {

struct ReduceProblem {
  static constexpr int kMaxAxes = 64;
  struct Axis {
    int64_t extent;
    int64_t x, y, out;  // strides: bytes for the inputs, elements for the output
  };
  int kept_axes = 0, reduced_axes = 0;
  Axis kept[kMaxAxes], reduced[kMaxAxes];
  int64_t kept_size = 1, reduced_size = 1;
  const char* x = nullptr;
  const char* y = nullptr;

  // Axes come outermost first. Axes of one element are dropped.
  void add_kept(const Axis& axis) { add(kept, kept_axes, kept_size, axis, true); }
  void add_reduced(const Axis& axis) { add(reduced, reduced_axes, reduced_size, axis, false); }

 private:
  static void add(Axis* axes, int& count, int64_t& size, const Axis& axis, bool has_out) {
    size *= axis.extent;
    if (axis.extent == 1) return;
    if (count > 0) {
      Axis& last = axes[count - 1];
      if (last.x == axis.x * axis.extent && last.y == axis.y * axis.extent &&
          (!has_out || last.out == axis.out * axis.extent)) {
        last = {last.extent * axis.extent, axis.x, axis.y, axis.out};
        return;
      }
    }
    axes[count++] = axis;
  }
};

// What is folded over the reduced axes (x, and y where there is one). Sums of the first group are added in
// blocks of a few hundred elements in T and in double beyond, the others are computed in double altogether.
enum class Fold {
  sum,          // x
  sum_abs,      // |x|
  sum_product,  // x y
  sum_exp,      // exp(x - y)
  sum_number,   // x, 0 where NaN
  maximum,      // NaN wins
  minimum,
  maximum_abs,
  minimum_abs,

  sum_square,     // x^2
  sum_power,      // |x|^parameter
  sum_deviation,  // (x - y)^2, y double
  nonzero,        // x != 0 ? 1 : 0
  product,        // x, multiplied
};

// Where results go: kept_size elements in C order of the kept axes as given by Axis::out, multiplied by
// scale; their roots if so wished.
struct FoldOutput {
  void* data;
  bool as_double;  // else T
  double scale = 1;
  bool root = false;
};

// out[kept] = scale * fold over reduced. y is T for sum_product and sum_exp, double for sum_deviation.
template <class T>
void fold(Fold op, const ReduceProblem& problem, double parameter, const FoldOutput& out);

// Along the middle axis of a C-order array (outer, n, inner), n > 0: the extreme value and where it is first;
// NaN wins. `values` may be null.
template <class T>
void extreme_index(bool largest, const T* x, int64_t outer, int64_t n, int64_t inner, T* values,
                   int64_t* indices);

// out[o, c] = how many of the bytes x[o, :, c] of a C-order array (outer, n, inner) are not zero.
void count_true(int64_t* out, const uint8_t* x, int64_t outer, int64_t n, int64_t inner);
// out[o, c] = the sum or the product of x[o, :, c], of int32 or int64; overflow wraps around.
template <class T>
void sum_integers(bool product, int64_t* out, const T* x, int64_t outer, int64_t n, int64_t inner);

// out[o, c] = the largest or smallest of x[o, :, c], n > 0.
template <class T>
void extreme_integer(bool largest, T* out, const T* x, int64_t outer, int64_t n, int64_t inner);

// y[o, i, c] = the sum of x[o, 0 .. i, c], or with from_end of x[o, i .. n - 1, c].
template <class T>
void running_sum(T* y, const T* x, int64_t outer, int64_t n, int64_t inner, bool from_end);
template <class T>
void running_product(T* y, const T* x, int64_t outer, int64_t n, int64_t inner);
// The extreme of x[o, 0 .. i, c] and its last place; NaN wins.
template <class T>
void running_extreme(bool largest, const T* x, int64_t outer, int64_t n, int64_t inner, T* values,
                     int64_t* indices);
// y[o, i, c] = log of the sum of exp(x) over x[o, 0 .. i, c], or with from_end over x[o, i .. n - 1, c].
template <class T>
void running_logsumexp(T* y, const T* x, int64_t outer, int64_t n, int64_t inner, bool from_end);

}  // namespace fastdl
