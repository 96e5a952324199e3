// Folds of numbers stored in half precision; see half.cpp.
#pragma once

#include "cpu/half.h"
#include "cpu/reduce.h"

namespace fastdl {

// out[o, c] = the fold of x[o, :, c] of a C-order array (outer, n, inner), n > 0; none that takes two inputs.
void fold_half(Fold op, Half half, const uint16_t* x, int64_t outer, int64_t n, int64_t inner,
               double parameter, double* out);

// The same for sums, of any problem that reduces something.
void sum_stored(bool is_bfloat16, const ReduceProblem& problem, double* out);
// And for sums of squares, of problems whose last reduced axis lies in memory without gaps. The squares are floats:
// what is very small or large may be 0 or infinite.
void sum_stored_squares(bool is_bfloat16, const ReduceProblem& problem, double* out);

// The fold that joins results of `op` on parts.
Fold joining(Fold op);

}  // namespace fastdl
