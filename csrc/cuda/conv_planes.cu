// Convolution and its gradient of x for few channels of a group: depthwise, groups of some, a first layer's.
//
//   y[n, g, r, o] = bias[g, r] + sum over c, taps of  w[g, r, c, tap] * x[n, g, c, source(o, tap)]
//
// A product on tensor cores would leave most of its tile empty here, and what there is to compute takes no
// longer than moving x and y: FMAs. A block takes some *units* (a group of an image), or some results and a
// band of rows of one; source planes pass to shared memory all at once, by asynchronous copies of 16 bytes,
// and results leave through it, so memory sees x and y once, in whole accesses whatever the extents (band
// edges and a group's further results come from the second-level cache). A thread sums 4 x 2 results of a
// channel: for a 3x3 kernel 24 loads of two bytes, which neighbouring lanes take from neighbouring words, for
// 72 FMAs. Its kernel is in registers. Each result is summed by one thread in a fixed order: the same bits
// everywhere.
//
// Kernels are square, 3, 5 or 7 wide, strides 1 and 2 (7: 1). One channel to one is conv_depthwise_planes.cu's;
// conv_depthwise.cu has the other depthwise ones.
#include "cuda/conv_depthwise_planes.h"

namespace fastdl::cuda {
namespace {

constexpr int64_t kMostWeights = 8192;  // in shared memory

struct Planes {
  PlaneAxis h, w;
  int units, sources, results;  // channels of a unit
  int block_units, block_results, bands;
  int run, out_run;  // elements between planes in shared memory
  bool whole;        // blocks have whole units: one run
  bool transposed, turned;
  Divisor by_band, columns, strips, by_result, by_group, by_source;
};

__device__ __forceinline__ int group_of(int unit, const Planes& p) {
  return unit - int(p.by_group.quotient(uint32_t(unit)) * p.by_group.divisor);
}

template <class T, int K, int kDown, int kUp>
__global__ void __launch_bounds__(kPlaneThreads, K == 3   ? 4
                                                 : K == 5 ? 3
                                                          : 2)
    planes_product(T* y, const T* x, const T* weight, const T* bias, Planes p) {
  using W = Window<K, kDown, kUp>;
  constexpr int kTaps = K * K, kRows = W::sources(kHigh), kColumns = W::sources(kWide);
  FASTDL_DYNAMIC_SHARED(float, taps);
  const uint32_t unit_block = p.by_band.quotient(blockIdx.x);
  const int unit0 = int(unit_block) * p.block_units, units = std::min(p.block_units, p.units - unit0);
  const int strip0 = int(blockIdx.x - unit_block * p.by_band.divisor) * int(p.strips.divisor),
            strips = std::min(int(p.strips.divisor), p.h.strips - strip0);
  const int result0 = int(blockIdx.y) * p.block_results,
            results = std::min(p.block_results, p.results - result0);
  // Rows of the sources that these strips see, and rows of results.
  int low = 0, high = p.h.sources, out_low = 0, out_high = p.h.results;
  if (!p.whole) {
    low = std::max(0, p.h.origin + strip0 * p.h.step);
    high = std::max(low, std::min(high, p.h.origin + (strip0 + strips - 1) * p.h.step + kRows));
    out_low = std::max(0, p.h.first + strip0 * kHigh);
    out_high = std::min(out_high, p.h.first + (strip0 + strips) * kHigh);
  }
  const int64_t size = int64_t(p.h.sources) * p.w.sources, out_size = int64_t(p.h.results) * p.w.results;
  const T* const from = x + int64_t(unit0) * p.sources * size + int64_t(low) * p.w.sources;
  T* const to = y + (int64_t(unit0) * p.results + result0) * out_size + int64_t(out_low) * p.w.results;

  const int lines = p.block_units * p.block_results * p.sources;
  T* const in = reinterpret_cast<T*>(taps + (lines * kTaps + 3) / 4 * 4);
  const int in_planes = p.block_units * p.sources;
  T* const out = in + (p.whole ? pitch_of<T>(int64_t(in_planes) * p.run) : in_planes * p.run);
  const int length = p.whole ? units * p.sources * p.run : (high - low) * p.w.sources;
  for_runs(p.whole ? 1 : p.sources, [&](int c, int thread, int threads) {
    copy_in(in + c * p.run, from + c * size, length, thread, threads);
  });
  cp_async_commit();
  // Four of a thread's are under way at a time: a block may have thousands for its few results.
  constexpr int kAtOnce = 4;
  const int weights = units * results * p.sources * kTaps;
  const auto weight_of = [&](int i) {
    const int tap = i % kTaps, line = i / kTaps, result = int(p.by_source.quotient(uint32_t(line)));
    const int c = line - result * p.sources, unit = int(p.by_result.quotient(uint32_t(result)));
    const int r = result0 + result - unit * int(p.by_result.divisor), group = group_of(unit0 + unit, p);
    const int row =
        p.transposed ? (group * p.sources + c) * p.results + r : (group * p.results + r) * p.sources + c;
    return weight[int64_t(row) * kTaps + (p.turned ? kTaps - 1 - tap : tap)];
  };
  for (int begin = int(threadIdx.x); begin < weights; begin += kAtOnce * int(blockDim.x)) {
    T some[kAtOnce];
    FASTDL_UNROLL
    for (int k = 0; k < kAtOnce; ++k) {
      const int i = begin + k * int(blockDim.x);
      if (i < weights) some[k] = weight_of(i);
    }
    FASTDL_UNROLL
    for (int k = 0; k < kAtOnce; ++k) {
      const int i = begin + k * int(blockDim.x);
      if (i < weights) taps[i] = widen(some[k]);
    }
  }
  cp_async_wait<0>();
  sync_threads();

  const int columns = int(p.columns.divisor), items = units * results * int(p.strips.divisor) * columns;
  for (int item = int(threadIdx.x); item < items; item += int(blockDim.x)) {
    const uint32_t q = p.columns.quotient(uint32_t(item)), result = p.strips.quotient(q);
    const int column = item - int(q) * columns, strip = int(q - result * p.strips.divisor);
    if (strip >= strips) continue;
    const int unit = int(p.by_result.quotient(result)), r = int(result) - unit * int(p.by_result.divisor);
    const int row = p.h.origin + (strip0 + strip) * p.h.step, at = p.w.origin + column * p.w.step;
    float sums[kHigh][kWide] = {};
    FASTDL_ROLLED
    for (int c = 0; c < p.sources; ++c) {
      const int plane = unit * p.sources + c;
      const T* const source =
          in + plane * p.run + lead_of(p.whole ? from : from + c * size) + (row - low) * p.w.sources + at;
      const float* const line = taps + (int(result) * p.sources + c) * kTaps;
      float w[kTaps];
      FASTDL_UNROLL
      for (int t = 0; t < kTaps; ++t) w[t] = line[t];
      FASTDL_UNROLL
      for (int i = 0; i < kRows; ++i) {
        float values[kColumns];
        load_sources(values, source + i * p.w.sources, uint32_t(row + i) < uint32_t(p.h.sources), at,
                     p.w.sources);
        FASTDL_UNROLL
        for (int a = 0; a < kHigh; ++a) FASTDL_UNROLL
        for (int kh = 0; kh < K; ++kh) {
          if (W::source(a, kh) != i) continue;
          FASTDL_UNROLL
          for (int b = 0; b < kWide; ++b) FASTDL_UNROLL
          for (int kw = 0; kw < K; ++kw)
            if (W::source(b, kw) >= 0) sums[a][b] += w[kh * K + kw] * values[W::source(b, kw)];
        }
      }
    }
    const int channel = group_of(unit0 + unit, p) * p.results + result0 + r;
    const float first = bias != nullptr ? float(widen(bias[channel])) : 0.0f;
    const int out_row = p.h.first + (strip0 + strip) * kHigh, out_at = p.w.first + column * kWide;
    T* const target = out + int(result) * p.out_run + lead_of(p.whole ? to : to + r * out_size);
    FASTDL_UNROLL
    for (int a = 0; a < kHigh; ++a) FASTDL_UNROLL
    for (int b = 0; b < kWide; ++b)
      if (uint32_t(out_row + a) < uint32_t(p.h.results) && uint32_t(out_at + b) < uint32_t(p.w.results))
        target[(out_row + a - out_low) * p.w.results + out_at + b] = narrow<T>(sums[a][b] + first);
  }
  sync_threads();
  const int out_length = p.whole ? units * results * p.out_run : (out_high - out_low) * p.w.results;
  for_runs(p.whole ? 1 : results, [&](int r, int thread, int threads) {
    copy_out(to + r * out_size, out + r * p.out_run, out_length, thread, threads);
  });
}

struct Tiling {
  Planes planes;
  int threads;
  size_t shared;
  int64_t blocks;
};

// Tiles of at most about `most` threads' results, where rows are short enough.
Tiling tiling_of(Dtype dtype, const ConvProblem& problem, bool transposed, int64_t most) {
  Tiling t;
  Planes& p = t.planes;
  p.h = plane_axis(problem, 1, kHigh, transposed);
  p.w = plane_axis(problem, 2, kWide, transposed);
  p.units = int(problem.batch * problem.groups);
  p.sources = int(transposed ? problem.group_out() : problem.group_in());
  p.results = int(transposed ? problem.group_in() : problem.group_out());
  p.transposed = transposed;
  p.turned = transposed && problem.stride[1] == 1;
  const int64_t row = p.w.strips, unit = row * p.h.strips * p.results;
  const int64_t size = int64_t(p.h.sources) * p.w.sources, out_size = int64_t(p.h.results) * p.w.results;
  int64_t strips = p.h.strips, in_elements, out_elements;
  const auto pitch = [&](int64_t length) {
    return dtype == Dtype::float32 ? pitch_of<float>(length) : pitch_of<__half>(length);
  };
  p.whole = unit <= most && p.sources * size <= 16384;
  if (p.whole) {
    const int64_t weights = int64_t(p.results) * p.sources * problem.taps();
    p.block_units =
        int(std::clamp<int64_t>(std::min({most / unit, 16384 / (p.sources * size), kMostWeights / weights}),
                                1, std::max(1, p.units)));
    p.block_results = p.results;
    p.run = int(size), p.out_run = int(out_size);
    in_elements = pitch(p.block_units * p.sources * size);
    out_elements = pitch(p.block_units * p.results * out_size);
  } else {
    p.block_units = 1;
    int64_t chunk = std::clamp<int64_t>(most / row, 1, p.results);
    chunk = ceil_div(p.results, ceil_div(p.results, chunk));
    p.block_results = int(chunk);
    strips = std::clamp<int64_t>(most / (row * chunk), 1, p.h.strips);
    const auto rows = [&] { return std::min<int64_t>(p.h.sources, strips * p.h.step + problem.kernel[1]); };
    while (strips > 1 && p.sources * rows() * p.w.sources > 12288) --strips;
    strips = ceil_div(p.h.strips, ceil_div(p.h.strips, strips));
    p.run = pitch(rows() * p.w.sources);
    p.out_run = pitch(strips * kHigh * p.w.results);
    in_elements = int64_t(p.sources) * p.run;
    out_elements = chunk * p.out_run;
  }
  p.bands = int(ceil_div(p.h.strips, strips));
  p.by_band = Divisor(uint32_t(p.bands));
  p.columns = Divisor(uint32_t(row));
  p.strips = Divisor(uint32_t(strips));
  p.by_result = Divisor(uint32_t(p.block_results));
  p.by_group = Divisor(uint32_t(problem.groups));
  p.by_source = Divisor(uint32_t(p.sources));
  const int64_t items = p.block_units * p.block_results * strips * row;
  const int64_t rounds = ceil_div(items, kPlaneThreads);  // of all threads
  t.threads = int(ceil_div(ceil_div(items, rounds), 32) * 32);
  const int64_t lines = int64_t(p.block_units) * p.block_results * p.sources;
  t.shared = size_t(ceil_div(lines * problem.taps(), 4) * 16 +
                    (in_elements + out_elements) * (dtype == Dtype::float32 ? 4 : 2));
  t.blocks = ceil_div(p.units, p.block_units) * p.bands;
  return t;
}

// Two rounds of 256 threads, whose start is then paid once and whose copies are more at a time, if that
// leaves eight blocks for a multiprocessor; else as large as leaves two. None that the device's shared memory
// is too small for, but the smallest (conv_planes_exist).
constexpr int64_t kSmallest = 64;
Tiling best_tiling(Dtype dtype, const ConvProblem& problem, bool transposed) {
  const int64_t available = multiprocessors();
  for (int64_t most = 2 * kPlaneThreads;; most /= 2) {
    const Tiling t = tiling_of(dtype, problem, transposed, most);
    const int64_t blocks = t.blocks * ceil_div(t.planes.results, t.planes.block_results);
    if (most == kSmallest ||
        (blocks >= (most > kPlaneThreads ? 8 : 2) * available && int64_t(t.shared) <= shared_memory()))
      return t;
  }
}

}  // namespace

bool conv_planes_exist(Dtype dtype, const ConvProblem& p) {
  const bool flat = p.in[0] == 1 && p.out[0] == 1 && p.kernel[0] == 1 && p.stride[0] == 1 && p.pad[0] == 0;
  const int64_t kernel = p.kernel[1], stride = p.stride[1];
  if (!flat || dtype == Dtype::float64 || p.kernel[2] != kernel || p.stride[2] != stride ||
      (kernel > 1 && (p.dilation[1] != 1 || p.dilation[2] != 1)))
    return false;
  if (!((stride == 1 && kernel == 7) || ((kernel == 3 || kernel == 5) && (stride == 1 || stride == 2))))
    return false;
  constexpr int64_t kFar = 1 << 20;
  if (std::max({p.pad[1], p.pad[2], p.in[1], p.out[1], p.in[2], p.out[2]}) >= kFar ||
      std::max({p.batch * std::max(p.in_channels, p.out_channels), p.out_channels * p.patch(),
                p.batch * p.out[1]}) >= kFar * 1024)
    return false;
  if (depthwise_planes_fit(p, false) && depthwise_planes_fit(p, true)) return true;
  // What a strip sees of the longest rows has to fit shared memory, with the weights.
  const int64_t seen = (kHigh - 1) * stride + kernel, seen_back = stride == 1 ? seen : kHigh / 2 + kernel / 2;
  const int64_t rows =
      std::max(p.group_in() * seen * (p.in[2] + 16), p.group_out() * seen_back * (p.out[2] + 16)) +
      2 * (seen + kHigh) * (std::max(p.in[2], p.out[2]) + 16);
  return rows * (dtype == Dtype::float32 ? 4 : 2) <= 96 << 10 && p.group_out() * p.patch() <= kMostWeights &&
         (p.batch * p.out_channels * p.in_channels * p.out_size() * p.in_size() == 0 ||
          int64_t(std::max(tiling_of(dtype, p, false, kSmallest).shared,
                           tiling_of(dtype, p, true, kSmallest).shared)) <= shared_memory());
}

bool conv_planes_suit(Dtype dtype, const ConvProblem& p, ConvPart part) {
  if (!conv_planes_exist(dtype, p)) return false;
  if (p.groups > 1 && p.group_in() == 1) return true;
  if (std::max(p.group_in(), p.group_out()) > 32 || std::min(p.group_in(), p.group_out()) > 16) return false;
  // Instructions for a position of x or y and all pairs of channels: multiplications, three for each source.
  const int64_t kernel = p.kernel[1], stride = p.stride[1];
  const bool spread = part == ConvPart::grad_x && stride > 1;
  const int64_t seen = spread ? ((kernel - 1) / 2 + kHigh / 2) * ((kernel - 1) / 2 + kWide / 2)
                              : ((kHigh - 1) * stride + kernel) * ((kWide - 1) * stride + kernel);
  const int64_t each = ceil_div(p.taps(), spread ? stride * stride : 1) + ceil_div(3 * seen, kHigh * kWide);
  const int64_t position = p.group_out() * p.group_in() * each;
  const int64_t positions = p.batch * p.groups * (part == ConvPart::grad_x ? p.in_size() : p.out_size());
  // Tiles on tensor cores took an H200 some 40 cycles of a multiprocessor (of 128 instructions) for a
  // position of few channels, and the smallest problems 14 microseconds.
  return position <= 3000 || position * positions <= 150'000'000;
}

void conv_planes(Dtype dtype, void* y, const void* x, const void* weight, const void* bias,
                 const ConvProblem& problem, bool transposed, Stream stream) {
  if (problem.batch * (transposed ? problem.in_channels * problem.in_size()
                                  : problem.out_channels * problem.out_size()) ==
      0)
    return;
  if (depthwise_planes_fit(problem, transposed))
    return depthwise_planes(dtype, y, x, weight, bias, problem, transposed, stream);
  const Tiling t = best_tiling(dtype, problem, transposed);
  const int64_t chunks = ceil_div(t.planes.results, t.planes.block_results);
  if (t.blocks >= int64_t(1) << 31 || chunks > 65535)
    throw std::invalid_argument("convolution on CUDA: too many planes in one call");
  by_kernel(dtype, problem, [&]<class T, int K, int kStride>(T, Constant<K>, Constant<kStride>) {
    const auto run = [&](auto* kernel) {
      launch("conv_planes", kernel, dim3(unsigned(t.blocks), unsigned(chunks)), dim3(unsigned(t.threads)),
             t.shared, stream, static_cast<T*>(y), static_cast<const T*>(x), static_cast<const T*>(weight),
             static_cast<const T*>(bias), t.planes);
    };
    if (transposed)
      run(planes_product<T, K, 1, kStride>);
    else
      run(planes_product<T, K, kStride, 1>);
  });
}

}  // namespace fastdl::cuda
