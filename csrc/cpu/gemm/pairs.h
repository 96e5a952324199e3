// The engine behind products in bfloat16 by pairs (bfloat16.cpp): what multiplies, for whoever packs operands
// of its own (convolutions gather their patches so). AVX-512 only.
//
// A panel has `height` rows of A (even, at most kRows) or kColumns columns of B, the lanes: lane i of step s
// is at [s * width + i], two neighbours along k in 32 bits, the first in the lower half. A missing partner is
// a zero; missing lanes hold anything.
#pragma once

#include "cpu/gemm/bfloat16.h"

#if defined(__AVX512F__) && defined(__AVX512BW__)

#include <algorithm>

#include "cpu/gemm/share.h"
#include "cpu/gemm/tile.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"

namespace fastdl::pairs {

inline constexpr int kRows = tile::kRows, kColumns = tile::kNR<float>, kGroup = 4;
inline constexpr int64_t kDepth = 512;  // steps: a panel of B is 64 KB, as in float

// Rows of each of A's panels: as many in all of them.
inline int height_of(int64_t m) {
  return int(ceil_div(ceil_div(m, ceil_div(m, kRows)), 2) * 2);
}
inline int64_t packed_size(int64_t m, int64_t steps) {
  const int height = height_of(m);
  return ceil_div(m, height) * height * steps;
}

// `count` lanes and the steps of kc numbers of a matrix, one of whose strides is 1, as a panel.
void pack(uint32_t* out, int width, const uint16_t* x, int64_t lane, int64_t along_k, int count, int64_t kc);
// `count` lanes x + offsets[i], contiguous along k, and `steps` steps (a multiple of 16) of which those
// numbers are there whose bits are set: 32 in each of `there`.
void pack_lines(uint32_t* out, int width, const uint16_t* x, const int64_t* offsets, int count,
                const uint32_t* there, int64_t steps);

// `rows` (1..kRows) rows of sums (kColumns apart) = or += the first rows of a panel of A, `a_step` from one
// step to the next, times a panel of B.
using Kernel = void (*)(int64_t steps, const uint32_t* a, int64_t a_step, const uint32_t* b, float* sums,
                        bool add);
Kernel kernel_for(int64_t rows);

// Neighbouring lanes of a panel of columns, and where the first one lies in an operand and in the result.
struct Run {
  int lane, count;
  int64_t from, to;
};
// A finished tile to bfloat16: to[i * ld + run.to + step * j] = sums(i, run.lane + j) + bias[i] (may be
// null).
void leave(uint16_t* to, int64_t ld, int64_t step, const float* sums, int rows, const Run* runs, int count,
           const float* bias);

// A in panels, blocks of kDepth steps outermost: pack(out, first row, count, first step, steps).
template <class Pack>
void pack_all(uint32_t* out, int64_t m, int64_t steps, const Pack& pack) {
  const int height = height_of(m);
  const int64_t panels = ceil_div(m, height), blocks = ceil_div(steps, kDepth);
  parallel_for(panels * blocks, std::max<int64_t>(1, 65536 / (height * std::min(kDepth, steps))),
               [&](int64_t begin, int64_t end) {
                 for (int64_t t = begin; t < end; ++t) {
                   const int64_t i = t % panels * height, s = t / panels * kDepth;
                   const int64_t here = std::min(kDepth, steps - s);
                   pack(out + s * panels * height + i * here, i, int(std::min<int64_t>(height, m - i)), s,
                        here);
                 }
               });
}

// The tiles of A B. pack(out, panel of columns, first step, steps) makes a panel of B; leave(sums, first row,
// panel of columns, rows) takes a finished tile. With `kept`, height * kColumns floats for every tile, panels
// of rows outermost, sums begin (`add`) and stay there.
//
// A task is a group of up to kGroup panels of B, which it packs for its L2, times some of A's panels, each of
// which passes from L3 to L1 once. A deep k goes in blocks of kDepth, between which the sums of a task lie in
// memory.
template <class Pack, class Leave>
void multiply(const uint32_t* a, int64_t m, int64_t n, int64_t steps, const Pack& pack, const Leave& leave,
              float* kept = nullptr, bool add = false) {
  const int height = height_of(m);
  const int64_t panels = ceil_div(m, height), blocks = ceil_div(steps, kDepth);
  const int64_t threads = detail::in_parallel() ? 1 : num_threads();
  const int64_t columns = ceil_div(n, kColumns), wanted = threads == 1 ? 1 : threads * 4;
  const int64_t group = std::clamp<int64_t>(columns / wanted, 1, kGroup), groups = ceil_div(columns, group);
  const int64_t ranges = std::min(panels, ceil_div(wanted, groups));
  const double microseconds = tile::product_microseconds<float>(m, n, steps);
  const Kernel kernel = kernel_for(height);
  tile::share(groups * ranges, microseconds, [&](int64_t begin, int64_t end) {
    const int64_t most = ceil_div(panels, ranges) * height;
    memory::Buffer<uint32_t> own(size_t(group * kColumns * std::min(kDepth, steps)));
    memory::Buffer<float> sums(kept ? 0 : size_t((blocks > 1 ? most * group : height) * kColumns));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t q0 = task / ranges * group, q1 = std::min(columns, q0 + group), range = task % ranges;
      const int64_t p0 = panels * range / ranges, p1 = panels * (range + 1) / ranges;
      for (int64_t s = 0; s < steps; s += kDepth) {
        const int64_t here = std::min(kDepth, steps - s);
        for (int64_t q = q0; q < q1; ++q) pack(own.get() + (q - q0) * kColumns * here, q, s, here);
        for (int64_t panel = p0; panel < p1; ++panel)
          for (int64_t q = q0; q < q1; ++q) {
            const int64_t place = kept ? panel * columns + q : blocks > 1 ? (panel - p0) * group + q - q0 : 0;
            float* to = (kept ? kept : sums.get()) + place * height * kColumns;
            kernel(here, a + s * panels * height + panel * height * here, height,
                   own.get() + (q - q0) * kColumns * here, to, add || s > 0);
            if (!kept && s + here == steps)
              leave(to, panel * height, q, int(std::min<int64_t>(height, m - panel * height)));
          }
      }
    }
  });
}

}  // namespace fastdl::pairs

#endif
