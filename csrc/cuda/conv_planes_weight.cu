// The gradient of the weights for few channels of a group, on planes as they are.
//
//   grad_w[q, tap] = sum over images n, positions o of  grad_y[n, channel of y, o] * x[n, channel of x,
//   source(o, tap)]
//
// q is a *pair* of an output and an input channel of the same group. A block takes some pairs with small
// planes whole, or a pair's planes in bands of rows, of some images one after the other; the next band's
// copies to shared memory run while this one is summed. A thread has 4 x 2 positions of y in registers,
// passes the sources that they see once, and adds to sums for all taps, which it keeps through all bands.
// Sums are added over the lanes of a pair and over the blocks in a fixed order.
#include "cuda/conv_depthwise_planes.h"
#include "cuda/conv_parts.h"

namespace fastdl::cuda {
namespace {

constexpr int64_t kBlocks = 1024;  // wanted
// 49 sums, 8 positions and 8 sources want more registers than 256 threads leave.
constexpr int threads_for(int kernel) {
  return kernel == 7 ? 128 : kPlaneThreads;
}

struct PairSums {
  PlaneAxis h, w;
  int pairs, x_channels, y_channels;
  int block_pairs, lanes;  // lanes of a pair: a power of two, or whole warps
  int x_run, y_run;        // elements between planes in shared memory
  int stage;               // elements of both
  int steps, block_steps;  // bands of all images, and how many a block takes
  bool whole, neighbours;  // whole planes; pairs' planes lie side by side
  Divisor band, columns, strips, lane, by_in, by_out;
};

template <class T, int K, int kDown>
__global__ void __launch_bounds__(threads_for(K), K == 3 ? 3 : 2)
    planes_weight(float* parts, const T* grad_y, const T* x, PairSums p) {
  using W = Window<K, kDown, 1>;
  constexpr int kTaps = K * K, kRows = W::sources(kHigh), kColumns = W::sources(kWide);
  FASTDL_DYNAMIC_SHARED(T, shared);
  const int pair0 = int(blockIdx.x) * p.block_pairs, pairs = std::min(p.block_pairs, p.pairs - pair0);
  const int64_t x_size = int64_t(p.h.sources) * p.w.sources, y_size = int64_t(p.h.results) * p.w.results;
  const int first = int(blockIdx.y) * p.block_steps, end = std::min(p.steps, first + p.block_steps);

  struct Band {
    int strip0, strips, low, high, y_low, y_high;
    const T *x, *y;  // of the first row, in the image's first channel
  };
  const auto band_of = [&](int step) {
    const int image = int(p.band.quotient(uint32_t(step)));
    Band b{0, p.h.strips, 0, p.h.sources, 0, p.h.results, nullptr, nullptr};
    if (!p.whole) {
      b.strip0 = (step - image * int(p.band.divisor)) * int(p.strips.divisor);
      b.strips = std::min(int(p.strips.divisor), p.h.strips - b.strip0);
      b.low = std::max(0, p.h.origin + b.strip0 * p.h.step);
      b.high =
          std::max(b.low, std::min(p.h.sources, p.h.origin + (b.strip0 + b.strips - 1) * p.h.step + kRows));
      b.y_low = b.strip0 * kHigh;
      b.y_high = std::min(p.h.results, b.y_low + b.strips * kHigh);
    }
    b.x = x + int64_t(image) * p.x_channels * x_size + int64_t(b.low) * p.w.sources;
    b.y = grad_y + int64_t(image) * p.y_channels * y_size + int64_t(b.y_low) * p.w.results;
    return b;
  };
  const auto planes_of = [&](int pair, int64_t& x_plane, int64_t& y_plane) {
    const int out = int(p.by_in.quotient(uint32_t(pair))), group = int(p.by_out.quotient(uint32_t(out)));
    y_plane = out * y_size;
    x_plane = (int64_t(group) * p.by_in.divisor + pair - out * int(p.by_in.divisor)) * x_size;
  };
  const auto load = [&](int step) {
    if (step < end) {
      const Band b = band_of(step);
      T* const to = shared + (step - first) % 2 * p.stage;
      T* const y_to =
          to + (p.neighbours ? pitch_of<T>(int64_t(p.block_pairs) * p.x_run) : p.block_pairs * p.x_run);
      const int count = p.neighbours ? pairs : 1;
      for_runs(p.neighbours ? 1 : pairs, [&](int i, int thread, int threads) {
        int64_t x_plane, y_plane;
        planes_of(pair0 + i, x_plane, y_plane);
        copy_in(to + i * p.x_run, b.x + x_plane, count * (b.high - b.low) * p.w.sources, thread, threads);
        copy_in(y_to + i * p.y_run, b.y + y_plane, count * (b.y_high - b.y_low) * p.w.results, thread,
                threads);
      });
    }
    cp_async_commit();
  };

  const int mine = int(p.lane.quotient(threadIdx.x)), lane = int(threadIdx.x) - mine * p.lanes;
  int64_t x_plane = 0, y_plane = 0;  // of this thread's pair; where it is in shared memory, of the run's
  if (mine < pairs) planes_of(pair0 + (p.neighbours ? 0 : mine), x_plane, y_plane);
  float sums[kTaps] = {};
  load(first);
  for (int step = first; step < end; ++step) {
    load(step + 1);
    cp_async_wait<1>();
    sync_threads();
    const Band b = band_of(step);
    const T* const from = shared + (step - first) % 2 * p.stage;
    const T* const x_from = from + mine * p.x_run + lead_of(b.x + x_plane);
    const T* const y_from =
        from + (p.neighbours ? pitch_of<T>(int64_t(p.block_pairs) * p.x_run) : p.block_pairs * p.x_run) +
        mine * p.y_run + lead_of(b.y + y_plane);
    const int items = mine < pairs ? b.strips * int(p.columns.divisor) : 0;
    for (int item = lane; item < items; item += p.lanes) {
      const int strip = int(p.columns.quotient(uint32_t(item))),
                column = item - strip * int(p.columns.divisor);
      const int y_row = (b.strip0 + strip) * kHigh, y_at = column * kWide;
      float g[kHigh][kWide];
      FASTDL_UNROLL
      for (int a = 0; a < kHigh; ++a) FASTDL_UNROLL
      for (int c = 0; c < kWide; ++c)
        g[a][c] = y_row + a < p.h.results && y_at + c < p.w.results
                      ? float(widen(y_from[(y_row + a - b.y_low) * p.w.results + y_at + c]))
                      : 0.0f;
      const int row = p.h.origin + (b.strip0 + strip) * p.h.step, at = p.w.origin + column * p.w.step;
      const T* const source = x_from + (row - b.low) * p.w.sources + at;
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
          for (int c = 0; c < kWide; ++c) FASTDL_UNROLL
          for (int kw = 0; kw < K; ++kw) sums[kh * K + kw] += g[a][c] * values[W::source(c, kw)];
        }
      }
    }
    sync_threads();
  }

  // Over a pair's lanes of a warp, then over its warps.
  const int width = p.lanes < 32 ? p.lanes : 32, slot = int(threadIdx.x) / width;
  float* const slots = reinterpret_cast<float*>(shared);
  cp_async_wait<0>();
  FASTDL_UNROLL
  for (int t = 0; t < kTaps; ++t) {
    float sum = sums[t];
    for (int mask = width / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
    if (int(threadIdx.x) % width == 0) slots[slot * kTaps + t] = sum;
  }
  sync_threads();
  const int of_pair = p.lanes / width;
  for (int i = int(threadIdx.x); i < pairs * kTaps; i += int(blockDim.x)) {
    const int pair = i / kTaps, tap = i % kTaps;
    float total = 0;
    for (int s = 0; s < of_pair; ++s) total += slots[(pair * of_pair + s) * kTaps + tap];
    parts[(int64_t(blockIdx.y) * p.pairs + pair0 + pair) * kTaps + tap] = total;
  }
}

template <class T>
__global__ void __launch_bounds__(kPartThreads)
    add_planes_parts(T* grad_weight, const float* parts, int64_t weights, int64_t splits) {
  add_parts_in_order(parts, weights, splits, [&](int64_t i, float sum) { grad_weight[i] = narrow<T>(sum); });
}

struct PairTiling {
  PairSums sums;
  int threads, splits;
  size_t shared;
};

PairTiling pair_tiling_of(Dtype dtype, const ConvProblem& problem) {
  const int64_t most = threads_for(int(problem.kernel[1]));
  PairTiling t;
  PairSums& p = t.sums;
  p.h = plane_axis(problem, 1, kHigh, false);
  p.w = plane_axis(problem, 2, kWide, false);
  p.x_channels = int(problem.in_channels);
  p.y_channels = int(problem.out_channels);
  p.pairs = int(problem.out_channels * problem.group_in());
  const int64_t row = p.w.strips, items = row * p.h.strips;
  const int64_t x_size = int64_t(p.h.sources) * p.w.sources, y_size = int64_t(p.h.results) * p.w.results;
  const auto pitch = [&](int64_t length) {
    return dtype == Dtype::float32 ? pitch_of<float>(length) : pitch_of<__half>(length);
  };
  constexpr int64_t kMost = 6144;  // elements of a stage, where that is possible
  int64_t strips = p.h.strips;
  p.whole = items <= most && x_size + y_size <= kMost;
  if (!p.whole) {
    strips = std::clamp<int64_t>(most / row, 1, p.h.strips);
    while (strips > 1 &&
           (strips * p.h.step + problem.kernel[1]) * p.w.sources + strips * kHigh * p.w.results > kMost)
      --strips;
    strips = ceil_div(p.h.strips, ceil_div(p.h.strips, strips));
  }
  const int64_t used = strips * row;
  p.lanes = 8;
  while (p.lanes < 32 && p.lanes < used) p.lanes *= 2;
  if (used > 32) p.lanes = int(std::min<int64_t>(most, ceil_div(used, 32) * 32));
  p.block_pairs =
      p.whole
          ? int(std::clamp<int64_t>(std::min<int64_t>(most / p.lanes, kMost / (x_size + y_size)), 1, p.pairs))
          : 1;
  p.neighbours = p.whole && problem.group_in() == 1 && problem.group_out() == 1;
  if (p.neighbours) {
    p.x_run = int(x_size), p.y_run = int(y_size);
    p.stage = pitch(p.block_pairs * x_size) + pitch(p.block_pairs * y_size);
  } else {
    const int64_t rows =
        p.whole ? p.h.sources : std::min<int64_t>(p.h.sources, strips * p.h.step + problem.kernel[1]);
    p.x_run = pitch(rows * p.w.sources), p.y_run = pitch(strips * kHigh * p.w.results);
    p.stage = p.block_pairs * (p.x_run + p.y_run);
  }
  const int64_t bands = ceil_div(p.h.strips, strips);
  p.steps = int(problem.batch * bands);
  p.band = Divisor(uint32_t(bands));
  p.columns = Divisor(uint32_t(row));
  p.strips = Divisor(uint32_t(strips));
  p.lane = Divisor(uint32_t(p.lanes));
  p.by_in = Divisor(uint32_t(problem.group_in()));
  p.by_out = Divisor(uint32_t(problem.group_out()));
  t.threads = int(ceil_div(p.block_pairs * p.lanes, 32) * 32);
  const int64_t blocks = ceil_div(p.pairs, p.block_pairs);
  p.block_steps = int(ceil_div(p.steps, std::clamp<int64_t>(kBlocks / blocks, 1, p.steps)));
  t.splits = int(ceil_div(p.steps, p.block_steps));
  const size_t slots = size_t(t.threads) / (p.lanes < 32 ? p.lanes : 32) * size_t(problem.taps()) * 4;
  t.shared = std::max(slots, size_t(2 * p.stage) * (dtype == Dtype::float32 ? 4 : 2));
  return t;
}

}  // namespace

int64_t conv_planes_splits(Dtype dtype, const ConvProblem& problem) {
  if (depthwise_planes_fit(problem, false)) return depthwise_planes_splits(problem);
  return pair_tiling_of(dtype, problem).splits;
}

void conv_planes_grad_weight(Dtype dtype, void* grad_weight, const void* grad_y, const void* x, void* scratch,
                             const ConvProblem& problem, Stream stream) {
  if (depthwise_planes_fit(problem, false))
    return depthwise_planes_grad_weight(dtype, grad_weight, grad_y, x, scratch, problem, stream);
  const PairTiling t = pair_tiling_of(dtype, problem);
  const int64_t weights = int64_t(t.sums.pairs) * problem.taps();
  by_kernel(dtype, problem, [&]<class T, int K, int kStride>(T, Constant<K>, Constant<kStride>) {
    auto* const parts = static_cast<float*>(scratch);
    launch("conv_planes_grad_weight", planes_weight<T, K, kStride>,
           dim3(unsigned(ceil_div(t.sums.pairs, t.sums.block_pairs)), unsigned(t.splits)),
           dim3(unsigned(t.threads)), t.shared, stream, parts, static_cast<const T*>(grad_y),
           static_cast<const T*>(x), t.sums);
  });
  conv_planes_add_parts(dtype, grad_weight, scratch, weights, t.splits, stream);
}

void conv_planes_add_parts(Dtype dtype, void* grad_weight, const void* parts, int64_t weights, int64_t splits,
                           Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    if constexpr (sizeof(T) < 8)
      launch("conv_planes_grad_weight", add_planes_parts<T>, dim3(grid_for(weights, kPartItems)),
             dim3(kPartThreads), 0, stream, static_cast<T*>(grad_weight), static_cast<const float*>(parts),
             weights, splits);
  });
}

}  // namespace fastdl::cuda
