// What a recurrent layer computes in (T) and how its arrays are stored (S): alike, or bfloat16 beside floats.
#pragma once

#include <type_traits>

#include "cpu/half.h"
#include "cpu/rnn/pairs.h"
#include "cpu/rnn/product.h"

namespace fastdl::rnn {

template <class T, class S>
inline constexpr bool kRounds = !std::is_same_v<T, S>;

// `size` numbers of an array from `first` on, which may be missing (null), to compute with.
template <class T, class S>
class Floats {
 public:
  Floats(const S* array, int64_t first, int64_t size) : own_(size_t(kRounds<T, S> && array ? size : 0)) {
    if (!array) return;
    if constexpr (kRounds<T, S>)
      widen(own_.get(), array + first, size, Half::bfloat16), data_ = own_.get();
    else
      data_ = array + first;
  }
  operator const T*() const { return data_; }
  const T* get() const { return data_; }

 private:
  memory::Buffer<T> own_;
  const T* data_ = nullptr;
};

// A tile of such an array: where it lies, or in `scratch` (kMR x kNR).
template <class T>
struct TileView {
  T* data;
  int64_t ld;
};
// To read; null where the array is missing.
template <class T, class S>
TileView<const T> read_tile(const S* from, int64_t ld, int rows, int cols, T* scratch) {
  if constexpr (kRounds<T, S>) {
    if (!from) return {nullptr, 0};
    widen_rows(scratch, kNR<T>, from, ld, rows, cols);
    return {scratch, kNR<T>};
  } else {
    return {from, ld};
  }
}
// To fill, and to leave there when it is full.
template <class T, class S>
TileView<T> fill_tile(S* to, int64_t ld, T* scratch) {
  if constexpr (kRounds<T, S>)
    return {scratch, kNR<T>};
  else
    return {to, ld};
}
template <class T, class S>
void leave_tile(S* to, int64_t ld, const T* tile, int64_t tile_ld, int rows, int cols) {
  if constexpr (kRounds<T, S>) round_rows(to, ld, tile, tile_ld, rows, cols);
}

// Numbers, or panels of `units`, to an array.
template <class T, class S>
void leave(const T* from, S* to, int64_t count) {
  if constexpr (kRounds<T, S>)
    narrow(to, from, count, Half::bfloat16);
  else
    std::copy_n(from, count, to);
}
template <class T, class S>
void leave(const UnitPanels<T>& panels, S* to, int64_t units, int64_t rows) {
  if constexpr (kRounds<T, S>) {
    memory::Buffer<T> wide(size_t(rows * units));
    panels.write(wide, units, units, 0, rows);
    leave(wide.get(), to, rows * units);
  } else {
    panels.write(to, units, units, 0, rows);
  }
}

}  // namespace fastdl::rnn
