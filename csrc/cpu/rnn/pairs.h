// The recurrent product of one step (product.h) in bfloat16 by pairs of neighbours along k (gemm/pairs.h):
// twice the multiplications of floats, from half of the bytes. A register tile's sums are floats and lie as
// in UnitPanels, so gates and states stay floats in their panels; only what is multiplied is rounded.
//
// An operand's segment (the units of a gate, all of h) has an even length, its last number's partner a zero.
#pragma once

#include "cpu/gemm/pairs.h"
#include "cpu/rnn/product.h"

#if defined(__AVX512F__) && defined(__AVX512BW__)

namespace fastdl::rnn {

// Rows of `count` <= kColumns floats from and to rows in bfloat16, rounded to nearest.
void round_rows(uint16_t* to, int64_t to_ld, const float* from, int64_t ld, int rows, int count);
void widen_rows(float* to, int64_t to_ld, const uint16_t* from, int64_t ld, int rows, int count);
// The same as (count + 1) / 2 steps of a panel whose lanes are the rows, `width` of them.
void pack_rounded(uint32_t* out, int width, const float* from, int64_t ld, int rows, int count);

template <>
inline int64_t segment<uint16_t>(int64_t length) {
  return length + (length & 1);
}

template <>
class Operand<uint16_t> {
 public:
  Operand(Blocks blocks, int64_t batch, int64_t depth)
      : height_(int(blocks.height)),
        steps_(ceil_div(depth, 2)),
        data_(size_t(blocks.count(batch) * blocks.height * steps_)) {}

  int height() const { return height_; }
  const uint32_t* block(int64_t b) const { return data_ + b * height_ * steps_; }

  // k0 is even.
  void put(int64_t b, int rows, int64_t k0, int64_t kc, const float* from, int64_t ld) {
    if (rows > 0) pack_rounded(place(b, k0), height_, from, ld, rows, int(kc));
  }
  void put(int64_t b, int rows, int64_t k0, int64_t kc, const uint16_t* from, int64_t ld) {
    if (rows > 0) pairs::pack(place(b, k0), height_, from, ld, 1, rows, kc);
  }

 private:
  uint32_t* place(int64_t b, int64_t k0) { return data_ + (b * steps_ + k0 / 2) * height_; }

  int height_;
  int64_t steps_;
  memory::Buffer<uint32_t> data_;
};

template <>
class Panels<uint16_t> {
 public:
  Panels(const uint16_t* w, int64_t depth, int64_t units, int gates, int64_t gate_stride, int64_t unit_stride,
         int64_t k_stride, int segments = 1)
      : steps_(segments * ceil_div(depth, 2)),
        units_(units),
        gates_(gates),
        data_(size_t(ceil_div(units, kNR<float>) * gates * steps_ * kNR<float>)) {
    static_assert(kNR<float> == pairs::kColumns);
    const int64_t each = ceil_div(depth, 2), count = groups() * gates * segments;
    parallel_for(count, std::max<int64_t>(1, 32768 / (depth * kNR<float>)), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t part = i % segments, gate = i / segments % gates, group = i / segments / gates;
        pairs::pack(data_ + i * each * kNR<float>, kNR<float>,
                    w + gate * gate_stride + part * depth * k_stride + group * kNR<float> * unit_stride,
                    unit_stride, k_stride, int(std::min<int64_t>(kNR<float>, units - group * kNR<float>)),
                    depth);
      }
    });
  }

  int gates() const { return gates_; }
  int64_t groups() const { return ceil_div(units_, kNR<float>); }

  // As of floats; rows of c are kNR apart.
  void multiply(const Operand<uint16_t>& a, Blocks blocks, int64_t b0, int64_t b1, int64_t rows,
                int64_t group, int gate, float* c, int64_t ldc, bool add) const {
    constexpr int64_t step_bytes = kNR<float> * int64_t(sizeof(uint32_t));
    const uint32_t* panel = data_ + (group * gates_ + gate) * steps_ * kNR<float>;
    const int64_t most = ceil_div(steps_, ceil_div(steps_ * step_bytes, kPanelBytes));
    for (int64_t s = 0; s < steps_; s += most)
      for (int64_t b = b0; b < b1; ++b) {
        const int here = blocks.rows(b, rows);
        if (here == 0) break;
        pairs::kernel_for(here)(std::min(most, steps_ - s), a.block(b) + s * a.height(), a.height(),
                                panel + s * kNR<float>, c + b * blocks.height * ldc, add || s > 0);
      }
  }

 private:
  int64_t steps_, units_;
  int gates_;
  memory::Buffer<uint32_t> data_;
};

}  // namespace fastdl::rnn

#endif
