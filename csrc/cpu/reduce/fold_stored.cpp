// Sums of numbers stored in half precision, and of their squares along rows, read where they lie: the folds of floats,
// with another load.
// (Other folds go by pieces that are converted first, half.cpp.)
#include "cpu/reduce/fold_columns.h"
#include "cpu/reduce/fold_rows.h"
#include "cpu/simd/half.h"

namespace fastdl {
namespace {

template <class Format>
void sum(const ReduceProblem& p, double* out) {
  using T = Stored<Format>;
  const auto same = [](auto x, auto) { return x; };
  const FoldOutput to{out, true};
  if (p.reduced[p.reduced_axes - 1].x == int64_t(sizeof(T))) {
    using Folding = RowFolder<T, T, float, Second::none, Add, decltype(same)>;
    fold_rows(Folding(p, to, same), Folding::loops);
  } else {
    using Folding = ColumnFolder<T, T, float, Second::none, Add, decltype(same)>;
    fold_columns(Folding(p, to, same), Folding::loop);
  }
}

template <class Format>
void sum_squares(const ReduceProblem& p, double* out) {
  using T = Stored<Format>;
  const auto square = [](auto x, auto) { return x * x; };
  using Folding = RowFolder<T, T, float, Second::none, Add, decltype(square)>;
  const FoldOutput to{out, true};
  fold_rows(Folding(p, to, square), Folding::loops);
}

}  // namespace

// Declared in half.h, which has another Half than simd.h.
void sum_stored(bool is_bfloat16, const ReduceProblem& p, double* out) {
  is_bfloat16 ? sum<BFloat16>(p, out) : sum<Float16>(p, out);
}
void sum_stored_squares(bool is_bfloat16, const ReduceProblem& p, double* out) {
  is_bfloat16 ? sum_squares<BFloat16>(p, out) : sum_squares<Float16>(p, out);
}

}  // namespace fastdl
