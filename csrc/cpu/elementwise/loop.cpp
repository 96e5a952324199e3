// The walk over strided operands that all elementwise kernels share; see loop.h.
#include "cpu/elementwise/loop.h"

#include <bit>
#include <cstring>

#include "cpu/copy_rows.h"
#include "cpu/runtime/threads.h"

namespace fastdl {
namespace {

constexpr int64_t kBlock = 1024, kHalfBlock = 512;  // elements; of floats that are stored in half precision
constexpr int64_t kShortRow = 64, kTinyRow = 16;
constexpr int64_t kUnit = 64;  // elements: ranges begin where a vector would, else its loads touch two lines
constexpr int64_t kStreamBytes = 20 << 20;  // outputs from here on are stored past the caches
constexpr int kHalfBytes = sizeof(uint16_t), kVectorBytes = kWidth<float> * int(sizeof(float));

// Are rows of so many bytes better read beside a vector of a constant than multiplied out? Short ones are that
// end with a whole vector.
constexpr bool worth_a_vector(int64_t bytes) {
  return bytes >= 192 || (bytes >= 64 && bytes % kVectorBytes == 0);
}

// n elements of `size` bytes from addresses `from_stride` apart to addresses `to_stride` apart.
template <int size>
void copy_of_size(char* to, int64_t to_stride, const char* from, int64_t from_stride, int64_t n) {
  for (; n > 0; --n, to += to_stride, from += from_stride) std::memcpy(to, from, size);
}
void copy(char* to, int64_t to_stride, const char* from, int64_t from_stride, int64_t n, int size) {
  if (to_stride == size && from_stride == size) return void(std::memcpy(to, from, size_t(n * size)));
  if (to_stride == size && is_spaced(from_stride, size)) return copy_spaced(to, from, from_stride, size, n);
  if (size == 4) return copy_of_size<4>(to, to_stride, from, from_stride, n);
  if (size == 8) return copy_of_size<8>(to, to_stride, from, from_stride, n);
  if (size == 2) return copy_of_size<2>(to, to_stride, from, from_stride, n);
  copy_of_size<1>(to, to_stride, from, from_stride, n);
}
// Each of `rows` elements, `next` bytes apart, n times; up to a vector more is written behind them.
template <class T>
void repeat_as(char* to, const char* from, int64_t n, int64_t rows = 1, int64_t next = 0) {
  for (int64_t row = 0; row < rows; ++row, to += n * int64_t(sizeof(T)), from += next) {
    T value;
    std::memcpy(&value, from, sizeof value);
    const Vec<T> all = broadcast(value);
    // (Pairs of two bytes may lie at any even address, which store() must not be given.)
    for (int64_t i = 0; i < n; i += kWidth<T>) std::memcpy(to + i * int64_t(sizeof(T)), &all, sizeof all);
  }
}
void repeat(char* to, const char* from, int64_t n, int size, int64_t rows = 1, int64_t next = 0) {
  if (size == 4) return repeat_as<int32_t>(to, from, n, rows, next);
  if (size == 8) return repeat_as<int64_t>(to, from, n, rows, next);
  for (int64_t row = 0; row < rows; ++row, to += n * size, from += next) {
    if (size == 2) {  // as pairs
      char pair[4];
      std::memcpy(pair, from, 2);
      std::memcpy(pair + 2, from, 2);
      repeat_as<int32_t>(to, pair, (n + 1) / 2);
    } else {
      std::memset(to, *from, size_t(n));
    }
  }
}

// An operand's lines into its block, one behind the other: n elements `stride` bytes apart (0: one, n times) from
// each of `rows` starts, `next` bytes apart; as floats if they are stored in half precision.
void gather(char* to, const char* from, int64_t stride, int64_t n, int64_t rows, int64_t next, int size,
            Half half) {
  const bool converted = half != Half::none;
  if (stride == 0 && !converted) return repeat(to, from, n, size, rows, next);
  uint16_t collected[kHalfBlock];
  char* place = converted ? reinterpret_cast<char*>(collected) : to;
  const int stored = converted ? kHalfBytes : size;
  if (stride == 0) {
    float values[kHalfBlock];
    copy(place, stored, from, next, rows, stored);
    widen(values, collected, rows, half);
    return repeat(to, reinterpret_cast<const char*>(values), n, size, rows, size);
  }
  const bool lie_so = stride == stored && (rows == 1 || next == n * stored);
  if (!converted && lie_so) return void(std::memcpy(to, from, size_t(rows * n * stored)));
  if (stride == stored && !lie_so) copy_rows(place, n * stored, from, next, n * stored, rows);
  for (int64_t r = 0; r < rows && stride != stored; ++r)
    copy(place + r * n * stored, stored, from + r * next, stride, n, stored);
  if (converted)
    widen(reinterpret_cast<float*>(to), lie_so ? reinterpret_cast<const uint16_t*>(from) : collected,
          rows * n, half);
}
// And a result's lines out of its block.
void scatter(char* to, int64_t stride, const char* from, int64_t n, int64_t rows, int64_t next, int size,
             Half half) {
  const bool converted = half != Half::none;
  const int stored = converted ? kHalfBytes : size;
  uint16_t rounded[kHalfBlock];
  if (converted) {
    const bool lie_so = stride == stored && (rows == 1 || next == n * stored);
    narrow(lie_so ? reinterpret_cast<uint16_t*>(to) : rounded, reinterpret_cast<const float*>(from), rows * n,
           half);
    if (lie_so) return;
    from = reinterpret_cast<const char*>(rounded);
  }
  if (stride == stored) return copy_rows(to, next, from, n * stored, n * stored, rows);
  for (int64_t r = 0; r < rows; ++r) copy(to + r * next, stride, from + r * n * stored, stored, n, stored);
}

// One range of the flattened space, on one thread. (A clone of it without `beside` would be 2 kB more.)
template <int N>
[[gnu::noinline, gnu::noclone]] void walk_range(const StridedLoop<N>& loop, const Elements<N>& elements,
                                                int64_t begin, int64_t end, Run<N> run, const void* f,
                                                Run<N> beside = nullptr) {
  const int64_t row = loop.axes > 0 ? loop.extent[0] : 1;
  int64_t step[N];  // strides along the innermost axis
  bool direct = true, constants = true;
  int64_t block = kBlock;
  // A row's worth of a constant that serves all of it: a kilobyte, but of longer elements 256.
  const int shift = std::max(8, 11 - int(std::bit_width(unsigned(elements.bytes[N - 1]))));
  const int64_t constant_row = int64_t(1) << shift;
  for (int i = 0; i < N; ++i) {
    const bool converted = loop.half[i] != Half::none;
    const int stored = converted ? kHalfBytes : elements.bytes[i];
    if (converted) block = kHalfBlock;
    step[i] = loop.axes > 0 ? loop.stride[0][i] : stored;
    direct &= !converted && step[i] == stored;
    constants &= !converted && (step[i] == stored || (step[i] == 0 && i >= elements.outputs));
  }

  // Where `begin` is: index[] of the outer axes, and the operands' row starts.
  int64_t index[StridedLoop<N>::kMaxAxes];
  char* start[N];
  for (int i = 0; i < N; ++i) start[i] = loop.data[i];
  int64_t rest = begin / row, column = begin % row;
  for (int axis = 1; axis < loop.axes; ++axis) {
    index[axis] = rest % loop.extent[axis];
    rest /= loop.extent[axis];
    for (int i = 0; i < N; ++i) start[i] += index[axis] * loop.stride[axis][i];
  }

  alignas(64) char blocks[N][(kBlock + kWidth<float>)*sizeof(double)];  // touched only where one is needed
  // Of which constant a block is full, or of which row that stays the same from row to row, and how many times. (What
  // else is written to a block resets it.)
  const char* full[N] = {};
  int64_t copies[N] = {};
  char* operands[N];
  for (int64_t position = begin; position < end;) {
    const int64_t n = std::min(row - column, end - position);
    // Whole rows along the next axis may be taken at once.
    int64_t rows =
        n == row && loop.axes > 1 ? std::min(loop.extent[1] - index[1], (end - position) / row) : 1;
    char* here[N];
    // Short rows beside one that stays the same (a bias of few features) are better multiplied out, very short
    // ones collected.
    bool joins = n < kShortRow && rows > 1;
    for (int i = 0; i < N; ++i) {
      here[i] = start[i] + column * step[i];
      joins = joins && (n < kTinyRow || loop.stride[1][i] == n * step[i] ||
                        (loop.stride[1][i] == 0 && i >= elements.outputs));
    }
    if (direct && !joins) {
      run(f, n, here, rows, loop.stride[1]);
    } else if (N == 3 && beside && constants && !direct && worth_a_vector(n * elements.bytes[0])) {
      rows = std::min<int64_t>(rows, int(sizeof blocks[0]) / kVectorBytes);
      int64_t pitch[2 * N];
      for (int i = 0; i < N; ++i) {
        const bool constant = step[i] == 0;
        const int64_t next = rows > 1 ? loop.stride[1][i] : 0, bytes = elements.bytes[i];
        operands[i] = constant ? blocks[i] : here[i];
        pitch[i] = constant && next != 0 ? kVectorBytes : next;
        pitch[N + i] = constant ? 0 : -1;
        if (!constant) continue;
        repeat(blocks[i], here[i], kVectorBytes / bytes, int(bytes), next == 0 ? 1 : rows, next);
        full[i] = nullptr;
      }
      beside(f, n, operands, rows, pitch);
    } else if (constants && n > constant_row) {
      // One block of each constant serves all of a row, as rows of constant_row elements and what is left.
      rows = 1;
      int64_t pitch[N];
      for (int i = 0; i < N; ++i) {
        pitch[i] = constant_row * step[i];
        operands[i] = step[i] == 0 ? blocks[i] : here[i];
        if (step[i] != 0) continue;
        repeat(blocks[i], here[i], constant_row, elements.bytes[i]);
        full[i] = nullptr;
      }
      run(f, constant_row, operands, n >> shift, pitch);
      for (int i = 0; i < N; ++i) operands[i] += (n >> shift) * pitch[i];
      if (const int64_t rest = n & (constant_row - 1)) run(f, rest, operands, 1, pitch);
    } else {
      // Pieces of a row, or as many short rows as fit into a block.
      rows = std::clamp<int64_t>(rows, 1, std::max<int64_t>(1, block / n));
      for (int64_t done = 0; done < n; done += block) {
        const int64_t count = std::min(block, n - done);
        char* places[N];
        for (int i = 0; i < N; ++i) {
          const int bytes = elements.bytes[i];
          const int64_t next = rows > 1 ? loop.stride[1][i] : 0;
          places[i] = here[i] + done * step[i];
          const bool in_place =
              loop.half[i] == Half::none && step[i] == bytes && (rows == 1 || next == n * bytes);
          operands[i] = in_place ? places[i] : blocks[i];
          if (in_place || i < elements.outputs) continue;
          if (step[i] == 0 && next == 0) {
            if (full[i] != places[i])
              gather(blocks[i], places[i], 0, std::min(block, end - position), 1, 0, bytes, loop.half[i]);
            full[i] = places[i];
            continue;
          }
          // The same row as before is there already.
          const bool again = rows > 1 && next == 0;  // a bias, or a factor of an outer product
          if (again && full[i] == places[i] && rows <= copies[i]) continue;
          full[i] = again ? places[i] : nullptr;
          copies[i] = rows;
          gather(blocks[i], places[i], step[i], count, rows, next, bytes, loop.half[i]);
        }
        run(f, rows * count, operands, 1, loop.stride[1]);
        for (int i = 0; i < elements.outputs; ++i)
          if (operands[i] == blocks[i])
            scatter(places[i], step[i], blocks[i], count, rows, rows > 1 ? loop.stride[1][i] : 0,
                    elements.bytes[i], loop.half[i]);
      }
    }
    position += rows * n;
    column = 0;
    for (int axis = 1; axis < loop.axes; ++axis) {
      const int64_t steps = axis == 1 ? rows : 1;
      for (int i = 0; i < N; ++i) start[i] += steps * loop.stride[axis][i];
      if ((index[axis] += steps) < loop.extent[axis]) break;
      for (int i = 0; i < N; ++i) start[i] -= index[axis] * loop.stride[axis][i];
      index[axis] = 0;
    }
  }
}

}  // namespace

template <int N>
void walk(const StridedLoop<N>& loop, const Elements<N>& elements, int64_t grain, Run<N> run, const void* f,
          bool streams) {
  parallel_for(ceil_div(loop.size, kUnit), grain / kUnit, [&](int64_t begin, int64_t end) {
    walk_range(loop, elements, begin * kUnit, std::min(end * kUnit, loop.size), run, f);
    if (streams) fence();
  });
}

void walk_beside(const StridedLoop<3>& loop, const Elements<3>& elements, int64_t grain, Run<3> run,
                 Run<3> beside, const void* f, bool streams) {
  if (streams) return walk(loop, elements, grain, run, f, streams);
  parallel_for(ceil_div(loop.size, kUnit), grain / kUnit, [&](int64_t begin, int64_t end) {
    walk_range(loop, elements, begin * kUnit, std::min(end * kUnit, loop.size), run, f, beside);
  });
}

template <int N>
bool worth_streaming(const StridedLoop<N>& loop, int64_t bytes) {
  constexpr int64_t kLongRow = 4096;  // shorter rows would leave too many lines half stored, half streamed
  if (loop.half[0] != Half::none || loop.size * bytes < kStreamBytes || loop.axes == 0 ||
      loop.extent[0] < kLongRow || loop.stride[0][0] != bytes)
    return false;
  for (int i = 1; i < N; ++i)
    if (loop.data[i] == loop.data[0]) return false;
  return true;
}

#define FASTDL_INSTANTIATE(N)                                                                           \
  template void walk<N>(const StridedLoop<N>&, const Elements<N>&, int64_t, Run<N>, const void*, bool); \
  template bool worth_streaming<N>(const StridedLoop<N>&, int64_t);
FASTDL_INSTANTIATE(2)
FASTDL_INSTANTIATE(3)
FASTDL_INSTANTIATE(4)
FASTDL_INSTANTIATE(5)
#undef FASTDL_INSTANTIATE

}  // namespace fastdl
