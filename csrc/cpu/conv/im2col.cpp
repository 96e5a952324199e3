// Convolution as matrix multiplication: the algorithm that does every problem.
//
// Column o of the patch matrix holds the C/G * R input elements that output position o sees. Per image and
// group
//
//   forward   y  (K x P)      = w (K x CR) * patches (CR x P)
//   grad_x    patches' (CR x P) = w^T * grad_y (K x P), added up into grad_x where the patches overlap
//   grad_w    grad_w (K x CR) = sum over images of  grad_y (K x P) * patches^T
//
// with K = out_channels / G, R taps, P output positions. The patch matrix would be R times the input; it
// never exists. Forward and grad_w gather it panel by panel as the matrix engine asks for its next operand
// (patches.h), so a panel goes from cache to registers. With stride 1 grad_x is the forward pass of grad_y
// with the kernel turned round; else it makes a few rows of the matrix at a time, small enough for L2.
//
// Where weights outnumber patches by far they are not packed either: the patches become a matrix after all.
//
// Two things that would be computed in vain are left out of a forward pass: lanes behind small planes, by
// taking some images as one, and taps that meet nothing but padding in whole rows of outputs, by taking the
// kernel's rows one after the other.
//
// Work: forward and grad_w over blocks of the engine's result (positions and channels: one image is enough to
// keep all threads busy) or, where there are many images, over images; grad_x of strides over images and
// blocks of input channels, each of which owns its part of grad_x, so nothing is added up across threads.
#include <algorithm>
#include <utility>
#include <vector>

#include "cpu/conv/algorithm.h"
#include "cpu/conv/patches.h"
#include "cpu/gemm/panels.h"

namespace fastdl {
namespace {

// A panels of grad_y over all images: lanes are output channels, steps are (image, position).
template <class T>
struct PackGrad {
  const ConvProblem& p;
  const T* grad_y;  // the group's channels of the first image

  void operator()(T* panel, int64_t first, int count, int64_t k0, int64_t kc) const {
    constexpr int lanes = tile::kMR<T>;
    const int64_t positions = p.out_size();
    for (int64_t k = 0; k < kc;) {
      const int64_t n = (k0 + k) / positions, position = (k0 + k) % positions;
      const int64_t length = std::min(kc - k, positions - position);
      tile::pack_panel<T, lanes>(panel + k * lanes,
                                 grad_y + (n * p.out_channels + first) * positions + position, positions, 1,
                                 count, length);
      k += length;
    }
  }
};

// A panels of the weights of a pass: lane i, step (channel c, tap t) is data[i * row + c * depth + t * tap].
template <class T>
struct PackWeights {
  const T* data;
  int64_t row, depth, tap, taps;

  void operator()(T* panel, int64_t first, int count, int64_t k0, int64_t kc) const {
    constexpr int lanes = tile::kMR<T>;
    const T* from = data + first * row;
    if (tap == 1 && depth == taps) return tile::pack_panel<T, lanes>(panel, from + k0, row, 1, count, kc);
    int64_t c = k0 / taps, t = k0 % taps;
    for (int64_t k = 0; k < kc; ++k, panel += lanes) {
      const T* step = from + c * depth + t * tap;
      for (int i = 0; i < count; ++i) panel[i] = step[i * row];
      if (++t == taps) t = 0, ++c;
    }
  }
};

// Rows of a kernel (along its first axis), and the run of output positions some of whose rows of inputs they
// meet.
struct Slice {
  ConvProblem problem;
  int64_t row, first, count;
};

// The kernel as a whole, or, where that saves much, row by row, those with most outputs first.
template <class T>
std::vector<Slice> slices_of(const ConvProblem& p) {
  constexpr int w = simd::kWidth<T>;
  size_t axis = 0;
  while (axis + 1 < kSpatial && p.kernel[axis] == 1 && p.out[axis] == 1) ++axis;
  const int64_t positions = p.out_size(), rows = p.kernel[axis];
  int64_t step = 1, met = 0;  // positions per output along the axis; vectors
  for (size_t a = axis + 1; a < kSpatial; ++a) step *= p.out[a];
  std::vector<Slice> slices;
  for (int64_t r = 0; r < rows; ++r) {
    Slice slice{p, r, 0, 0};
    const int64_t start = r * p.dilation[axis] - p.pad[axis], stride = p.stride[axis];
    const int64_t low = start < 0 ? std::min(p.out[axis], ceil_div(-start, stride)) : 0;
    const int64_t high =
        start < p.in[axis] ? std::min(p.out[axis], (p.in[axis] - 1 - start) / stride + 1) : 0;
    if (low >= high) continue;
    slice.problem.kernel[axis] = 1;
    slice.problem.pad[axis] = -start;
    slice.first = low * step;
    slice.count = (high - low) * step;
    met += ceil_div(slice.count, w);
    slices.push_back(slice);
  }
  // Each row of the kernel reads and writes the result once more.
  if (rows == 1 || p.patch() / rows < 128 || double(met) > 0.93 * double(rows * ceil_div(positions, w)))
    return {{p, 0, 0, positions}};
  std::stable_sort(slices.begin(), slices.end(),
                   [](const Slice& a, const Slice& b) { return a.count > b.count; });
  return slices;
}

template <class T>
int64_t images_together(const ConvProblem& p) {
  constexpr int w = simd::kWidth<T>;
  const int64_t positions = p.out_size(), whole = ceil_div(positions, w) * w;
  if (positions >= 4 * w && 20 * whole <= 21 * positions) return 1;
  const int64_t most =
      std::max<int64_t>(1, kTogetherBytes / (p.group_out() * positions * int64_t(sizeof(T))));
  return ceil_div(p.batch, ceil_div(p.batch, most));
}

// A forward pass whose weights are the larger operand by far: they are read where they lie, once, and the
// patches become a matrix.
template <class T>
void few_positions(const ConvProblem& p, T* y, const T* x, const T* w, const T* bias) {
  constexpr int64_t nr = tile::kNR<T>, step = 256;
  const int64_t m = p.out_channels, k = p.patch(), positions = p.out_size(), n = p.batch * positions;
  const int64_t panels = ceil_div(n, nr), blocks = ceil_div(k, step);
  memory::Buffer<T> patches(size_t(k * n)), joint(p.batch > 1 ? size_t(m * n) : 0);
  const PackPatches<T> pack{.p = p, .x = x, .origin = 0};
  parallel_for(panels * blocks, 1, [&](int64_t begin, int64_t end) {
    alignas(64) T panel[step * nr];
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i / blocks * nr, k0 = i % blocks * step;
      const int64_t count = std::min(nr, n - first), kc = std::min(step, k - k0);
      pack(panel, first, int(count), k0, kc);
      for (int64_t j = 0; j < kc; ++j) copy_row(patches + (k0 + j) * n + first, panel + j * nr, count);
    }
  });
  T* const sums = p.batch > 1 ? joint.get() : y;
  GemmEpilogue<T> epilogue;
  epilogue.bias_row = bias;
  gemm<T>(m, n, k, T(1), matrix(w, k), matrix(static_cast<const T*>(patches.get()), n), T(0), sums, n,
          epilogue);
  if (p.batch > 1)
    for (int64_t i = 0; i < p.batch * m; ++i)
      copy_row(y + i * positions, sums + i % m * n + i / m * positions, positions);
}

// The forward pass of p with any weights; those of a group lie group_size after those of the one before.
template <class T>
void correlate(const ConvProblem& p, T* y, const T* x, const PackWeights<T>& weights, int64_t group_size,
               const T* bias) {
  const int64_t m = p.group_out(), positions = p.out_size();
  const std::vector<Slice> slices = slices_of<T>(p);
  const bool whole = slices.size() == 1 && slices[0].count == positions;
  const int64_t packed_size = tile::packed_a_size<T>(m, p.patch());
  memory::Buffer<T> packed(size_t(packed_size * p.groups));
  for (int64_t g = 0; g < p.groups; ++g) {
    T* to = packed + g * packed_size;
    for (const Slice& slice : slices) {
      PackWeights<T> part = weights;
      part.data += g * group_size + slice.row * slice.problem.taps() * weights.tap;
      part.taps = slice.problem.taps();
      tile::pack_a<T>(to, m, slice.problem.patch(), part);
      to += tile::packed_a_size<T>(m, slice.problem.patch());
    }
  }

  const int64_t together = whole ? images_together<T>(p) : 1;
  const auto work = [&](int64_t index) {
    const int64_t n = index / p.groups * together, g = index % p.groups;
    const int64_t images = std::min(together, p.batch - n), lanes = images * positions;
    memory::Buffer<T> joint(images > 1 ? size_t(m * lanes) : 0);
    T* const result = y + (n * p.out_channels + g * m) * positions;
    T* const sums = images > 1 ? joint.get() : result;
    GemmEpilogue<T> epilogue;
    if (bias) epilogue.bias_row = bias + g * m;
    bool begun = slices.empty() || slices[0].count < positions;
    if (begun)
      for (int64_t k = 0; k < m; ++k) std::fill_n(sums + k * lanes, lanes, bias ? bias[g * m + k] : T(0));
    const T* a = packed + g * packed_size;
    for (const Slice& slice : slices) {
      const int64_t k = slice.problem.patch();
      const PackPatches<T> patches{.p = slice.problem,
                                   .x = x + (n * p.in_channels + g * p.group_in()) * p.in_size(),
                                   .origin = slice.first};
      tile::gemm_panels<T>(m, whole ? lanes : slice.count, k, tile::Packed<T>{a}, patches, T(1),
                           T(begun ? 1 : 0), sums + slice.first, lanes, begun ? GemmEpilogue<T>{} : epilogue);
      begun = true;
      a += tile::packed_a_size<T>(m, k);
    }
    if (images > 1)
      parallel_for(images * m, std::max<int64_t>(1, 16384 / positions), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          copy_row(result + (i / m * p.out_channels + i % m) * positions,
                   sums + i % m * lanes + i / m * positions, positions);
      });
  };
  const int64_t count = ceil_div(p.batch, together) * p.groups;
  if (count >= 2 * num_threads())
    parallel_for(count, std::max<int64_t>(1, int64_t(1e6 * double(count) / p.macs())),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i) work(i);
                 });
  else
    for (int64_t i = 0; i < count; ++i) work(i);
}

template <class T>
void forward(const ConvProblem& p, T* y, const T* x, const T* w, const T* bias) {
  if (has_few_positions(p)) return few_positions<T>(p, y, x, w, bias);
  correlate<T>(p, y, x, {w, p.patch(), p.taps(), 1, p.taps()}, p.group_out() * p.patch(), bias);
}

// With stride 1: a correlation of grad_y with the kernel turned round.
template <class T>
void grad_x_turned(const ConvProblem& p, T* gx, const T* gy, const T* w, const T* bias) {
  ConvProblem q = p;
  std::swap(q.in_channels, q.out_channels);
  std::swap(q.in, q.out);
  for (size_t a = 0; a < kSpatial; ++a) q.pad[a] = p.dilation[a] * (p.kernel[a] - 1) - p.pad[a];
  correlate<T>(q, gx, gy, {w + p.taps() - 1, p.taps(), p.patch(), -1, p.taps()}, p.group_out() * p.patch(),
               bias);
}

// sum[step * j] += patch[j] for j in [begin, end).
template <class T>
void add_row(T* sum, const T* patch, int64_t begin, int64_t end, int64_t step) {
  for (int64_t j = begin; j < end; ++j) sum[step * j] += patch[j];
}
// sum[2 * j] += a[j], sum[2 * j + 1] += b[j].
template <class T>
void add_pair(T* sum, const T* a, const T* b, int64_t begin, int64_t end) {
  constexpr int w = simd::kWidth<T>;
  constexpr auto all = std::make_integer_sequence<int, w>{};
  int64_t j = begin;
  for (; j + w <= end; j += w) {
    const simd::Vec<T> x = simd::load(a + j), y = simd::load(b + j);
    T* to = sum + 2 * j;
    simd::store<T>(to, simd::load(to) + tile::zip_low<T>(x, y, all));
    simd::store<T>(to + w, simd::load(to + w) + tile::zip_high<T>(x, y, all));
  }
  if constexpr (simd::kBytes == 64) {  // masked stores are quick
    if (j == end) return;
    const int count = int(end - j), first = std::min(2 * count, w), rest = 2 * count - first;
    const simd::Vec<T> x = simd::load_n(a + j, count), y = simd::load_n(b + j, count);
    T* to = sum + 2 * j;
    simd::store_n(to, simd::load_n(to, first) + tile::zip_low<T>(x, y, all), first);
    if (rest > 0) simd::store_n(to + w, simd::load_n(to + w, rest) + tile::zip_high<T>(x, y, all), rest);
  } else {
    for (; j < end; ++j) {
      sum[2 * j] += a[j];
      sum[2 * j + 1] += b[j];
    }
  }
}

template <class T>
void grad_x(const ConvProblem& p, T* gx, const T* gy, const T* w, const T* bias) {
  if (is_turned(p)) return grad_x_turned(p, gx, gy, w, bias);
  constexpr int64_t scratch = 64 << 10;  // elements of the patch matrix that exist at once
  const int64_t m = p.group_out(), taps = p.taps(), k = p.patch(), positions = p.out_size(),
                size = p.in_size();
  // Channels per task: few enough to leave every thread work, enough to make the product worth its packing.
  const int64_t wanted = ceil_div(4 * num_threads(), std::max<int64_t>(p.batch * p.groups, 1));
  const int64_t block =
      std::max(ceil_div(p.group_in(), wanted), std::min(p.group_in(), ceil_div(int64_t{32}, taps)));
  const int64_t blocks = ceil_div(p.group_in(), block);
  const int64_t rows_at_once = std::max<int64_t>(1, scratch / (block * taps) / p.out[2]);
  const Spans spans(p);
  parallel_tasks(p.batch * p.groups * blocks, [&](int64_t task) {
    const int64_t n = task / blocks / p.groups, g = task / blocks % p.groups;
    const int64_t c0 = task % blocks * block, channels = std::min(block, p.group_in() - c0);
    T* to = gx + (n * p.in_channels + g * p.group_in() + c0) * size;
    for (int64_t c = 0; c < channels; ++c)
      std::fill_n(to + c * size, size, bias ? bias[g * p.group_in() + c0 + c] : T(0));
    const T* from = gy + (n * p.out_channels + g * m) * positions;
    memory::Buffer<T> patches(size_t(channels * taps * rows_at_once * p.out[2]));
    for (int64_t first = 0; first < positions; first += rows_at_once * p.out[2]) {
      const int64_t count = std::min(rows_at_once * p.out[2], positions - first);
      gemm<T>(channels * taps, count, m, T(1), matrix(w + g * m * k + c0 * taps, k, true),
              matrix(from + first, positions), T(0), patches.get(), count);
      Row row(p, 0);
      for (int64_t i = 0, run; i < channels * taps; i += run) {
        Row second = row;
        second.next(p);
        // Neighbouring taps of stride 2 meet neighbouring pixels.
        run = p.stride[2] == 2 && p.dilation[2] == 1 && row.tap[2] + 1 < p.kernel[2] ? 2 : 1;
        for_segments(p, first, count, [&](const Segment& s) {
          const Span a = spans.of(s, row), b = run == 2 ? spans.of(s, second) : Span{};
          const T* patch = patches + i * count + s.lane;
          const int64_t begin = std::max(a.begin, b.begin), end = std::min(a.end, b.end);
          if (begin < end) {
            add_row(to + a.source, patch, a.begin, begin, p.stride[2]);
            add_row(to + b.source, patch + count, b.begin, begin, p.stride[2]);
            add_pair(to + a.source, patch, patch + count, begin, end);
            add_row(to + a.source, patch, end, a.end, p.stride[2]);
            add_row(to + b.source, patch + count, end, b.end, p.stride[2]);
          } else {
            add_row(to + a.source, patch, a.begin, a.end, p.stride[2]);
            add_row(to + b.source, patch + count, b.begin, b.end, p.stride[2]);
          }
        });
        row = second;
        if (run == 2) row.next(p);
      }
    }
  });
}

template <class T>
void grad_w(const ConvProblem& p, T* gw, const T* gy, const T* x) {
  const int64_t m = p.group_out(), k = p.patch(), positions = p.out_size();
  for_groups<T>(p, [&](int64_t g) {
    tile::gemm_panels<T>(m, k, p.batch * positions, PackGrad<T>{p, gy + g * m * positions},
                         PackPatchesTransposed<T>{p, x + g * p.group_in() * p.in_size()}, T(1), T(0),
                         gw + g * m * k, k);
  });
}

const char* refusal(const ConvProblem&) {
  return nullptr;
}
template <class T>
double cost(const ConvProblem& p, ConvPass pass) {
  return im2col_cost(p, pass, simd::kWidth<T>);
}

}  // namespace

template <class T>
const ConvAlgorithm<T>& conv_im2col() {
  static constexpr ConvAlgorithm<T> algorithm{"im2col",   refusal,   nullptr,  cost<T>,
                                              forward<T>, grad_x<T>, grad_w<T>};
  return algorithm;
}
template const ConvAlgorithm<float>& conv_im2col<float>();
template const ConvAlgorithm<double>& conv_im2col<double>();

}  // namespace fastdl
