// The description of a recurrent layer, shared by every backend: all steps, one direction or both.
//
// Rows are packed: those of step 0, then those of step 1, and so on. Step t has batch_sizes[t] rows, never
// more than the step before, and row r of any step belongs to sequence r. Direction 1 starts at each
// sequence's end.
#pragma once

#include <cstdint>
#include <vector>

namespace fastdl {

enum class RnnCell : int { tanh, relu, lstm, gru, gru_before };

struct RnnProblem {
  RnnCell cell;
  int64_t input, hidden, output;  // output: length of h, hidden unless an LSTM projects it
  int directions;
  std::vector<int64_t> batch_sizes, starts;  // starts[t]: first row of step t; one more entry, all rows

  int64_t steps() const { return int64_t(batch_sizes.size()); }
  int64_t batch() const { return batch_sizes[0]; }
  int64_t rows() const { return starts.back(); }
  bool uniform() const { return batch_sizes.front() == batch_sizes.back(); }
  bool projected() const { return output != hidden; }
  // Rows of w_ih and w_hh, in units of `hidden`.
  int64_t gates() const { return cell == RnnCell::lstm ? 4 : cell >= RnnCell::gru ? 3 : 1; }
  // Columns of the arrays of gates and of their gradients, in units of `hidden`: the GRU's fourth is W_hn h +
  // b_hn.
  int64_t columns() const { return cell == RnnCell::gru ? 4 : gates(); }
  // Whether backward needs the gates: the simple cells' are the outputs.
  bool keeps_gates() const { return cell >= RnnCell::lstm; }
};

}  // namespace fastdl
