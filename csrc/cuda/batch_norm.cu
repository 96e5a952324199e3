// Batch norm: h = (x - mean) / sqrt(var + eps), y = h w + b per channel; and the gradients of weights of
// every norm, grad_w = sum g h, grad_b = sum g.
//
// Channels are summed by planes, or by columns where inner = 1, in slabs that a second launch adds in order:
// a slab is some planes where there are many, a slice of one where there are few, so that the device is full
// and slabs are no more than that takes. Variances are of x minus a first element, never of x itself. x is
// read once for the moments and once for y; backward twice, with the gradient. Channels that a block's registers
// hold are batch_norm_whole.cu's. Group norm of long rows has the same passes, over planes (group_norm.cu).
#include <algorithm>

#include "cuda/norm_statistics.h"

namespace fastdl::cuda {
namespace {

struct Grid {
  int64_t batch, channels, inner, per_batch, statistics;
  Divisor per_group, by_inner, by_channels;

  __device__ __forceinline__ int64_t statistic(int64_t n, uint32_t c) const {
    return n * per_batch + int64_t(per_group.quotient(c));
  }
};

// The two sums of a channel: of x - x0 and its square (kMoments; x0 the channel's first element), or of g and
// g h.
template <class T, bool kMoments>
struct Terms {
  using C = Compute<T>;
  const T *g, *x;
  const double *mean, *var;
  C eps;

  struct Channel {
    C x0;
    Statistics<C> s;
  };
  __device__ __forceinline__ Channel channel(const Grid& grid, int64_t n, int64_t c) const {
    Channel r{};
    if constexpr (kMoments)
      r.x0 = C(widen(x[c * grid.inner]));
    else
      r.s = statistics<C>(mean, var, grid.statistic(n, uint32_t(c)), eps);
    return r;
  }
  __device__ __forceinline__ void add(C (&sums)[2], const Channel& channel, C a, C b) const {
    if constexpr (kMoments) {
      const C d = a - channel.x0;
      sums[0] += d;
      sums[1] += d * d;
    } else {
      sums[0] += b;
      sums[1] += b * channel.s.normalised(a);
    }
  }
};

constexpr int kAhead = 4;  // packs, or rows of columns, that a thread loads before it adds them

// What a team adds of a channel: planes of `batches` of the batch, of each the elements of one slice.
struct Slabs {
  int64_t count, batches, slices, length;
};

// Partials (slabs, 2, channels); neighbouring teams have neighbouring channels.
template <class T, bool kMoments, bool kBlock>
__global__ void __launch_bounds__(256, sizeof(Compute<T>) == 4 ? 4 : 2)
    plane_sums(Compute<T>* partials, Terms<T, kMoments> terms, Grid grid, Slabs slabs, int group,
               bool vectors) {
  using C = Compute<T>;
  constexpr int N = kWidest<T>, kPacks = kMoments ? kAhead : kAhead / 2;
  RowTeam<kBlock> team(group);
  const int64_t rows = slabs.count * grid.channels;
  for (; team.any_row(rows); team.row += team.step) {
    C sums[2] = {0, 0};
    const bool mine = team.row < rows;
    const int64_t slab = team.row / grid.channels, c = team.row - slab * grid.channels;
    if (mine) {
      const int64_t batches = slab / slabs.slices, start = (slab - batches * slabs.slices) * slabs.length;
      const int64_t length = std::min(slabs.length, grid.inner - start);
      const int64_t end = std::min(grid.batch, (batches + 1) * slabs.batches);
      for (int64_t n = batches * slabs.batches; n < end; ++n) {
        const auto channel = terms.channel(grid, n, c);
        const int64_t base = (n * grid.channels + c) * grid.inner + start;
        const T *x = terms.x + base, *g = kMoments ? x : terms.g + base;
        const ShiftedSlice<T> slice(team, length, x, vectors);
        slice.template each<kPacks>(
            [&]<bool kAll>(std::bool_constant<kAll> whole, int64_t first, int64_t stride) {
              Loaded<T, N> a[kPacks], b[kPacks];
              slice.fetch(whole, a, x, first, stride);
              if constexpr (!kMoments) slice.fetch(whole, b, g, first, stride);
              FASTDL_UNROLL
              for (int i = 0; i < kPacks; ++i) {
                if (!kAll && first + i * stride >= slice.end()) break;
                FASTDL_UNROLL
                for (int k = 0; k < N; ++k)
                  terms.add(sums, channel, C(widen(a[i][k])), kMoments ? C(0) : C(widen(b[i][k])));
              }
            },
            [&](int64_t i) { terms.add(sums, channel, C(widen(x[i])), C(widen(g[i]))); });
      }
    }
    team.sum(sums);
    if (mine && team.index == 0) {
      partials[2 * slab * grid.channels + c] = sums[0];
      partials[(2 * slab + 1) * grid.channels + c] = sums[1];
    }
  }
}

// inner = 1: neighbouring threads have neighbouring channels; partials (slabs, 2, channels).
template <class T, bool kMoments>
__global__ void __launch_bounds__(kColumns* kSplit)
    column_sums(Compute<T>* partials, Terms<T, kMoments> terms, Grid grid, int64_t slab) {
  using C = Compute<T>;
  const int64_t c = int64_t(blockIdx.x) * kColumns + threadIdx.x;
  const bool mine = c < grid.channels;
  C sums[2] = {0, 0};
  if (mine) {
    const int64_t start = int64_t(blockIdx.y) * slab, end = std::min(grid.batch, start + slab);
    auto channel = terms.channel(grid, 0, c);
    for (int64_t first = start + threadIdx.y; first < end; first += kAhead * kSplit) {
      C a[kAhead], b[kAhead];
      FASTDL_UNROLL
      for (int k = 0; k < kAhead; ++k) {
        const int64_t n = first + k * kSplit, at = n * grid.channels + c;
        a[k] = n < end ? C(widen(terms.x[at])) : C(0);
        b[k] = kMoments || n >= end ? a[k] : C(widen(terms.g[at]));
      }
      FASTDL_UNROLL
      for (int k = 0; k < kAhead; ++k) {
        const int64_t n = first + k * kSplit;
        if (n >= end) break;
        if (!kMoments && grid.per_batch != 0) channel = terms.channel(grid, n, c);
        terms.add(sums, channel, a[k], b[k]);
      }
    }
  }
  sums[0] = split_reduce(sums[0], Plus{});
  sums[1] = split_reduce(sums[1], Plus{});
  if (mine && threadIdx.y == 0) {
    partials[2 * int64_t(blockIdx.y) * grid.channels + c] = sums[0];
    partials[(2 * int64_t(blockIdx.y) + 1) * grid.channels + c] = sums[1];
  }
}

// A block adds the slabs of kColumns channels: neighbouring threads have neighbouring channels, so whole
// lines are read, and the rows of threads share the slabs, of which each loads a few before it adds them.
// f(channel, sums) by one thread each.
constexpr int kFinishRows = 32;
template <class C, class F>
__device__ __forceinline__ void finish_slabs(const C* partials, int64_t slabs, int64_t channels, F&& f) {
  FASTDL_SHARED(double, rows, 2 * kFinishRows * kColumns);
  const int64_t c = int64_t(blockIdx.x) * kColumns + threadIdx.x;
  const int y = int(threadIdx.y), x = int(threadIdx.x);
  double sums[2] = {0, 0};
  if (c < channels)
    for (int64_t first = y; first < slabs; first += kAhead * kFinishRows) {
      C loaded[kAhead][2] = {};
      FASTDL_UNROLL
      for (int k = 0; k < kAhead; ++k)
        if (const int64_t s = first + k * kFinishRows; s < slabs) {
          loaded[k][0] = partials[2 * s * channels + c];
          loaded[k][1] = partials[(2 * s + 1) * channels + c];
        }
      FASTDL_UNROLL
      for (int k = 0; k < kAhead; ++k) FASTDL_UNROLL
      for (int which = 0; which < 2; ++which) sums[which] += double(loaded[k][which]);
    }
  const auto place = [&](int which, int row) -> double& {
    return rows[(which * kFinishRows + row) * kColumns + x];
  };
  FASTDL_UNROLL
  for (int which = 0; which < 2; ++which) place(which, y) = sums[which];
  for (int half = kFinishRows / 2; half > 0; half /= 2) {
    sync_threads();
    if (y >= half) continue;
    FASTDL_UNROLL
    for (int which = 0; which < 2; ++which) place(which, y) += place(which, y + half);
  }
  if (y != 0 || c >= channels) return;
  const double both[2] = {place(0, 0), place(1, 0)};
  f(c, both);
}
template <class T>
__global__ void __launch_bounds__(kColumns* kFinishRows)
    finish_gradients(T* grad_weight, T* grad_bias, Compute<T>* sums, const Compute<T>* partials,
                     const T* weight, int64_t slabs, int64_t channels) {
  using C = Compute<T>;
  finish_slabs(partials, slabs, channels, [&](int64_t c, const double (&both)[2]) {
    if (grad_bias != nullptr) grad_bias[c] = narrow<T>(C(both[0]));
    if (grad_weight != nullptr) grad_weight[c] = narrow<T>(C(both[1]));
    const C w = weight != nullptr ? C(widen(weight[c])) : C(1);
    sums[c] = w * C(both[0]);
    sums[channels + c] = w * C(both[1]);
  });
}
template <class T>
__global__ void __launch_bounds__(kColumns* kFinishRows)
    finish_moments(double* mean, double* var, const Compute<T>* partials, const T* x, int64_t slabs,
                   Grid grid) {
  const double count = double(grid.batch * grid.inner);
  finish_slabs(partials, slabs, grid.channels, [&](int64_t c, const double (&both)[2]) {
    const double shift = both[0] / count;
    mean[c] = double(widen(x[c * grid.inner])) + shift;
    var[c] = larger(both[1] / count - shift * shift, 0.0);
  });
}

// What a batch leaves behind: both running statistics and the count of batches, by one launch with a thread
// for each channel. Some kilobytes: the launch is what it costs.
constexpr int kRunningThreads = 128;
template <class T>
__device__ __forceinline__ void move(T* running, const double* statistic, int64_t c, double momentum,
                                     double factor) {
  const double before = double(widen(running[c]));
  running[c] = narrow<T>(Compute<T>((1 - momentum) * before + momentum * (statistic[c] * factor)));
}

template <class T>
__global__ void __launch_bounds__(kRunningThreads) update_kernel(Running r, int64_t* batches) {
  const int64_t c = int64_t(blockIdx.x) * kRunningThreads + threadIdx.x;
  if (c == 0 && batches != nullptr) ++*batches;
  if (c >= r.channels) return;
  if (r.mean != nullptr) move(static_cast<T*>(r.mean), r.batch_mean, c, r.momentum, 1.0);
  if (r.var != nullptr) move(static_cast<T*>(r.var), r.batch_var, c, r.momentum, r.unbias);
}

// y or grad_x of batch norm: one element after the other, in packs where these lie in one channel. A thread
// loads two before it looks at its channels' statistics.
constexpr int kItems = 2;
template <class T, bool kGradient>
__global__ void __launch_bounds__(256)
    batch_apply(T* out, const T* grad_y, const T* x, const double* mean, const double* var, const T* weight,
                const T* bias, const Compute<T>* sums, Grid grid, Compute<T> eps, int64_t size, bool packed) {
  using C = Compute<T>;
  constexpr int N = kWidest<T>;
  const C share = C(grid.statistics) / C(size);
  // sums: of w g and of w g h, for each statistic
  const auto element = [&](C g, C a, uint32_t c, int64_t statistic, const Statistics<C>& s) {
    const C w = weight != nullptr ? C(widen(weight[c])) : C(1);
    if constexpr (kGradient) {
      g *= w;
      if (sums != nullptr)
        g -= sums[statistic] * share + s.normalised(a) * (sums[grid.statistics + statistic] * share);
      return g * s.r;
    } else {
      return s.normalised(a) * w + (bias != nullptr ? C(widen(bias[c])) : C(0));
    }
  };
  // By packs of M elements. (Of one that packs and single elements share, the first would wait for its load.)
  const auto pass = [&]<int M>(std::integral_constant<int, M>) {
    const uint32_t items = uint32_t(size / M), step = gridDim.x * (kItems * 256);
    for (uint32_t first = blockIdx.x * (kItems * 256) + threadIdx.x; first < items; first += step) {
      Loaded<T, M> a[kItems], g[kItems];
      FASTDL_UNROLL
      for (int i = 0; i < kItems; ++i) {
        const uint32_t item = first + i * 256;
        if (item >= items) break;
        a[i] = Loaded<T, M>(reinterpret_cast<const Pack<T, M>*>(x)[item]);
        if (kGradient) g[i] = Loaded<T, M>(reinterpret_cast<const Pack<T, M>*>(grad_y)[item]);
      }
      FASTDL_UNROLL
      for (int i = 0; i < kItems; ++i) {
        const uint32_t item = first + i * 256;
        if (item >= items) break;
        const uint32_t plane = grid.by_inner.quotient(item);
        const uint32_t n = grid.by_channels.quotient(plane), c = plane - n * grid.by_channels.divisor;
        const int64_t statistic = grid.statistic(n, c);
        const auto s = statistics<C>(mean, var, statistic, eps);
        Pack<T, M> r;
        FASTDL_UNROLL
        for (int k = 0; k < M; ++k) {
          const C value = C(widen(a[i][k]));
          r.v[k] = narrow<T>(element(kGradient ? C(widen(g[i][k])) : value, value, c, statistic, s));
        }
        reinterpret_cast<Pack<T, M>*>(out)[item] = r;
      }
    }
  };
  if (packed)
    pass(std::integral_constant<int, N>{});
  else
    pass(std::integral_constant<int, 1>{});
}
// ---- on the host

Grid grid_of(const ChannelNorm& p, int64_t width) {
  if (p.batch * p.channels * p.inner >= int64_t(1) << 31)
    throw std::invalid_argument("normalisation on CUDA is limited to 2^31 elements in one call");
  return {p.batch,
          p.channels,
          p.inner,
          p.per_batch,
          p.per_batch > 0 ? p.batch * p.per_batch : p.channels,
          Divisor(uint32_t(p.per_group)),
          Divisor(uint32_t(std::max<int64_t>(1, p.inner / width))),
          Divisor(uint32_t(std::max<int64_t>(1, p.channels)))};
}

constexpr int64_t kLongest =
    1024;  // planes up to here go to groups of lanes; elements a thread adds in a slab

// Lanes of a group, 0: a block.
template <class T>
int group_of(const ChannelNorm& p) {
  if (p.inner > kLongest) return 0;
  int group = 1;
  while (group < 32 && group * kWidest<T> < p.inner) group *= 2;
  return group;
}

// apart: no slab has planes of more than one of the batch.
template <class T>
Slabs slabs_of(const ChannelNorm& p, bool apart = false) {
  const auto ratio = [](int64_t a, int64_t b) { return (a + b - 1) / std::max<int64_t>(1, b); };
  const int64_t blocks = 4 * int64_t(multiprocessors());
  if (p.inner == 1) {
    const int64_t groups = ratio(p.channels, kColumns);
    const int64_t count = std::max<int64_t>(
        1, std::min({blocks / std::max<int64_t>(1, groups), ratio(p.batch, 64), int64_t(65535)}));
    return {count, ratio(p.batch, count), 1, 1};
  }
  const int group = group_of<T>(p);
  const int64_t wanted = group == 0 ? blocks : blocks * (256 / group);
  const int64_t most =
      std::max<int64_t>(1, kLongest * (group == 0 ? 256 : group) / std::max<int64_t>(1, p.inner));
  const int64_t batches =
      apart ? 1 : std::max<int64_t>(1, std::min(most, ratio(p.batch * p.channels, wanted)));
  int64_t length = p.inner;
  if (batches == 1 && group == 0) {  // slices of whole packs
    const int64_t slices = std::min(ratio(wanted, p.batch * p.channels), p.inner / kLongest);
    length = ratio(ratio(p.inner, std::max<int64_t>(1, slices)), 8) * 8;
  }
  const int64_t slices = ratio(p.inner, length);
  return {ratio(p.batch, batches) * slices, batches, slices, length};
}

dim3 finish_grid(int64_t channels) {
  return dim3(unsigned((channels + kColumns - 1) / kColumns));
}

// Partial sums of all channels; returns how many slabs there are.
template <class T, bool kMoments>
int64_t sum_channels(const char* op, const Terms<T, kMoments>& terms, const ChannelNorm& p,
                     Compute<T>* partials, Stream stream, bool apart = false) {
  const Grid grid = grid_of(p, 1);
  const Slabs slabs = slabs_of<T>(p, apart);
  if (p.inner > 1) {
    const int group = group_of<T>(p);
    const bool vectors = kMoments || start_alike(terms.x, terms.g);
    launch(op, group == 0 ? plane_sums<T, kMoments, true> : plane_sums<T, kMoments, false>,
           dim3(grid_for(slabs.count * p.channels, group == 0 ? 1 : 256 / group)), dim3(256), 0, stream,
           partials, terms, grid, slabs, group, vectors);
  } else {
    launch(op, column_sums<T, kMoments>,
           dim3(unsigned((p.channels + kColumns - 1) / kColumns), unsigned(slabs.count)),
           dim3(kColumns, kSplit), 0, stream, partials, terms, grid, slabs.batches);
  }
  return slabs.count;
}
}  // namespace

int64_t channel_scratch(Dtype dtype, const ChannelNorm& p) {
  int64_t bytes = 0;
  by_dtype(dtype, [&]<class T>(T) {
    bytes = (slabs_of<T>(p).count + 1) * 2 * p.channels * int64_t(sizeof(Compute<T>));
  });
  return bytes;
}

void channel_gradients(Dtype dtype, void* grad_weight, void* grad_bias, const void* grad_y, const void* x,
                       const void* weight, const double* mean, const double* var, const ChannelNorm& p,
                       void* scratch, Stream stream) {
  if (p.channels == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    C* partials = static_cast<C*>(scratch) + 2 * p.channels;
    int64_t slabs = 0;
    if (p.batch * p.inner > 0) {
      const Terms<T, false> terms{static_cast<const T*>(grad_y), static_cast<const T*>(x), mean, var,
                                  C(p.eps)};
      slabs = sum_channels("norm_gradients", terms, p, partials, stream);
    }
    finish_channel_gradients(dtype, grad_weight, grad_bias, weight, scratch, slabs, p.channels, stream);
  });
}

void finish_channel_gradients(Dtype dtype, void* grad_weight, void* grad_bias, const void* weight,
                              void* scratch, int64_t slabs, int64_t channels, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    C* sums = static_cast<C*>(scratch);
    launch("norm_gradients", finish_gradients<T>, finish_grid(channels), dim3(kColumns, kFinishRows), 0,
           stream, static_cast<T*>(grad_weight), static_cast<T*>(grad_bias), sums,
           static_cast<const C*>(sums + 2 * channels), static_cast<const T*>(weight), slabs, channels);
  });
}

int64_t plane_slices(Dtype dtype, const ChannelNorm& p) {
  int64_t slices = 0;
  by_dtype(dtype, [&]<class T>(T) { slices = slabs_of<T>(p, true).slices; });
  return slices;
}

void plane_moments(Dtype dtype, void* partials, const void* x, const ChannelNorm& p, Stream stream) {
  const ChannelNorm planes{1, p.batch * p.channels, p.inner, 0, 1, p.eps};
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    const Terms<T, true> terms{nullptr, static_cast<const T*>(x), nullptr, nullptr, C(0)};
    sum_channels("norm_moments", terms, planes, static_cast<C*>(partials), stream, true);
  });
}

void plane_gradients(Dtype dtype, void* partials, const void* grad_y, const void* x, const double* mean,
                     const double* var, const ChannelNorm& p, Stream stream) {
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    const Terms<T, false> terms{static_cast<const T*>(grad_y), static_cast<const T*>(x), mean, var, C(p.eps)};
    sum_channels("norm_gradients", terms, p, static_cast<C*>(partials), stream, true);
  });
}

void update_running(Dtype dtype, const Running& running, int64_t* batches, Stream stream) {
  const auto blocks = unsigned((running.channels + kRunningThreads - 1) / kRunningThreads);
  by_dtype(dtype, [&]<class T>(T) {
    launch("update_running", update_kernel<T>, dim3(blocks > 0 ? blocks : 1), dim3(kRunningThreads), 0,
           stream, running, batches);
  });
}

namespace {

void batch_moments(Dtype dtype, double* mean, double* var, const void* x, const ChannelNorm& p, void* scratch,
                   Stream stream) {
  if (p.batch * p.channels * p.inner == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    using C = Compute<T>;
    C* partials = static_cast<C*>(scratch) + 2 * p.channels;
    const Terms<T, true> terms{nullptr, static_cast<const T*>(x), nullptr, nullptr, C(0)};
    const int64_t slabs = sum_channels("batch_norm_moments", terms, p, partials, stream);
    launch("batch_norm_moments", finish_moments<T>, finish_grid(p.channels), dim3(kColumns, kFinishRows), 0,
           stream, mean, var, static_cast<const C*>(partials), static_cast<const T*>(x), slabs,
           grid_of(p, 1));
  });
}

template <bool kGradient>
void apply_batch(const char* op, Dtype dtype, void* out, const void* grad_y, const void* x,
                 const double* mean, const double* var, const void* weight, const void* bias,
                 const void* sums, const ChannelNorm& p, Stream stream) {
  const int64_t size = p.batch * p.channels * p.inner;
  if (size == 0) return;
  by_dtype(dtype, [&]<class T>(T) {
    const bool packed = rows_packed<T>(p.inner, {out, grad_y, x});
    const int64_t width = packed ? kWidest<T> : 1;
    launch(op, batch_apply<T, kGradient>, dim3(grid_for(size / width, kItems * 256, 32)), dim3(256), 0,
           stream, static_cast<T*>(out), static_cast<const T*>(grad_y), static_cast<const T*>(x), mean, var,
           static_cast<const T*>(weight), static_cast<const T*>(bias), static_cast<const Compute<T>*>(sums),
           grid_of(p, width), Compute<T>(p.eps), size, packed);
  });
}

}  // namespace

void norm_apply(Dtype dtype, void* y, const void* x, const double* mean, const double* var,
                const void* weight, const void* bias, const ChannelNorm& p, Stream stream) {
  apply_batch<false>("norm", dtype, y, nullptr, x, mean, var, weight, bias, nullptr, p, stream);
}

void norm_apply_gradient(Dtype dtype, void* grad_x, const void* grad_y, const void* x, const double* mean,
                         const double* var, const void* weight, const void* sums, const ChannelNorm& p,
                         Stream stream) {
  apply_batch<true>("norm_backward", dtype, grad_x, grad_y, x, mean, var, weight, nullptr, sums, p, stream);
}

int64_t batch_norm_scratch(Dtype dtype, const ChannelNorm& p) {
  return channels_fit(dtype, p) ? 0 : channel_scratch(dtype, p);
}

void batch_norm_forward(Dtype dtype, void* y, double* mean, double* var, const void* x, const void* weight,
                        const void* bias, const ChannelNorm& p, void* scratch, Stream stream) {
  if (channels_fit(dtype, p)) return whole_batch_norm(dtype, y, mean, var, x, weight, bias, p, stream);
  batch_moments(dtype, mean, var, x, p, scratch, stream);
  norm_apply(dtype, y, x, mean, var, weight, bias, p, stream);
}

void batch_norm_backward(Dtype dtype, void* grad_x, void* grad_weight, void* grad_bias, const void* grad_y,
                         const void* x, const void* weight, const double* mean, const double* var,
                         bool training, const ChannelNorm& p, void* scratch, Stream stream) {
  if (channels_fit(dtype, p))
    return whole_batch_norm_backward(dtype, grad_x, grad_weight, grad_bias, grad_y, x, weight, mean, var,
                                     training, p, stream);
  if (grad_weight != nullptr || grad_bias != nullptr || (training && grad_x != nullptr))
    channel_gradients(dtype, grad_weight, grad_bias, grad_y, x, weight, mean, var, p, scratch, stream);
  if (grad_x != nullptr)
    norm_apply_gradient(dtype, grad_x, grad_y, x, mean, var, weight, training ? scratch : nullptr, p, stream);
}
}  // namespace fastdl::cuda
