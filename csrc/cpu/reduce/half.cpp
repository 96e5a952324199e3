// Folds of numbers stored in half precision along the middle axis of (outer, n, inner): pieces that stay in a
// near cache are converted and folded as floats, their results joined in order as doubles. Sums and the squares of
// rows, the commonest, have loops of their own (fold_stored.cpp).
//
// Work: pieces over threads. Passes: the input once, two bytes a number.
#include "cpu/reduce/half.h"

#include <algorithm>

#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"

namespace fastdl {
namespace {

constexpr int64_t kRowPiece = 8192, kColumnPiece = 32768, kGrain = 16384;

// out[k] = the fold of rows of floats (kept, n), or with `columns` along the first axis of (n, kept).
void fold_floats(Fold op, const float* x, int64_t kept, int64_t n, bool columns, double parameter,
                 double* out) {
  constexpr int64_t item = sizeof(float);
  ReduceProblem problem;
  problem.x = reinterpret_cast<const char*>(x);
  problem.add_kept({kept, columns ? item : n * item, 0, 1});
  problem.add_reduced({n, columns ? kept * item : item, 0, 0});
  fold<float>(op, problem, parameter, {out, true});
}

}  // namespace

Fold joining(Fold op) {
  switch (op) {
    case Fold::maximum:
    case Fold::maximum_abs:
      return Fold::maximum;
    case Fold::minimum:
    case Fold::minimum_abs:
      return Fold::minimum;
    case Fold::product:
      return Fold::product;
    default:
      return Fold::sum;
  }
}

void fold_half(Fold op, Half half, const uint16_t* x, int64_t outer, int64_t n, int64_t inner,
               double parameter, double* out) {
  const bool squares = op == Fold::sum_square && inner == 1;
  if ((op == Fold::sum || squares) && n > 1) {
    constexpr int64_t item = sizeof(uint16_t);
    ReduceProblem problem;
    problem.x = reinterpret_cast<const char*>(x);
    problem.add_kept({outer, n * inner * item, 0, inner});
    problem.add_kept({inner, item, 0, 1});
    problem.add_reduced({n, inner * item, 0, 0});
    if (!squares) return sum_stored(half == Half::bfloat16, problem, out);
    sum_stored_squares(half == Half::bfloat16, problem, out);
    // Nothing got lost, or nothing that counts? Else again, in double.
    if (std::all_of(out, out + outer, [](double sum) { return sum > 0x1p-80 && sum < 0x1p100; })) return;
  }
  if (inner == 1 && n <= kRowPiece) {
    rows_in_floats(
        half, nullptr, outer, n, kRowPiece,
        [&](int64_t first, int64_t count, float*, const float* floats) {
          fold_floats(op, floats, count, n, false, parameter, out + first);
        },
        x);
    return;
  }
  const int64_t width = std::min(inner, kColumnPiece);  // of columns that are taken together
  const int64_t step = std::clamp<int64_t>((inner == 1 ? kRowPiece : kColumnPiece) / width, 1, n);
  const int64_t pieces = ceil_div(n, step), stretches = ceil_div(inner, width);
  memory::Buffer<double> partial(size_t(pieces > 1 ? outer * pieces * inner : 0));
  double* const to = pieces > 1 ? partial.get() : out;
  parallel_for(outer * pieces * stretches, std::max<int64_t>(1, kGrain / (step * width)),
               [&](int64_t begin, int64_t end) {
                 memory::Buffer<float> floats(size_t(step * width));
                 for (int64_t task = begin; task < end; ++task) {
                   const int64_t j = task % stretches * width, piece = task / stretches % pieces,
                                 o = task / stretches / pieces;
                   const int64_t first = piece * step, rows = std::min(step, n - first),
                                 columns = std::min(width, inner - j);
                   const uint16_t* from = x + (o * n + first) * inner + j;
                   if (columns == inner)
                     widen(floats.get(), from, rows * inner, half);
                   else
                     for (int64_t r = 0; r < rows; ++r)
                       widen(floats.get() + r * columns, from + r * inner, columns, half);
                   fold_floats(op, floats.get(), columns, rows, inner > 1, parameter,
                               to + (o * pieces + piece) * inner + j);
                 }
               });
  if (pieces == 1) return;
  constexpr int64_t item = sizeof(double);
  ReduceProblem problem;
  problem.x = reinterpret_cast<const char*>(to);
  problem.add_kept({outer, pieces * inner * item, 0, inner});
  problem.add_kept({inner, item, 0, 1});
  problem.add_reduced({pieces, inner * item, 0, 0});
  fold<double>(joining(op), problem, 0, {out, true});
}

}  // namespace fastdl
