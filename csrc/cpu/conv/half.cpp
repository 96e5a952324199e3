// Convolution in half precision: by products of pairs where the processor has quick ones and they win
// (pairs.cpp), else by float32's algorithms on some images at a time, as many as stay in the last cache with
// their floats: memory is passed over in two bytes a number. Sums are floats and are rounded once.
#include "cpu/conv/half.h"

#include <algorithm>
#include <string>

#include "cpu/conv/conv.h"
#include "cpu/conv/pairs.h"
#include "cpu/gemm/bfloat16.h"
#include "cpu/runtime/memory.h"
#include "cpu/runtime/threads.h"

namespace fastdl {
namespace {

constexpr int64_t kFloats = 2 << 20;  // of some images and their results: 8 MB

// Does a product of pairs win? A panel needs rows enough to be worth packing (groups of a few channels have
// no better way, depthwise convolutions have), and Winograd's floats save more multiplications than pairs do.
bool by_pairs(Half half, const ConvProblem& p, ConvPass pass) {
  if (half != Half::bfloat16 || p.group_in() * p.group_out() < 8 || !has_quick_pair_products() ||
      p.batch * p.in_size() * p.out_size() == 0 || conv_algorithm() != "auto")
    return false;
  const int64_t rows = pass == ConvPass::forward  ? p.group_out()
                       : pass == ConvPass::grad_x ? p.group_in()
                                                  : std::min(p.group_out(), p.patch()) / 2;
  if (p.groups == 1 && rows < 16) return false;
  const std::string name = conv_choice<float>(p, pass);
  return name != "winograd" && name != "as_3x3";
}

// f(first, images) for some images at a time, of `size` numbers each.
template <class F>
void some_images(int64_t batch, int64_t size, F&& f) {
  const int64_t most = std::max<int64_t>(kFloats / std::max<int64_t>(1, size), 4 * num_threads());
  const int64_t count = std::max<int64_t>(1, batch / most);
  for (int64_t i = 0; i < count; ++i) f(batch * i / count, batch * (i + 1) / count - batch * i / count);
}

struct Widened : memory::Buffer<float> {
  Widened(const uint16_t* x, int64_t n, Half half) : Buffer(size_t(n)) { widen_all(get(), x, n, half); }
};

// to (batch, to_size) = run(problem of some images, floats of `to`, floats of `from`).
template <class F>
void map_images(Half half, const ConvProblem& p, uint16_t* to, int64_t to_size, const uint16_t* from,
                int64_t from_size, F&& run) {
  some_images(p.batch, to_size + from_size, [&](int64_t first, int64_t images) {
    ConvProblem part = p;
    part.batch = images;
    const Widened x(from + first * from_size, images * from_size, half);
    memory::Buffer<float> y(size_t(images * to_size));
    run(part, y.get(), x.get());
    narrow_all(to + first * to_size, y.get(), images * to_size, half);
  });
}

}  // namespace

void conv_forward_half(Half half, const ConvProblem& p, uint16_t* y, const uint16_t* x, const uint16_t* w,
                       const float* bias) {
  if (by_pairs(half, p, ConvPass::forward)) return conv_forward_pairs(p, y, x, w, bias);
  const Widened weights(w, p.out_channels * p.patch(), half);
  map_images(half, p, y, p.out_channels * p.out_size(), x, p.in_channels * p.in_size(),
             [&](const ConvProblem& part, float* to, const float* from) {
               conv_forward<float>(part, to, from, weights.get(), bias);
             });
}

void conv_grad_x_half(Half half, const ConvProblem& p, uint16_t* gx, const uint16_t* gy, const uint16_t* w,
                      const float* bias) {
  if (by_pairs(half, p, ConvPass::grad_x)) return conv_grad_x_pairs(p, gx, gy, w, bias);
  const Widened weights(w, p.out_channels * p.patch(), half);
  map_images(half, p, gx, p.in_channels * p.in_size(), gy, p.out_channels * p.out_size(),
             [&](const ConvProblem& part, float* to, const float* from) {
               conv_grad_x<float>(part, to, from, weights.get(), bias);
             });
}

void conv_grad_w_half(Half half, const ConvProblem& p, uint16_t* gw, const uint16_t* gy, const uint16_t* x) {
  if (by_pairs(half, p, ConvPass::grad_w)) return conv_grad_w_pairs(p, gw, gy, x);
  const int64_t n = p.out_channels * p.patch();
  const int64_t in = p.in_channels * p.in_size(), out = p.out_channels * p.out_size();
  memory::Buffer<float> sums{size_t(n)};
  some_images(p.batch, in + out, [&](int64_t first, int64_t images) {
    ConvProblem part = p;
    part.batch = images;
    const Widened g(gy + first * out, images * out, half), from(x + first * in, images * in, half);
    if (first == 0) return conv_grad_w<float>(part, sums.get(), g.get(), from.get());
    memory::Buffer<float> add{size_t(n)};
    conv_grad_w<float>(part, add.get(), g.get(), from.get());
    for (int64_t i = 0; i < n; ++i) sums[i] += add[i];
  });
  narrow_all(gw, sums.get(), n, half);
}

void conv_grad_bias_half(Half half, uint16_t* sums, const uint16_t* y, int64_t batch, int64_t channels,
                         int64_t size) {
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(batch * size, 1));
  parallel_for(channels, grain, [&](int64_t begin, int64_t end) {
    constexpr int64_t kPiece = 4096;
    float row[kPiece];
    for (int64_t c = begin; c < end; ++c) {
      float total = 0, part;
      for (int64_t n = 0; n < batch; ++n)
        for (int64_t i = 0; i < size; i += kPiece) {
          const int64_t count = std::min(kPiece, size - i);
          widen(row, y + (n * channels + c) * size + i, count, half);
          conv_grad_bias<float>(&part, row, 1, 1, count);
          total += part;
        }
      narrow(sums + c, &total, 1, half);
    }
  });
}

}  // namespace fastdl
