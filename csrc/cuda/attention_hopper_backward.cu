// Attention's backward pass on Hopper (attention_hopper_backward.h): its kernels, and which problems are theirs.
//
//   keep_weights            dropout's bits, in the order in which threads take them
//   hopper_backward_kernel  dK and dV, and dQ in float32, a block for 128 keys
//   query_gradient          dQ in the element type
#include "cuda/attention_hopper_backward.h"

namespace fastdl::cuda {
namespace {

constexpr int kTogether = 16;             // heads that blocks under way work on, if there are as many
constexpr int64_t kMostKept = 512 << 20;  // bytes of dropout's bits

template <class T, int kD, bool kMasking, bool kDropout>
__global__ void __launch_bounds__(kThreads, 1)
    hopper_backward_kernel(const FASTDL_GRID_CONSTANT Maps maps, const Task task,
                           const FASTDL_GRID_CONSTANT MaskingIf<T, kMasking> options) {
  if constexpr (kHopperCode) {
    using P = Plan<kD, kMasking, kDropout>;
    FASTDL_TILES_SHARED(tiles);
    auto& signals = *reinterpret_cast<typename P::Signals*>(tiles + P::kSignals);
    if (threadIdx.x == 0) {
      signals.number = atomic_add(task.next, 1u);
      barrier_init(signals.keys_full, 1);
      FASTDL_UNROLL
      for (int i = 0; i < P::kQueryStages; ++i)
        barrier_init(signals.query_full[i], 1), barrier_init(signals.query_free[i], kWorkers / 32);
      FASTDL_UNROLL
      for (int i = 0; i < P::kGradStages; ++i)
        barrier_init(signals.grad_full[i], 1), barrier_init(signals.grad_free[i], kWorkers / 32);
      barrier_init(signals.mask_full, 1), barrier_init(signals.mask_free, kWorkers / 32);
      barrier_init(signals.kept_full, 1), barrier_init(signals.kept_free, kWorkers / 32);
      barrier_init_fence();
    }
    sync_threads();
    const Work work(task, int(signals.number), P::kKeys, P::kQueries);
    const int warp = shuffle(int(threadIdx.x) / 32, 0);  // to the compiler the same in all lanes
    if (warp < kGroupThreads / 32) {
      registers_fewer<24>();
      if (warp == 0 && lane_id() == 0 && work.steps > 0)
        load<T, kD, kMasking, kDropout>(maps, task, options, work, tiles, signals);
      if (warp > 0 && warp <= P::kSumStages) add_sums<P>(task, work, tiles, warp - 1);
      return;
    }
    registers_more<240>();
    compute<T, kD, kMasking, kDropout>(maps, task, options, work, tiles, signals, warp / 4 - 1);
  }
}

// A block has a tile of 128 keys and 64 queries, a warp 16 of the keys: a thread's word as `compute` takes it.
template <class T>
__global__ void __launch_bounds__(kWorkers)
    keep_weights(uint32_t* kept, const Scores<T> scores, int query_tiles, int key_tiles, int parts) {
  const int64_t at = int64_t(blockIdx.x) / parts;
  const int part = int(blockIdx.x % unsigned(parts)), key = int(at % key_tiles) * kWorkers / 2;
  const int query = (int(at / key_tiles % query_tiles) * parts + part) * 64;
  if (scores.causal && query + 63 < key) return;  // nobody multiplies these
  kept[int64_t(blockIdx.x) * kWorkers + threadIdx.x] =
      kept_weights<true, T, 8>(scores, at / key_tiles / query_tiles, key + int(threadIdx.x) / 32 * 16, query);
}

// grad_query = scale * sums. A block has the 64 x 64 of a warpgroup, a thread eight neighbours of two rows.
template <class T, int kD>
__global__ void __launch_bounds__(256)
    query_gradient(Heads to, const float* sums, int heads, int queries, int tiles, float scale) {
  const int part = int(blockIdx.x % 2), tile = int(blockIdx.x / 2 % unsigned(tiles));
  const int64_t head = blockIdx.x / 2 / unsigned(tiles);
  const int n = int(threadIdx.x) % 8, r = int(threadIdx.x) / 8;
  const auto* from = reinterpret_cast<const Pack<float, 4>*>(sums) +
                     (int64_t(blockIdx.x) * 8 + n) * kGroupThreads + r / 8 * 32 + r % 8 * 4;
  Pack<T, 8> low, high;
  FASTDL_UNROLL
  for (int pair = 0; pair < 4; ++pair) {
    const Pack<float, 4> four = from[pair];
    FASTDL_UNROLL
    for (int c = 0; c < 2; ++c) {
      low.v[2 * pair + c] = narrow<T>(four.v[c] * scale);
      high.v[2 * pair + c] = narrow<T>(four.v[2 + c] * scale);
    }
  }
  const int row = tile * kQueriesOf<kD> + (kD == 64 ? 64 * part : 0) + r / 8 * 16 + r % 8;
  T* const at =
      head_of<T>(to, head / heads, head % heads) + row * to.row + (kD == 64 ? 0 : 64 * part) + 8 * n;
  if (row < queries) *reinterpret_cast<Pack<T, 8>*>(at) = low;
  if (row + 8 < queries) *reinterpret_cast<Pack<T, 8>*>(at + 8 * to.row) = high;
}

// The copy engine's view of an array: boxes of 64 columns and box_rows rows.
template <class T>
struct View {
  const void* data;
  int64_t sizes[4], strides[3];
  int box[4];
  View(const Heads& x, int64_t size, int64_t rows, int64_t heads, int64_t batch, int box_rows)
      : data(x.data),
        sizes{size, rows, heads, batch},
        strides{x.row * int64_t(sizeof(T)), x.head * int64_t(sizeof(T)), x.batch * int64_t(sizeof(T))},
        box{64, box_rows, 1, 1} {}
  bool possible() const {
    return tensor_map_possible(data, int(sizeof(T)), 4, sizes, strides, box, Swizzle::bytes128);
  }
  TensorMap map() const { return tensor_map<T>(data, 4, sizes, strides, box, Swizzle::bytes128); }
};
template <class T>
View<T> query_view(const AttentionBackward<T>& f, const Heads& x, int box_rows) {
  return {x, f.size, f.scores.queries, f.scores.heads, f.batch, box_rows};
}
template <class T>
View<T> key_view(const AttentionBackward<T>& f, const Heads& x, int box_rows) {
  return {x, f.size, f.scores.keys, f.groups, f.batch, box_rows};
}

template <class T>
int64_t query_tiles(const AttentionBackward<T>& f) {  // of all heads
  return int64_t(f.batch) * f.scores.heads *
         ceil_div(f.scores.queries, f.size == 64 ? kQueriesOf<64> : kQueriesOf<128>);
}

template <class T, int kD, bool kMasking, bool kDropout>
void run(const AttentionBackward<T>& f, void* scratch, Stream stream) {
  using P = Plan<kD, kMasking, kDropout>;
  const Scores<T>& s = f.scores;
  const int64_t tiles = query_tiles(f);
  const int pairs = f.batch * f.groups, key_tiles = ceil_div(s.keys, P::kKeys);
  const int tiles_of_head = ceil_div(s.queries, P::kQueries);
  float* const sums = static_cast<float*>(scratch);
  uint32_t* const turns = reinterpret_cast<uint32_t*>(sums + tiles * (P::kSumBytes / 4));
  zero(turns, size_t(tiles + 1) * 4, stream);
  const int together = kTogether < pairs ? kTogether : pairs;
  const int64_t sizes[] = {2 * int64_t(f.padded), int64_t(f.batch) * s.heads};
  const int64_t stride = int64_t(f.padded) * 8;
  const int box[] = {2 * P::kQueries, 1};
  // Dropout's bits come behind the turns, at a multiple of 128 bytes.
  uint32_t* const kept = turns + (tiles + 1 + 31) / 32 * 32;
  const int64_t kept_rows = tiles * key_tiles * P::kQueryBlocks;
  TensorMap kept_map{};
  if constexpr (kDropout) {
    launch("attention_dropout", keep_weights<T>, dim3(unsigned(kept_rows)), dim3(kWorkers), 0, stream, kept,
           s, tiles_of_head, key_tiles, int(P::kQueryBlocks));
    const int64_t kept_sizes[] = {kWorkers, kept_rows}, kept_stride = kWorkers * 4;
    const int kept_box[] = {kWorkers, P::kQueryBlocks};
    kept_map = tensor_map<float>(kept, 2, kept_sizes, &kept_stride, kept_box, Swizzle::none);
  }
  const Maps maps{query_view(f, f.query, P::kQueries).map(),
                  key_view(f, f.key, P::kKeys).map(),
                  key_view(f, f.value, P::kKeys).map(),
                  query_view(f, f.grad_y, P::kQueries).map(),
                  tensor_map<float>(f.statistics, 2, sizes, &stride, box, Swizzle::none),
                  key_view(f, f.grad_key, 64).map(),
                  key_view(f, f.grad_value, 64).map(),
                  kept_map};
  const Task task{sums,          turns,     turns + tiles, s.heads,  f.groups, f.ratio, pairs, s.keys,
                  tiles_of_head, key_tiles, together,      s.causal, s.factor, f.scale, s.kept};
  const auto options = [&]() -> MaskingIf<T, kMasking> {
    if constexpr (kMasking)
      return MaskBoxes<T>(s, f.batch, P::kQueries).argument(s);
    else
      return {};
  };
  launch("attention_backward", hopper_backward_kernel<T, kD, kMasking, kDropout>,
         dim3(unsigned(pairs * key_tiles)), dim3(kThreads), P::kBytes, stream, maps, task, options());
  launch("attention_query_gradient", query_gradient<T, kD>, dim3(unsigned(2 * tiles)), dim3(256), 0, stream,
         f.grad_query, sums, s.heads, s.queries, tiles_of_head, f.scale);
}

}  // namespace

template <class T>
int64_t hopper_backward_scratch(const AttentionBackward<T>& f) {
  const Scores<T>& s = f.scores;
  if (capability() / 10 != 9 || (f.size != 64 && f.size != 128) || f.value_size != f.size) return 0;
  if (!MaskBoxes<T>(s, f.batch, 64).possible()) return 0;
  if (s.queries <= 64 && s.keys <= 64) return 0;  // seven products of these are less than five of 128
  if (s.queries == 0 || s.keys == 0 || !whole_packs(f.grad_query, f.size, sizeof(T))) return 0;
  for (const Heads* x : {&f.query, &f.grad_y})
    if (!query_view(f, *x, 64).possible()) return 0;
  for (const Heads* x : {&f.key, &f.value, &f.grad_key, &f.grad_value})
    if (!key_view(f, *x, 64).possible()) return 0;
  const int64_t tiles = query_tiles(f), blocks = int64_t(f.batch) * f.groups * ceil_div(s.keys, 128);
  if (2 * tiles > INT32_MAX || blocks > INT32_MAX) return 0;
  const int64_t words =
      s.threshold == 0 ? 0 : tiles * ceil_div(s.keys, 128) * (f.size == 64 ? 2 : 1) * kWorkers;
  if (words * 4 > kMostKept) return 0;
  // A tile's sums are as large with size 128.
  return tiles * Plan<64, false, false>::kSumBytes + ((tiles + 1 + 31) / 32 * 32 + words) * 4;
}

template <class T>
void hopper_backward(const AttentionBackward<T>& f, void* scratch, Stream stream) {
  const auto with = [&]<int kD, bool kMasking, bool kDropout>() {
    run<T, kD, kMasking, kDropout>(f, scratch, stream);
  };
  const auto of_size = [&]<bool kMasking, bool kDropout>() {
    if (f.size == 64)
      with.template operator()<64, kMasking, kDropout>();
    else
      with.template operator()<128, kMasking, kDropout>();
  };
  const bool dropout = f.scores.threshold != 0;
  if (f.scores.masked())
    dropout ? of_size.template operator()<true, true>() : of_size.template operator()<true, false>();
  else
    dropout ? of_size.template operator()<false, true>() : of_size.template operator()<false, false>();
}

template int64_t hopper_backward_scratch<__half>(const AttentionBackward<__half>&);
template void hopper_backward<__half>(const AttentionBackward<__half>&, void*, Stream);
#ifndef FASTDL_FEW_DTYPES
template int64_t hopper_backward_scratch<__nv_bfloat16>(const AttentionBackward<__nv_bfloat16>&);
template void hopper_backward<__nv_bfloat16>(const AttentionBackward<__nv_bfloat16>&, void*, Stream);
#endif

void hopper_backward_trial_begin() {
  hopper_trial_begin();
}
bool hopper_backward_trial_end(Stream stream) {
  return hopper_trial_end(stream);
}

}  // namespace fastdl::cuda
