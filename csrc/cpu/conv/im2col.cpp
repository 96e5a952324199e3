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
// (csrc/cpu/gemm/panels.h), so a panel goes from cache to registers. grad_x makes a few rows of it at a time,
// small enough for L2.
//
// Work: forward and grad_w over blocks of the engine's result (positions and channels: one image is enough to
// keep all threads busy) or, where there are many images, over images; grad_x over images and blocks of input
// channels, each of which owns its part of grad_x, so nothing is added up across threads.
#include "cpu/conv/algorithm.h"
#include "cpu/conv/planes.h"
#include "cpu/gemm/panels.h"

namespace fastdl {
namespace {

// Part of one output row: `count` positions whose first has its tap 0 at input position (d, h, w), maybe
// outside.
struct Segment {
  int64_t lane, count, d, h, w;
};

// Calls f(segment) for the rows that make up output positions [first, first + count).
template <class F>
void for_segments(const ConvProblem& p, int64_t first, int64_t count, F&& f) {
  for (int64_t lane = 0; lane < count;) {
    const int64_t position = first + lane, row = position / p.out[2];
    const int64_t od = row / p.out[1], oh = row % p.out[1], ow = position % p.out[2];
    const int64_t length = std::min(count - lane, p.out[2] - ow);
    f(Segment{lane, length, od * p.stride[0] - p.pad[0], oh * p.stride[1] - p.pad[1],
              ow * p.stride[2] - p.pad[2]});
    lane += length;
  }
}

// One row of the patch matrix: input channel and tap.
struct Row {
  int64_t channel;
  Extent tap;
  Row(const ConvProblem& p, int64_t index) : channel(index / p.taps()) {
    const int64_t r = index % p.taps();
    tap = {r / (p.kernel[1] * p.kernel[2]), r / p.kernel[2] % p.kernel[1], r % p.kernel[2]};
  }
  void next(const ConvProblem& p) {
    for (int axis = 2; axis >= 0; --axis) {
      if (++tap[size_t(axis)] < p.kernel[size_t(axis)]) return;
      tap[size_t(axis)] = 0;
    }
    ++channel;
  }
};

// Where a segment meets a row of the patch matrix: x[source + j * stride] for j in [begin, end), zeros
// elsewhere.
struct Span {
  int64_t source, begin, end;
};
Span span_of(const ConvProblem& p, const Segment& s, const Row& row) {
  const int64_t d = s.d + row.tap[0] * p.dilation[0], h = s.h + row.tap[1] * p.dilation[1];
  const int64_t w = s.w + row.tap[2] * p.dilation[2];
  if (d < 0 || d >= p.in[0] || h < 0 || h >= p.in[1]) return {0, 0, 0};
  const int64_t begin = std::min(s.count, w >= 0 ? 0 : ceil_div(-w, p.stride[2]));
  const int64_t end = w >= p.in[2] ? 0 : std::min(s.count, (p.in[2] - 1 - w) / p.stride[2] + 1);
  return {((row.channel * p.in[0] + d) * p.in[1] + h) * p.in[2] + w, begin, std::max(begin, end)};
}

// B panels of the patch matrix: lanes are positions. Tap by tap, so that where a tap meets the image is found
// once for all channels.
template <class T>
struct PackPatches {
  const ConvProblem& p;
  const T* x;  // the group's channels of one image

  void operator()(T* panel, int64_t first, int count, int64_t k0, int64_t kc) const {
    constexpr int lanes = tile::kNR<T>;
    Segment segments[lanes];
    int n = 0;
    for_segments(p, first, count, [&](const Segment& s) { segments[n++] = s; });
    Row row(p, k0);
    for (int64_t i = 0; i < std::min(p.taps(), kc); ++i, row.next(p))
      for (int j = 0; j < n; ++j) {
        const Span span = span_of(p, segments[j], row);
        T* to = panel + i * lanes + segments[j].lane;
        const auto copy = p.stride[2] == 1   ? &PackPatches::copy_vectors<1>
                          : p.stride[2] == 2 ? &PackPatches::copy_vectors<2>
                                             : &PackPatches::copy_rows;
        (this->*copy)(to, span, segments[j].count, ceil_div(kc - i, p.taps()));
      }
  }

  // One segment and tap in `channels` channels.
  template <int S>
  void copy_vectors(T* to, const Span& span, int64_t count, int64_t channels) const {
    constexpr int w = simd::kWidth<T>;
    for (int64_t v = 0; v < count; v += w) {
      const RowPart<T, S> part(span.begin - v, span.end - v, int(std::min<int64_t>(w, count - v)));
      const T* from = x + span.source + S * v;
      for (int64_t c = 0; c < channels; ++c)
        part.copy(to + v + c * p.taps() * tile::kNR<T>, from + c * p.in_size());
    }
  }
  void copy_rows(T* to, const Span& span, int64_t count, int64_t channels) const {
    const T* from = x + span.source + span.begin * p.stride[2];
    for (int64_t c = 0; c < channels; ++c, to += p.taps() * tile::kNR<T>, from += p.in_size()) {
      std::fill_n(to, span.begin, T(0));
      copy_row(to + span.begin, from, span.end - span.begin, p.stride[2]);
      std::fill_n(to + span.end, count - span.end, T(0));
    }
  }
};

// B panels of its transpose over all images: lanes are (channel, tap), steps are (image, position).
template <class T>
struct PackPatchesTransposed {
  const ConvProblem& p;
  const T* x;  // the group's channels of the first image

  void operator()(T* panel, int64_t first, int count, int64_t k0, int64_t kc) const {
    constexpr int lanes = tile::kNR<T>;
    const int64_t positions = p.out_size(), image = p.in_channels * p.in_size();
    for (int64_t k = 0; k < kc;) {
      const int64_t n = (k0 + k) / positions, position = (k0 + k) % positions;
      const int64_t length = std::min(kc - k, positions - position);
      for_segments(p, position, length, [&](const Segment& s) {
        Row row(p, first);
        for (int lane = 0; lane < count; ++lane, row.next(p)) {
          const Span span = span_of(p, s, row);
          const T* from = x + n * image + span.source;
          T* to = panel + (k + s.lane) * lanes + lane;
          for (int64_t j = 0; j < span.begin; ++j) to[j * lanes] = 0;
          for (int64_t j = span.begin; j < span.end; ++j) to[j * lanes] = from[j * p.stride[2]];
          for (int64_t j = span.end; j < s.count; ++j) to[j * lanes] = 0;
        }
      });
      k += length;
    }
  }
};

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

template <class T>
void forward(const ConvProblem& p, T* y, const T* x, const T* w, const T* bias) {
  const int64_t m = p.group_out(), k = p.patch(), positions = p.out_size();
  const int64_t packed = tile::packed_a_size<T>(m, k);
  memory::Buffer<T> weights(size_t(packed * p.groups));
  for (int64_t g = 0; g < p.groups; ++g)
    tile::pack_a<T>(weights + g * packed, m, k, tile::PackA<T>{matrix(w + g * m * k, k)});

  auto image = [&](int64_t index) {
    const int64_t n = index / p.groups, g = index % p.groups;
    const PackPatches<T> patches{p, x + (n * p.in_channels + g * p.group_in()) * p.in_size()};
    GemmEpilogue<T> epilogue;
    if (bias) epilogue.bias_row = bias + g * m;
    tile::gemm_panels<T>(m, positions, k, tile::Packed<T>{weights + g * packed}, patches, T(1), T(0),
                         y + (n * p.out_channels + g * m) * positions, positions, epilogue);
  };
  const int64_t images = p.batch * p.groups;
  if (images >= 2 * num_threads())
    parallel_for(images, std::max<int64_t>(1, int64_t(1e6 * double(images) / p.macs())),
                 [&](int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i) image(i);
                 });
  else
    for (int64_t i = 0; i < images; ++i) image(i);
}

template <class T>
void grad_x(const ConvProblem& p, T* gx, const T* gy, const T* w, const T* bias) {
  constexpr int64_t scratch = 64 << 10;  // elements of the patch matrix that exist at once
  const int64_t m = p.group_out(), taps = p.taps(), k = p.patch(), positions = p.out_size(),
                size = p.in_size();
  // Channels per task: few enough to leave every thread work, enough to make the product worth its packing.
  const int64_t wanted = ceil_div(4 * num_threads(), std::max<int64_t>(p.batch * p.groups, 1));
  const int64_t block =
      std::max(ceil_div(p.group_in(), wanted), std::min(p.group_in(), ceil_div(int64_t{32}, taps)));
  const int64_t blocks = ceil_div(p.group_in(), block);
  const int64_t rows_at_once = std::max<int64_t>(1, scratch / (block * taps) / p.out[2]);
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
      for (int64_t i = 0; i < channels * taps; ++i, row.next(p))
        for_segments(p, first, count, [&](const Segment& s) {
          const Span span = span_of(p, s, row);
          const T* patch = patches + i * count + s.lane;
          T* sum = to + span.source;
          for (int64_t j = span.begin; j < span.end; ++j) sum[j * p.stride[2]] += patch[j];
        });
    }
  });
}

template <class T>
void grad_w(const ConvProblem& p, T* gw, const T* gy, const T* x) {
  const int64_t m = p.group_out(), k = p.patch(), positions = p.out_size();
  for (int64_t g = 0; g < p.groups; ++g)
    tile::gemm_panels<T>(m, k, p.batch * positions, PackGrad<T>{p, gy + g * m * positions},
                         PackPatchesTransposed<T>{p, x + g * p.group_in() * p.in_size()}, T(1), T(0),
                         gw + g * m * k, k);
}

const char* refusal(const ConvProblem&) {
  return nullptr;
}
bool worthwhile(const ConvProblem&, ConvPass) {
  return true;
}

}  // namespace

template <class T>
const ConvAlgorithm<T>& conv_im2col() {
  static constexpr ConvAlgorithm<T> algorithm{"im2col",   refusal,   worthwhile,
                                              forward<T>, grad_x<T>, grad_w<T>};
  return algorithm;
}
template const ConvAlgorithm<float>& conv_im2col<float>();
template const ConvAlgorithm<double>& conv_im2col<double>();

}  // namespace fastdl
