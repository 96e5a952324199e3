// The register tile: kMR x kNR elements of C, held in vector registers while k runs.
//
//   acc[i][j] += a[i] * b[j]      a: kMR numbers of an A panel, broadcast; b: kNR numbers of a B panel,
//   vectors
//
// Panel formats (all of the engine's memory traffic): an A panel holds kMR rows, element (i, k) at [k * kMR +
// i]; a B panel holds kNR columns, element (k, j) at [k * kNR + j]. In a matrix's last panel the missing
// lanes exist in memory but are never used: they may hold anything. Where A's rows are contiguous the kernel
// also takes them as they lie, packed or not.
#pragma once

#include "cpu/gemm/gemm.h"
#include "cpu/simd/simd.h"

namespace fastdl::tile {

// As many accumulators as the registers hold beside one row of B and a broadcast of A: 28 of 32, 12 or 8 of
// 16 (without FMA a product needs a register of its own).
#if defined(__AVX512F__)
inline constexpr int kRows = 14;
#elif defined(__AVX2__)
inline constexpr int kRows = 6;
#elif defined(__aarch64__)
inline constexpr int kRows = 12;
#else
inline constexpr int kRows = 4;
#endif
inline constexpr int kVectors = 2;

template <class T>
inline constexpr int kMR = kRows;
template <class T>
inline constexpr int kNR = kVectors * simd::kWidth<T>;

// Where and how a tile leaves the registers: c = activation(alpha * tile + beta * c + bias_row + bias_col).
// All pointers are those of the tile's first row and column; beta == 0 never reads c. `next`: what will be
// wanted soon, fetched into L2 on the way, next_step bytes per step of k (null: nothing). `transposed`: the
// tile's columns are rows of C, to which everything else here belongs.
template <class T>
struct Store {
  T* c;
  int64_t ldc;
  T alpha, beta;
  const T* bias_row;
  const T* bias_col;
  GemmActivation activation;
  const T* next = nullptr;
  int64_t next_step = 0;
  bool transposed = false;
};

// How A lies: as a panel, the kernel's a_step elements from one step of k to the next, or as rows of
// contiguous k, a_step from one row to the next.
enum class Form { panel, rows };

// One tile: k steps over A (panel: a_step normally kMR) and B (vectors at b, step b_step: kNR for a
// panel, ldb for an unpacked matrix whose columns are contiguous and all there).
template <class T>
using Kernel = void (*)(int64_t k, const T* a, int64_t a_step, const T* b, int64_t b_step, int cols,
                        const Store<T>& store);

// How many rows of A a tile takes: those that lie a multiple of 4 kB apart compete for one set of L1, so no
// more than its ways.
template <class T>
inline int rows_of_a_tile(const MatrixView<T>& a) {
  return a.col == 1 && a.row * int64_t(sizeof(T)) % 4096 == 0 && kMR<T> > 7 ? 7 : kMR<T>;
}

// The kernel for `rows` in 1..kMR and `cols` in 1..kNR.
template <class T>
Kernel<T> kernel_for(int rows, int cols, Form form = Form::panel);

// Stores a rows x cols tile that lies in memory (row stride ld); kernels use it for everything but plain
// stores.
template <class T>
void finish(const T* tile, int64_t ld, int rows, int cols, const Store<T>& store);

}  // namespace fastdl::tile
