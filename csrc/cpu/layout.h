// Moving elements without computing: strided copies, rows and elements chosen by an index, and their
// gradients.
#pragma once

#include <cstdint>

namespace fastdl {

// `to`, in C order, receives an array of `item`-byte elements with the given extents and strides in bytes.
void copy_strided(char* to, const char* from, const int64_t* shape, const int64_t* strides, int ndim,
                  int64_t item);

// y[i] = start + step i, `stride` elements apart; of floats computed in double, the product rounded by
// itself.
template <class T, class Number>
void progression(T* y, int64_t count, int64_t stride, Number start, Number step);

// Where the elements of one side of a diagonal are in a matrix: rows of the lower one, columns up to row +
// diagonal, or of the upper one, from there on. How many there are, and then their rows and columns.
double triangle_count(int64_t rows, int64_t columns, int64_t diagonal, bool lower);
void triangle_places(int64_t* row_of, int64_t* column_of, int64_t rows, int64_t columns, int64_t diagonal,
                     bool lower);

// `pattern`, again and again, in `bytes` bytes.
void fill(char* to, int64_t bytes, uint64_t pattern);

// One side of a diagonal of (outer, rows, columns), the rest zero: the lower one, columns up to row +
// diagonal, or the upper one, from there on. y may be x.
void triangle(char* y, const char* x, int64_t outer, int64_t rows, int64_t columns, int64_t diagonal,
              bool lower, int64_t item);

// y is (outer, sum of rows_bytes) bytes: for every outer slice the rows of all parts, one after the other. A part's
// rows are `steps` bytes apart.
void concat(char* y, const char* const* parts, const int64_t* row_bytes, const int64_t* steps, int64_t count,
            int64_t outer);

// The middle axis of (outer, extent, inner) is the indexed one; `count` indices, in [0, extent).
struct IndexProblem {
  int64_t outer, extent, inner, count;
};

// Bytes from one slice o of x to the next, and from one entry of a slice to the next.
struct EntrySteps {
  int64_t slice, entry;
};

// y[o, j, i] = x[o, index[j], i]
void index_select_forward(char* y, const char* x, const int64_t* index, const IndexProblem& p, int64_t item,
                          const EntrySteps& steps);
// y[o, index[j], i] = source[o, j, i]; of equal indices the last one counts
void index_copy(char* y, const char* source, const int64_t* index, const IndexProblem& p, int64_t item);
// y[o, index[j], i] += source[o, j, i]
template <class T>
void index_add(T* y, const T* source, const int64_t* index, const IndexProblem& p, bool from_zero);

// y[o, j, i] = x[o, index[o, j, i], i]. Checks the indices itself, block by block before their use; false:
// some are outside, y is undefined.
bool gather_forward(char* y, const char* x, const int64_t* index, const IndexProblem& p, int64_t item);
// y[o, index[o, j, i], i] = source[o, j, i]; `repeated`: the source is one element
void scatter(char* y, const char* source, bool repeated, const int64_t* index, const IndexProblem& p,
             int64_t item);
// y[o, index[o, j, i], i] += source[o, j, i]
template <class T>
void scatter_add(T* y, const T* source, bool repeated, const int64_t* index, const IndexProblem& p,
                 bool from_zero);
// y[o, index[o, j, i], i] = join(y[o, index[o, j, i], i], source[o, j, i])
enum class Join { product, largest, smallest };
template <class T>
void scatter_reduce(T* y, const T* source, bool repeated, const int64_t* index, const IndexProblem& p,
                    Join join);
// The same where an index speaks for a row: y[o, index[j], i] = join(y[o, index[j], i], source[o, j, i])
template <class T>
void index_reduce(T* y, const T* source, const int64_t* index, const IndexProblem& p, Join join);

// The position of the first index outside [0, extent), or -1.
int64_t find_outside(const int64_t* index, int64_t count, int64_t extent);

}  // namespace fastdl
