// Attention's forward pass on Hopper (attention_hopper_forward.h): its kernel, and which problems are its own.
#include "cuda/attention_hopper_forward.h"

namespace fastdl::cuda {
namespace {

template <class T, class P>
__global__ void __launch_bounds__(P::kThreads, 1)
    hopper_forward_kernel(const FASTDL_GRID_CONSTANT Maps maps, const HopperForward f,
                          const FASTDL_GRID_CONSTANT MaskingIf<T, P::kMasking> options) {
  if constexpr (kHopperCode) {
    FASTDL_TILES_SHARED(memory);
    auto& shared = *reinterpret_cast<Shared<P>*>(memory);
    if (threadIdx.x == 0) {
      for (int s = 0; s < P::kStages; ++s) {
        barrier_init(shared.key_full[s], 1);
        barrier_init(shared.value_full[s], 1);
        barrier_init(shared.key_empty[s], 4 * P::kGroups);
        barrier_init(shared.value_empty[s], 4 * P::kGroups);
      }
      barrier_init(shared.query_full, 1);
      barrier_init(shared.query_empty, 4 * P::kGroups + int(P::kMasking));
      if constexpr (P::kMasking) {
        for (int g = 0; g < P::kGroups; ++g)
          for (int s = 0; s < P::kMaskStages; ++s)
            barrier_init(shared.mask_full[g][s], 1), barrier_init(shared.mask_empty[g][s], 4);
      }
      barrier_init_fence();
    }
    sync_threads();
    const int warpgroup = int(threadIdx.x) / kGroupThreads;
    if (warpgroup == 0) {
      registers_fewer<P::kFewer>();
      if (threadIdx.x == 0) load_items<P>(shared, maps, f);
      if constexpr (P::kMasking) {
        if (threadIdx.x == 32) load_masks<T, P>(shared, options, f);
      }
    } else {
      registers_more<P::kMore>();
      Group<T, P>{shared, options, warpgroup - 1}.compute_items(maps.y, f);
    }
  }
}

// Boxes of 64 columns and `rows` rows of a head of x (batch, heads, length, size).
struct Boxes {
  int64_t sizes[4], strides[3];
  int box[4];
  const void* data;
  Boxes(const Heads& x, const Attention& a, int64_t heads, int64_t length, int rows)
      : sizes{a.size, length, heads, a.batch},
        strides{x.row * 2, x.head * 2, x.batch * 2},
        box{kColumns, rows, 1, 1},
        data(x.data) {}
  bool possible() const { return tensor_map_possible(data, 2, 4, sizes, strides, box, Swizzle::bytes128); }
  template <class T>
  TensorMap map() const {
    return tensor_map<T>(data, 4, sizes, strides, box, Swizzle::bytes128);
  }
};

template <class T, class P>
bool start(const AttentionForward<T>& f, const Attention& a, void* counter, Stream stream) {
  const Boxes query(f.query, a, a.heads, a.queries, P::kRows), y(f.y, a, a.heads, a.queries, kGroupRows);
  const Boxes key(f.key, a, a.groups, a.keys, P::kKeys), value(f.value, a, a.groups, a.keys, P::kKeys);
  const MaskBoxes<T> mask(f.scores, a.batch, kGroupRows);
  if (!query.possible() || !key.possible() || !value.possible() || !y.possible() || !mask.possible())
    return false;
  const auto options = [&]() -> MaskingIf<T, P::kMasking> {
    if constexpr (P::kMasking)
      return mask.argument(f.scores);
    else
      return {};
  };
  const int64_t all_heads = a.batch * a.heads, tiles = ceil_div(a.queries, P::kRows);
  const int64_t held = kCache / (4 * a.keys * a.size) * f.ratio;  // heads
  const int64_t section = !a.causal || held < 1 ? 1 : held < all_heads ? held : all_heads;
  const int64_t grid = all_heads * tiles < multiprocessors() ? all_heads * tiles : multiprocessors();
  if (counter != nullptr) zero(counter, sizeof(uint32_t), stream);
  launch("attention_hopper", hopper_forward_kernel<T, P>, dim3(unsigned(grid)), dim3(P::kThreads),
         sizeof(Shared<P>), stream, Maps{query.map<T>(), key.map<T>(), value.map<T>(), y.map<T>()},
         HopperForward{f.lse, static_cast<uint32_t*>(counter), f.scores.factor, int(a.heads), f.ratio,
                       int(a.queries), int(a.keys), int(tiles), int(all_heads), int(section), a.causal},
         options());
  return true;
}

int64_t items(const Attention& a, int groups) {
  return a.batch * a.heads * ceil_div(a.queries, groups * kGroupRows);
}

// Heads of 64: three warpgroups keep the tensor cores a little busier, two leave fewer multiprocessors idle in
// the end: 48 heads of 512 queries are 144 tiles or 192, both two rounds of 132. Steps that the device takes:
double steps(const Attention& a, int groups) {
  const int rows = groups * kGroupRows;
  const int64_t tiles = ceil_div(a.queries, rows), all = items(a, groups), most = ceil_div(a.keys, 128) + 1;
  const int64_t wide = multiprocessors();
  double taken = double(ceil_div(all, wide) * most);
  if (a.causal) {
    int64_t sum = 0;
    for (int64_t tile = 1; tile <= tiles; ++tile)
      sum += (tile * rows < a.keys ? ceil_div(tile * rows, 128) : most - 1) + 1;
    const double average = double(sum) / double(tiles);
    const double even = double(all) * average / double(wide) + average / 2;
    taken = all <= wide || even < double(most) ? double(most) : even;
  }
  return taken * groups * (groups == 2 ? 1.08 : 1.0);
}
int groups_of(const Attention& a) {
  if (a.size != 64) return 2;
  if (items(a, 3) > 16 * multiprocessors()) return 3;
  return steps(a, 2) < steps(a, 3) ? 2 : 3;
}

}  // namespace

bool hopper_forward_wanted(Dtype dtype, const Attention& a) {
  if (!a.hopper || (dtype != Dtype::float16 && dtype != Dtype::bfloat16)) return false;
  if (a.size != a.value_size || a.keys == 0) return false;
  if (a.size != 64 && a.size != 128 && !(a.size == 256 && a.p == 0)) return false;
  if (!(a.scale > 0)) return false;   // the largest score is found before scaling
  if (a.queries <= 64) return false;  // a third or half of a tile
  const int64_t all = items(a, a.size == 64 ? 3 : 2);
  // With few items others split the keys, where there are enough of them.
  return (a.keys <= 1024 ? 4 : 2) * all >= multiprocessors() && all < int64_t(1) << 30;
}

int64_t hopper_forward_scratch(const Attention& a) {
  return a.causal && items(a, groups_of(a)) > 2 * multiprocessors() ? sizeof(uint32_t) : 0;
}

template <class T>
bool hopper_forward(const AttentionForward<T>& f, const Attention& a, void* counter, Stream stream) {
  const bool masking = f.scores.masked() || f.scores.threshold != 0;
  if (a.size == 256) return !masking && start<T, Plan<256, 2, false>>(f, a, counter, stream);
  if (a.size == 128)
    return masking ? start<T, Plan<128, 2, true>>(f, a, counter, stream)
                   : start<T, Plan<128, 2, false>>(f, a, counter, stream);
  if (masking) return start<T, Plan<64, 2, true>>(f, a, counter, stream);
  return groups_of(a) == 2 ? start<T, Plan<64, 2, false>>(f, a, counter, stream)
                           : start<T, Plan<64, 3, false>>(f, a, counter, stream);
}

template bool hopper_forward<__half>(const AttentionForward<__half>&, const Attention&, void*, Stream);
#ifndef FASTDL_FEW_DTYPES
template bool hopper_forward<__nv_bfloat16>(const AttentionForward<__nv_bfloat16>&, const Attention&, void*,
                                            Stream);
#endif

void hopper_forward_trial_begin() {
  hopper_trial_begin();
}
bool hopper_forward_trial_end(Stream stream) {
  return hopper_trial_end(stream);
}

}  // namespace fastdl::cuda
