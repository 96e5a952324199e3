// y = x of one shape, elements of 1, 2, 4 or 8 bytes, arrays with any strides.
//
// Where neighbours lie along the same axis of both arrays, packs are moved as in map.h. In a transposition
// they do not: element by element, each access to one of the arrays would be a sector of 32 bytes of its own.
// Then squares of the two axes go through shared memory, read along x's axis and written along y's. Rows of a
// square lie an odd number of words apart, so that its columns lie in different banks.
#include "cuda/elementwise.h"
#include "cuda/map.h"

namespace fastdl::cuda {
namespace {

template <class Word>
struct Identity {
  static constexpr int kPack = kWidest<Word>;
  __device__ __forceinline__ Word operator()(Word x) const { return x; }
};

constexpr int kLanes = 32, kTeams = 8;
constexpr int64_t kShortest = 16;  // shorter axes leave lanes idle, and neighbours are not far
template <class Word>
constexpr int kSide = sizeof(Word) <= 2 ? 64 : 32;
template <class Word>
constexpr int kPitch = kSide<Word> + (sizeof(Word) < 4 ? 4 / int(sizeof(Word)) : 1);

// The axis of y's neighbours is called `across`, that of x's `down`.
struct Turn {
  int64_t across, down;    // extents
  int64_t x_step, y_step;  // of x along `across`, of y along `down`
  uint32_t squares;        // of all outer places
  Divisor columns, rows;   // squares along `across` and `down`
  int outer = 0;           // axes beside them
  Divisor extent[kOuter];
  int64_t x_outer[kOuter], y_outer[kOuter];
};

template <class Word>
__global__ void __launch_bounds__(kLanes* kTeams) turn(Word* y, const Word* x, Turn t) {
  constexpr int side = kSide<Word>, pitch = kPitch<Word>;
  FASTDL_SHARED(Word, square, side * pitch);
  for (uint32_t number = blockIdx.x; number < t.squares; number += gridDim.x) {
    const uint32_t row = t.columns.quotient(number);
    uint32_t place = t.rows.quotient(row);
    const int64_t first_across = int64_t(number - row * t.columns.divisor) * side;
    const int64_t first_down = int64_t(row - place * t.rows.divisor) * side;
    const Word* from = x;
    Word* to = y;
    FASTDL_UNROLL
    for (int d = 0; d < kOuter; ++d) {
      if (d >= t.outer) break;
      const uint32_t q = t.extent[d].quotient(place), i = place - q * t.extent[d].divisor;
      from += i * t.x_outer[d];
      to += i * t.y_outer[d];
      place = q;
    }
    FASTDL_UNROLL
    for (int i = int(threadIdx.y); i < side; i += kTeams) {
      FASTDL_UNROLL
      for (int j = int(threadIdx.x); j < side; j += kLanes) {
        const int64_t a = first_across + i, d = first_down + j;
        if (a < t.across && d < t.down) square[i * pitch + j] = from[a * t.x_step + d];
      }
    }
    sync_threads();
    FASTDL_UNROLL
    for (int i = int(threadIdx.y); i < side; i += kTeams) {
      FASTDL_UNROLL
      for (int j = int(threadIdx.x); j < side; j += kLanes) {
        const int64_t a = first_across + j, d = first_down + i;
        if (a < t.across && d < t.down) to[d * t.y_step + a] = square[j * pitch + i];
      }
    }
    sync_threads();
  }
}

// The axis with stride 1, or -1.
int axis_of_neighbours(const std::vector<int64_t>& strides) {
  for (size_t d = 0; d < strides.size(); ++d)
    if (strides[d] == 1) return int(d);
  return -1;
}

template <class Word>
void copy_words(const Shape& shape, const Strided& y, const Strided& x, Stream stream) {
  const Merged m = merge("copy", shape, {&y, &x});
  const auto &ys = m.strides[0], &xs = m.strides[1];
  const int across = axis_of_neighbours(ys), down = axis_of_neighbours(xs);
  const auto squares_along = [&](int axis) {
    return (m.extents[size_t(axis)] + kSide<Word> - 1) / kSide<Word>;
  };
  if (across < 0 || down < 0 || across == down || xs[size_t(across)] == 0 ||
      std::min(m.extents[size_t(across)], m.extents[size_t(down)]) < kShortest)
    return map<Word, Word>("copy", shape, Identity<Word>{}, y, stream, x);
  Turn t{};
  t.across = m.extents[size_t(across)];
  t.down = m.extents[size_t(down)];
  t.x_step = xs[size_t(across)];
  t.y_step = ys[size_t(down)];
  t.columns = Divisor(uint32_t(squares_along(across)));
  t.rows = Divisor(uint32_t(squares_along(down)));
  int64_t squares = squares_along(across) * squares_along(down);
  for (int d = 0; d < int(m.extents.size()); ++d) {
    if (d == across || d == down) continue;
    t.extent[t.outer] = Divisor(uint32_t(m.extents[size_t(d)]));
    t.x_outer[t.outer] = xs[size_t(d)];
    t.y_outer[t.outer++] = ys[size_t(d)];
    squares *= m.extents[size_t(d)];
  }
  if (squares == 0) return;
  if (squares >= int64_t(1) << 31) throw std::invalid_argument("copy: too many elements for one call");
  t.squares = uint32_t(squares);
  launch("copy", turn<Word>, dim3(grid_for(squares, 1)), dim3(kLanes, kTeams), 0, stream,
         static_cast<Word*>(y.data), static_cast<const Word*>(x.data), t);
}

}  // namespace

void copy(int bytes, const Shape& shape, const Strided& y, const Strided& x, Stream stream) {
  switch (bytes) {
    case 1:
      return copy_words<uint8_t>(shape, y, x, stream);
    case 2:
      return copy_words<uint16_t>(shape, y, x, stream);
    case 4:
      return copy_words<uint32_t>(shape, y, x, stream);
    case 8:
      return copy_words<uint64_t>(shape, y, x, stream);
  }
  throw std::invalid_argument("copy: elements must have 1, 2, 4 or 8 bytes, not " + std::to_string(bytes));
}

}  // namespace fastdl::cuda
