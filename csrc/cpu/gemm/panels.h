// The macro kernel: C from two operands that come as panels (formats: tile.h), cut for the caches and shared
// out over threads. An operand is either a packer, called with one block at a time straight before its use,
//
//     void operator()(T* panel, int64_t first, int count, int64_t k0, int64_t kc) const
//         writes rows (A) or columns (B) first .. first+count and steps k0 .. k0+kc of the operand as one
//         panel: lane i, step k at panel[k * P + i], P = kMR<T> (A) or kNR<T> (B), count <= P; other lanes
//         need not be written
//
// (a convolution gathers its patches there, so that no patch matrix ever exists), or a Packed operand, packed
// once by pack_a / pack_b and used many times (recurrent weights).
//
// One operand is *shared*: packed completely (in blocks of at most kSharedBytes) before the work starts. The
// other is *private*: a task packs a block of it for its L2 cache and multiplies it with every shared panel
// in turn, each of which then passes from L3 to L1 once per task. The smaller operand is shared, or the one
// that is packed already.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/gemm/pack.h"
#include "cpu/gemm/share.h"
#include "cpu/gemm/tile.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"

namespace fastdl::tile {

inline constexpr int64_t kPrivateBytes = 384 << 10;  // a private block: part of an L2 cache of 1 MiB or more
inline constexpr int64_t kSharedBytes = 8 << 20;     // the shared block: part of an L3 cache

// k is cut into equal blocks of at most kMaxKC steps: a function of k alone, because it fixes the order of
// summation and the layout of packed operands.
template <class T>
inline constexpr int64_t kMaxKC = 2048 / int64_t(sizeof(T));
template <class T>
inline int64_t block_depth(int64_t k) {
  return std::max<int64_t>(ceil_div(k, std::max<int64_t>(ceil_div(k, kMaxKC<T>), 1)), 1);
}

template <class T>
struct PackA {
  MatrixView<T> a;
  void operator()(T* panel, int64_t first, int count, int64_t k0, int64_t kc) const {
    pack_panel<T, kMR<T>>(panel, a.data + first * a.row + k0 * a.col, a.row, a.col, count, kc);
  }
};
template <class T>
struct PackB {
  MatrixView<T> b;
  void operator()(T* panel, int64_t first, int count, int64_t k0, int64_t kc) const {
    pack_panel<T, kNR<T>>(panel, b.data + k0 * b.row + first * b.col, b.col, b.row, count, kc);
  }
};

// A whole operand in panels: blocks of k outermost, then panels. P lanes per panel, `size` = M or N.
template <class T>
struct Packed {
  const T* data;
};
template <class T>
inline int64_t packed_a_size(int64_t m, int64_t k) {
  return ceil_div(m, kMR<T>) * kMR<T> * k;
}
template <class T>
inline int64_t packed_b_size(int64_t k, int64_t n) {
  return ceil_div(n, kNR<T>) * kNR<T> * k;
}

namespace detail {

template <class X>
inline constexpr bool is_packed = false;
template <class T>
inline constexpr bool is_packed<Packed<T>> = true;

// Packs panels [0, size) x blocks of `depth` of [k0, k1) into out: panel p of block b at
// (b - k0) * lanes(size) + p * P * kc, in parallel.
template <class T, int P, class Pack>
void pack_all(T* out, const Pack& pack, int64_t first, int64_t size, int64_t k0, int64_t k1, int64_t depth) {
  const int64_t panels = ceil_div(size, P), blocks = ceil_div(k1 - k0, depth);
  const int64_t grain = std::max<int64_t>(1, 32768 / (P * std::min(depth, k1 - k0)));
  parallel_for(panels * blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t k = k0 + i / panels * depth, p = i % panels, kc = std::min(depth, k1 - k);
      pack(out + (k - k0) * panels * P + p * P * kc, first + p * P, int(std::min<int64_t>(P, size - p * P)),
           k, kc);
    }
  });
}

// C with the operand of kShareB shared. See the head of the file.
template <class T, bool kShareB, class A, class B>
void multiply(int64_t m, int64_t n, int64_t k, const A& a, const B& b, T alpha, T beta, T* c, int64_t ldc,
              const GemmEpilogue<T>& epilogue) {
  constexpr int SP = kShareB ? kNR<T> : kMR<T>,
                PP = kShareB ? kMR<T> : kNR<T>;  // shared and private panel width
  const auto& shared = [&]() -> const auto& {
    if constexpr (kShareB)
      return b;
    else
      return a;
  }();
  const auto& own = [&]() -> const auto& {
    if constexpr (kShareB)
      return a;
    else
      return b;
  }();
  constexpr bool packed = is_packed<std::remove_cvref_t<decltype(shared)>>;
  constexpr bool own_packed = is_packed<std::remove_cvref_t<decltype(own)>>;
  const int64_t shared_size = kShareB ? n : m, own_size = kShareB ? m : n;
  const int64_t depth = block_depth<T>(k);
  const int64_t all_shared = ceil_div(shared_size, SP) * SP, all_own = ceil_div(own_size, PP) * PP;

  int64_t shared_step = all_shared, k_step = k;
  if constexpr (!packed) {  // alone, it need not leave this thread's cache
    const int64_t most = fastdl::detail::in_parallel() ? kSharedBytes / 8 : kSharedBytes;
    shared_step = std::min(all_shared, std::max<int64_t>(most / int64_t(depth * sizeof(T)) / SP, 1) * SP);
    k_step = std::min(k, std::max<int64_t>(most / int64_t(sizeof(T)) / (shared_step * depth), 1) * depth);
  }
  memory::Buffer<T> buffer(packed ? 0 : size_t(shared_step * k_step));

  const int64_t own_panels = ceil_div(own_size, PP);
  const int64_t block_limit = std::max<int64_t>(kPrivateBytes / int64_t(PP * depth * sizeof(T)), 1);
  for (int64_t s0 = 0; s0 < shared_size; s0 += shared_step) {
    const int64_t s_size = std::min(shared_step, shared_size - s0), s_panels = ceil_div(s_size, SP);
    // Two tasks per thread (each reads all that is shared), private blocks no larger than their cache, and,
    // where the private side is too short for that, several ranges of shared panels (each packs the private
    // block again).
    const int64_t want = fastdl::detail::in_parallel() || num_threads() == 1 ? 1 : num_threads() * int64_t{2};
    const int64_t blocks = std::max(ceil_div(own_panels, block_limit), std::min(own_panels, want));
    const int64_t rows = blocks < want ? blocks : std::min(own_panels, ceil_div(blocks, want) * want);
    const int64_t columns = std::min(s_panels, ceil_div(want, rows));
    const int64_t tasks = rows * columns;
    for (int64_t k0 = 0; k0 < k; k0 += k_step) {
      const int64_t k1 = std::min(k, k0 + k_step);
      if constexpr (!packed) pack_all<T, SP>(buffer.get(), shared, s0, s_size, k0, k1, depth);
      share(tasks, product_microseconds<T>(s_size, own_size, k1 - k0), [&](int64_t begin, int64_t end) {
        memory::Buffer<T> block(own_packed ? 0 : size_t((ceil_div(own_panels, rows) * PP) * depth));
        for (int64_t task = begin; task < end; ++task) {
          const int64_t row = task / columns, column = task % columns;
          const int64_t p0 = own_panels * row / rows, p1 = own_panels * (row + 1) / rows;
          const int64_t q0 = s_panels * column / columns, q1 = s_panels * (column + 1) / columns;
          for (int64_t kb = k0; kb < k1; kb += depth) {
            const int64_t kc = std::min(depth, k1 - kb);
            const bool first = kb == 0, last = kb + kc == k;
            if constexpr (!own_packed)
              for (int64_t p = p0; p < p1; ++p)
                own(block.get() + (p - p0) * PP * kc, p * PP, int(std::min<int64_t>(PP, own_size - p * PP)),
                    kb, kc);
            for (int64_t q = q0; q < q1; ++q) {
              const T* shared_panel;
              if constexpr (packed)
                shared_panel = shared.data + kb * all_shared + (s0 + q * SP) * kc;
              else
                shared_panel = buffer.get() + (kb - k0) * s_panels * SP + q * SP * kc;
              for (int64_t p = p0; p < p1; ++p) {
                const T* own_panel;
                if constexpr (own_packed)
                  own_panel = own.data + kb * all_own + p * PP * kc;
                else
                  own_panel = block.get() + (p - p0) * PP * kc;
                const int64_t i = kShareB ? p * PP : s0 + q * SP, j = kShareB ? s0 + q * SP : p * PP;
                const int rows_here = int(std::min<int64_t>(kMR<T>, m - i));
                const int cols_here = int(std::min<int64_t>(kNR<T>, n - j));
                const Store<T> store{
                    c + i * ldc + j,
                    ldc,
                    alpha,
                    first ? beta : T(1),
                    last && epilogue.bias_row ? epilogue.bias_row + i : nullptr,
                    last && epilogue.bias_col ? epilogue.bias_col + j : nullptr,
                    last ? epilogue.activation : GemmActivation::none,
                    q + 1 < q1 ? shared_panel + SP * kc + (p - p0) * SP * kc / (p1 - p0) : nullptr,
                    q + 1 < q1 ? SP * int64_t(sizeof(T)) / (p1 - p0) : 0};
                kernel_for<T>(rows_here, cols_here)(kc, kShareB ? own_panel : shared_panel, kMR<T>,
                                                    kShareB ? shared_panel : own_panel, kNR<T>, cols_here,
                                                    store);
              }
            }
          }
        }
      });
    }
  }
}

}  // namespace detail

// out: packed_a_size(m, k) / packed_b_size(k, n) elements.
template <class T, class Pack>
void pack_a(T* out, int64_t m, int64_t k, const Pack& pack) {
  detail::pack_all<T, kMR<T>>(out, pack, 0, m, 0, k, block_depth<T>(k));
}
template <class T, class Pack>
void pack_b(T* out, int64_t k, int64_t n, const Pack& pack) {
  detail::pack_all<T, kNR<T>>(out, pack, 0, n, 0, k, block_depth<T>(k));
}

// C = activation(alpha * A B + beta * C + bias), A and B packers or Packed. m, n, k >= 1.
template <class T, class A, class B>
void gemm_panels(int64_t m, int64_t n, int64_t k, const A& a, const B& b, T alpha, T beta, T* c, int64_t ldc,
                 const GemmEpilogue<T>& epilogue = {}) {
  const bool share_b = detail::is_packed<B> != detail::is_packed<A> ? detail::is_packed<B> : n <= m;
  if (share_b)
    detail::multiply<T, true>(m, n, k, a, b, alpha, beta, c, ldc, epilogue);
  else
    detail::multiply<T, false>(m, n, k, a, b, alpha, beta, c, ldc, epilogue);
}

}  // namespace fastdl::tile
