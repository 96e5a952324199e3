// 1x1 convolution with stride 1 and no padding: matrix products on the arrays as they lie in memory.
//
//   forward   y[n] (K x P) = w (K x C) x[n] (C x P)          grad_x[n] = w^T grad_y[n]
//   grad_w    sum over n of grad_y[n] x[n]^T: of few channels dot products of their rows, of some and long
//             planes products of parts of images, else one product over all images' positions
//
// Work and blocking are the matrix engine's; one batched call for all images of a group. It shares a product out
// by its result: grad_w of some channels is cut into several along its sums, and those are shared.
#include <algorithm>
#include <type_traits>

#include "cpu/conv/algorithm.h"
#include "cpu/conv/dot_rows.h"
#include "cpu/gemm/panels.h"
#include "cpu/parts.h"
#include "cpu/runtime/memory.h"

namespace fastdl {
namespace {

template <class T>
void forward(const ConvProblem& p, T* y, const T* x, const T* w, const T* bias) {
  const int64_t k = p.group_out(), c = p.group_in(), size = p.in_size();
  for_groups<T>(p, [&](int64_t g) {
    GemmEpilogue<T> epilogue;
    if (bias) epilogue.bias_row = bias + g * k;
    gemm_batched<T>(p.batch, k, size, c, T(1), matrix(w + g * k * c, c), 0, matrix(x + g * c * size, size),
                    p.in_channels * size, T(0), y + g * k * size, p.out_channels * size, size, epilogue);
  });
}

template <class T>
void grad_x(const ConvProblem& p, T* gx, const T* gy, const T* w, const T* bias) {
  const int64_t k = p.group_out(), c = p.group_in(), size = p.in_size();
  for_groups<T>(p, [&](int64_t g) {
    GemmEpilogue<T> epilogue;
    if (bias) epilogue.bias_row = bias + g * c;
    gemm_batched<T>(p.batch, c, size, k, T(1), matrix(w + g * k * c, c, true), 0,
                    matrix(gy + g * k * size, size), p.out_channels * size, T(0), gx + g * c * size,
                    p.in_channels * size, size, epilogue);
  });
}

// Panels of channels (lanes) by positions of all images (steps).
template <class T, int P>
struct PackPositions {
  const T* data;  // the group's channels of the first image
  int64_t size, image, begin;

  void operator()(T* panel, int64_t first, int count, int64_t k0, int64_t kc) const {
    for (int64_t k = 0; k < kc;) {
      const int64_t n = (begin + k0 + k) / size, position = (begin + k0 + k) % size,
                    length = std::min(kc - k, size - position);
      tile::pack_panel<T, P>(panel + k * P, data + n * image + first * size + position, size, 1, count,
                             length);
      k += length;
    }
  }
};

// Planes this long are multiplied one by one, grad_y's rows as they lie: packing them, transposed, takes longer
// than meeting this few channels.
constexpr int64_t kLongPlane = 192, kFewChannels = 128;

// In how many the sums of `weights` results are cut: thousands of positions (fewer where little is packed), and
// the partial results stay in L2.
int64_t parts(int64_t weights, int64_t positions, int64_t least) {
  return weights > (16 << 10)
             ? 1
             : std::clamp<int64_t>(std::min(positions / least, (256 << 10) / weights), 1, 64);
}

// The product over positions first .. last, by parts of images: x's channels are packed, and stay in L2.
template <class T>
void multiply_images(const ConvProblem& p, T* gw, const T* gy, const T* x, int64_t first, int64_t last) {
  constexpr int nr = tile::kNR<T>;
  const int64_t k = p.group_out(), c = p.group_in(), size = p.in_size(), columns = ceil_div(c, nr);
  const int64_t depth = tile::block_depth<T>(size);
  const int64_t height = ceil_div(k, ceil_div(k, tile::rows_of_a_tile(matrix(gy, size))));
  memory::Buffer<T> packed(size_t(columns * nr * depth));
  for (int64_t at = first; at < last;) {
    const int64_t n = at / size, position = at % size;
    const int64_t length = std::min({last - at, size - position, depth});
    const T* grad = gy + n * p.out_channels * size + position;
    for (int64_t q = 0; q < columns; ++q)
      tile::pack_panel<T, nr>(packed.get() + q * nr * length,
                              x + (n * p.in_channels + q * nr) * size + position, size, 1,
                              int(std::min<int64_t>(nr, c - q * nr)), length);
    for (int64_t i = 0; i < k; i += height)
      for (int64_t q = 0; q < columns; ++q) {
        const int rows = int(std::min(height, k - i)), cols = int(std::min<int64_t>(nr, c - q * nr));
        tile::kernel_for<T>(rows, cols, tile::Form::rows)(
            length, grad + i * size, size, packed.get() + q * nr * length, nr, cols,
            {gw + i * c + q * nr, c, T(1), T(at > first), nullptr, nullptr, GemmActivation::none});
      }
    at += length;
  }
}

// One group's product over all positions.
template <class T>
[[gnu::noinline]] void sum_positions(const ConvProblem& p, T* gw, const T* gy, const T* x) {
  const int64_t k = p.group_out(), c = p.group_in(), size = p.in_size(), positions = p.batch * size;
  const bool long_planes = size >= kLongPlane && c <= kFewChannels;
  const int64_t count = parts(k * c, positions, long_planes ? 512 : 1024);
  memory::Buffer<T> sums(size_t(count > 1 ? count * k * c : 0));
  T* to = count > 1 ? sums.get() : gw;
  const int64_t grain = 400000 * count / (k * c * positions);
  parallel_for(count, std::max<int64_t>(1, grain), [=, &p](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = positions * i / count, last = positions * (i + 1) / count;
      if (long_planes && count > 1)
        multiply_images<T>(p, to + i * k * c, gy, x, first, last);
      else
        tile::gemm_panels<T>(k, c, last - first,
                             PackPositions<T, tile::kMR<T>>{gy, size, p.out_channels * size, first},
                             PackPositions<T, tile::kNR<T>>{x, size, p.in_channels * size, first}, T(1), T(0),
                             to + i * k * c, c);
    }
  });
  if (count > 1) add_parts<T>(gw, to, k * c, count);
}

template <class T>
void grad_w(const ConvProblem& p, T* gw, const T* gy, const T* x) {
  const int64_t k = p.group_out(), c = p.group_in(), size = p.in_size();
  for_groups<T>(p, [&](int64_t g) {
    (has_few_weights(p) ? grad_w_by_rows : sum_positions<T>)(p, gw + g * k * c, gy + g * k * size,
                                                             x + g * c * size);
  });
}

const char* refusal(const ConvProblem& p) {
  if (p.kernel != Extent{1, 1, 1}) return "it needs a kernel of one element";
  if (p.stride != Extent{1, 1, 1}) return "it needs stride 1";
  if (p.pad != Extent{0, 0, 0} || p.in != p.out) return "it needs an input without padding";
  return nullptr;
}
bool worthwhile(const ConvProblem& p, ConvPass pass) {
  // Small planes leave lanes empty and read all weights again for each; im2col takes some images as one. (Its
  // copy of the patches wants long sums and many outputs.)
  const int64_t size = p.in_size(), whole = ceil_div(size, simd::kWidth<float>) * simd::kWidth<float>;
  if (pass == ConvPass::forward && p.batch > 1 && p.group_in() >= 512 && p.group_out() >= 128 &&
      10 * whole > 11 * size)
    return false;
  return true;  // (an outer product writes the result once, and nothing else)
}

}  // namespace

template <class T>
const ConvAlgorithm<T>& conv_pointwise() {
  static constexpr ConvAlgorithm<T> algorithm{"pointwise", refusal,   worthwhile, nullptr,
                                              forward<T>,  grad_x<T>, grad_w<T>};
  return algorithm;
}
template const ConvAlgorithm<float>& conv_pointwise<float>();

}  // namespace fastdl
