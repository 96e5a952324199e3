// Kernels with planted mistakes and clean ones beside them: the emulator's own tests
// (tests/test_cuda_emulator.py). Each runs in one block of 64 threads unless it says otherwise; x and y have
// 64 elements.
#include "bindings/cuda/arguments.h"
#include "cuda/rows.h"

namespace fastdl {
namespace {

__global__ void reversed_without_barrier(float* y, const float* x) {
  FASTDL_SHARED(float, tile, 64);
  tile[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = tile[63 - threadIdx.x];
}
__global__ void reversed(float* y, const float* x) {
  FASTDL_SHARED(float, tile, 64);
  tile[threadIdx.x] = x[threadIdx.x];
  sync_threads();
  y[threadIdx.x] = tile[63 - threadIdx.x];
}
// The second round overwrites what slower threads have not read yet.
__global__ void rounds_without_barrier(float* y, const float* x) {
  FASTDL_SHARED(float, tile, 64);
  float sum = 0;
  for (int round = 0; round < 2; ++round) {
    tile[threadIdx.x] = x[threadIdx.x] + round;
    sync_threads();
    sum += tile[63 - threadIdx.x];
  }
  y[threadIdx.x] = sum;
}
__global__ void beyond_shared(float* y, const float* x) {
  FASTDL_SHARED(float, tile, 64);
  tile[threadIdx.x] = x[threadIdx.x];
  sync_threads();
  y[threadIdx.x] = tile[threadIdx.x + 1];
}
__global__ void uninitialised_shared(float* y, const float* x) {
  FASTDL_SHARED(float, tile, 64);
  if (threadIdx.x != 5) tile[threadIdx.x] = x[threadIdx.x];
  sync_threads();
  y[threadIdx.x] = tile[threadIdx.x];
}
__global__ void uninitialised_dynamic(float* y, const float*) {
  FASTDL_DYNAMIC_SHARED(float, tile);
  y[threadIdx.x] = tile[threadIdx.x];
}
template <bool kWaits>
__global__ void copied_async(float* y, const float* x) {
  FASTDL_DYNAMIC_SHARED(float, tile);
  if (threadIdx.x < 16) cp_async_16(tile + 4 * threadIdx.x, x + 4 * threadIdx.x);
  cp_async_commit();
  if (kWaits) cp_async_wait<0>();
  sync_threads();
  y[threadIdx.x] = tile[63 - threadIdx.x];
}
// The wait waits for groups, and these copies are in none.
__global__ void copied_uncommitted(float* y, const float* x) {
  FASTDL_DYNAMIC_SHARED(float, tile);
  if (threadIdx.x < 16) cp_async_16(tile + 4 * threadIdx.x, x + 4 * threadIdx.x);
  cp_async_wait<0>();
  sync_threads();
  y[threadIdx.x] = x[threadIdx.x];
}
// A store that the copy may overtake.
__global__ void stored_before_copy(float* y, const float* x) {
  FASTDL_DYNAMIC_SHARED(float, tile);
  if (threadIdx.x < 16) cp_async_16(tile + 4 * threadIdx.x, x + 4 * threadIdx.x);
  cp_async_commit();
  if (threadIdx.x == 5) tile[20] = 0;
  cp_async_wait<0>();
  sync_threads();
  y[threadIdx.x] = tile[threadIdx.x];
}
// Elements 0 .. 31 of x, then zeros; x is not read beyond. Without the wait: NaN.
template <bool kWaits>
__global__ void copied_or_zeros(float* y, const float* x) {
  FASTDL_DYNAMIC_SHARED(float, tile);
  const bool present = threadIdx.x < 8;
  if (threadIdx.x < 16)
    cp_async_16_or_zeros(tile + 4 * threadIdx.x, x + (present ? 4 * threadIdx.x : 1024), present);
  cp_async_commit();
  if (kWaits) cp_async_wait<0>();
  sync_threads();
  y[threadIdx.x] = tile[threadIdx.x];
}
// Eight rows of eight threads sum what they see of eight keys (x >= 0), as attention with a mask does: tiles
// of four keys go through shared memory, loaded together, and one that no row sees is left out. Whether that
// is so all rows must say; a warp for itself, with four of them, or the first row for all others are the
// mistakes.
enum class Skip { by_all, by_warp, by_first };
template <Skip kSkip>
__global__ void masked_sums(float* y, const float* x) {
  FASTDL_SHARED(float, tile, 32);
  FASTDL_SHARED(int, seen, 1);
  const int row = int(threadIdx.x) / 8, key = int(threadIdx.x) % 8;
  float sum = 0;
  for (int first = 0; first < 8; first += 4) {
    const bool visible = key < 4 && x[8 * row + first + key] >= 0;
    if (kSkip == Skip::by_all) {
      if (threadIdx.x == 0) seen[0] = 0;
      sync_threads();
      if (visible) atomic_max(seen.data(), 1);
      sync_threads();
      const bool some = seen[0] != 0;
      sync_threads();  // all have read it
      if (!some) continue;
    } else if (kSkip == Skip::by_warp) {
      if (cuda::warp_reduce(visible ? 1.0f : 0.0f, cuda::Larger{}) == 0) continue;
    } else {
      bool some = false;
      for (int k = 0; k < 4; ++k) some = some || x[first + k] >= 0;
      if (!some) continue;
    }
    if (key < 4) {  // for a row of the other warp
      const float value = x[8 * (row ^ 4) + first + key];
      tile[4 * (row ^ 4) + key] = value >= 0 ? value : 0;
    }
    sync_threads();
    for (int k = 0; k < 4; ++k) sum += tile[4 * row + k];
    sync_threads();
  }
  y[threadIdx.x] = sum;
}
// The largest x, as an integer, whoever comes first.
__global__ void largest(float* y, const float* x) {
  FASTDL_SHARED(int, best, 1);
  if (threadIdx.x == 0) best[0] = -1000;
  sync_threads();
  atomic_max(best.data(), int(x[threadIdx.x]));
  sync_threads();
  y[threadIdx.x] = float(best[0]);
}
// With the 256 dynamic bytes of all these kernels more than a launch gives unasked.
__global__ void static_and_dynamic(float* y, const float* x) {
  FASTDL_SHARED(float, tile, (48 << 10) / 4);
  FASTDL_DYNAMIC_SHARED(float, more);
  tile[threadIdx.x] = more[threadIdx.x] = x[threadIdx.x];
  y[threadIdx.x] = tile[threadIdx.x];
}
__global__ void divergent_barrier(float* y, const float* x) {
  if (threadIdx.x < 32)
    sync_threads();
  else
    sync_threads();
  y[threadIdx.x] = x[threadIdx.x];
}
__global__ void barrier_without_some(float* y, const float* x) {
  if (threadIdx.x < 40) sync_threads();
  y[threadIdx.x] = x[threadIdx.x];
}
__global__ void partial_shuffle(float* y, const float* x) {
  float v = x[threadIdx.x];
  if (threadIdx.x % 32 < 16) v += shuffle_xor(v, 1);
  y[threadIdx.x] = v;
}
__global__ void divergent_shuffle(float* y, const float* x) {
  float v = x[threadIdx.x];
  if (threadIdx.x % 32 < 16)
    v = shuffle_xor(v, 1);
  else
    v = shuffle_xor(v, 1);
  y[threadIdx.x] = v;
}
// Of each warp: the sum over its lanes, from shuffles, and how many are positive, from a vote.
__global__ void warp_sums(float* y, const float* x) {
  float v = x[threadIdx.x];
  const uint32_t votes = ballot(v > 0);
  for (int mask = 16; mask > 0; mask /= 2) v += shuffle_xor(v, mask);
  int positive = 0;
  for (int i = 0; i < 32; ++i) positive += votes >> i & 1;
  y[threadIdx.x] = lane_id() == 0 ? v : float(positive);
}
__global__ void beyond_global(float* y, const float* x) {
  y[threadIdx.x] = x[threadIdx.x + 1];
}
// 4 blocks; all write the same element.
__global__ void race_of_blocks(float* y, const float* x) {
  if (threadIdx.x == 0) y[0] = x[blockIdx.x];
}
// 4 blocks; every thread adds.
__global__ void sum_of_blocks(float* y, const float* x) {
  atomic_add(&y[threadIdx.x], x[threadIdx.x]);
}

// 4 blocks at once, y[63] counts: each takes what the next one wrote, after they have met.
template <bool kWaits, int kMore>
__global__ void meeting_of_blocks(float* y, const float* x) {
  uint32_t* const counter = reinterpret_cast<uint32_t*>(y + 63);
  if (threadIdx.x < 8) y[8 * blockIdx.x + threadIdx.x] = x[8 * blockIdx.x + threadIdx.x];
  sync_threads();
  if (threadIdx.x == 0) {
    signal(counter);
    if (kWaits) wait_for(counter, gridDim.x + kMore);
  }
  sync_threads();
  if (threadIdx.x < 4) y[32 + 4 * blockIdx.x + threadIdx.x] = y[(8 * blockIdx.x + threadIdx.x + 8) % 32];
}

// 4 blocks of a cluster give each other a number, five times; each adds up all of the round before.
// Neighbours may be a round ahead of others: with one inbox their numbers pass for those that are still on
// their way. A block that leaves at once leaves others' stores without a place.
template <int kInboxes, bool kStays>
__global__ void exchange_in_cluster(float* y, const float* x) {
  FASTDL_DYNAMIC_SHARED(float, numbers);  // (2, 4), then the inboxes
  const int block = int(blockIdx.x), thread = int(threadIdx.x);
  const auto inbox = [&](int round) { return reinterpret_cast<uint64_t*>(numbers + 8) + round % kInboxes; };
  const auto wait = [&](int round) { inbox_wait(inbox(round), uint32_t(round / kInboxes)); };
  if (thread == 0)
    for (int n = 0; n < kInboxes; ++n) inbox_begin(inbox(n));
  if (thread < 4) numbers[thread] = x[thread];
  cluster_sync();
  constexpr int kRounds = 5;
  for (int round = 0; round < kRounds; ++round) {
    if (round > 0) wait(round - 1);
    if (thread == 0) inbox_expect(inbox(round), 4 * sizeof(float));
    const float* const now = numbers + round % 2 * 4;
    const float next = now[0] + now[1] + now[2] + now[3] + x[4 + block];
    sync_threads();
    if (thread < 4) store_in_cluster(numbers + (round + 1) % 2 * 4 + block, thread, next, inbox(round));
  }
  if (!kStays) return;
  wait(kRounds - 1);
  if (thread < 4) y[4 * block + thread] = numbers[kRounds % 2 * 4 + thread];
}

// 16 bytes at once from where only 4 are aligned.
__global__ void misaligned_pack(float* y, const float* x) {
  if (threadIdx.x < 8)
    y[threadIdx.x] = reinterpret_cast<const cuda::Pack<float, 4>*>(x + 1)[threadIdx.x].v[0];
}
// Zeros, for which nothing is read; the address must be a multiple of 16 all the same.
__global__ void misaligned_zeros(float* y, const float* x) {
  FASTDL_DYNAMIC_SHARED(float, tile);
  if (threadIdx.x < 16) cp_async_16_or_zeros(tile + 4 * threadIdx.x, x + 1, false);
  cp_async_commit();
  cp_async_wait<0>();
  y[threadIdx.x] = tile[threadIdx.x];
}
// Rows of eight elements with one between them: only every eighth begins where the instruction may read.
__global__ void misaligned_rows(float* y, const float*) {
  FASTDL_SHARED(uint16_t, tile, 512);
  for (int i = int(threadIdx.x); i < 512; i += 64) tile[i] = uint16_t(i);
  sync_threads();
  uint32_t rows[4];
  ldmatrix_x4<false>(rows, tile.data() + 9 * lane_id());
  y[threadIdx.x] = float(rows[0]);
}
__global__ void __launch_bounds__(32) more_threads_than_bounds(float* y, const float* x) {
  y[threadIdx.x] = x[threadIdx.x];
}
__global__ void __launch_bounds__(64) threads_within_bounds(float* y, const float* x) {
  y[threadIdx.x] = x[threadIdx.x];
}

// One warp: a (16, 16) row-major times b (16, 8), b given as (8, 16). Through shared memory, as attention
// does it.
template <class T>
__global__ void product(float* c, const T* a, const T* b) {
  FASTDL_DYNAMIC_SHARED(T, tile);
  for (int i = int(threadIdx.x); i < 256; i += 32) tile[i] = a[i];
  for (int i = int(threadIdx.x); i < 128; i += 32) tile[256 + i] = b[i];
  sync_threads();
  const int lane = lane_id();
  uint32_t fa[4], fb[4];
  ldmatrix_x4<false>(fa, tile + (lane % 16) * 16 + lane / 16 * 8);
  ldmatrix_x4<false>(fb, tile + 256 + (lane % 8) * 16 + lane / 8 % 2 * 8);
  const uint32_t two[2] = {fb[0], fb[1]};
  float d[4] = {0, 0, 0, 0};
  mma_m16n8k16<T>(d, fa, two);
  for (int i = 0; i < 4; ++i) c[(lane / 4 + 8 * (i / 2)) * 8 + lane % 4 * 2 + i % 2] = d[i];
}
// a (16, 8) times b (8, 8) row-major, in tf32.
__global__ void product_tf32(float* c, const float* a, const float* b) {
  const int group = lane_id() / 4, thread = lane_id() % 4;
  uint32_t fa[4], fb[2];
  for (int i = 0; i < 4; ++i) fa[i] = to_tf32(a[(group + 8 * (i % 2)) * 8 + thread + 4 * (i / 2)]);
  for (int i = 0; i < 2; ++i) fb[i] = to_tf32(b[(thread + 4 * i) * 8 + group]);
  float d[4] = {0, 0, 0, 0};
  mma_m16n8k8_tf32(d, fa, fb);
  for (int i = 0; i < 4; ++i) c[(group + 8 * (i / 2)) * 8 + thread * 2 + i % 2] = d[i];
}

struct Planted {
  const char* name;
  void (*kernel)(float*, const float*);
  unsigned blocks;
  enum { plain, cooperative, cluster } launch = plain;
};
constexpr Planted kPlanted[] = {
    {"reversed_without_barrier", reversed_without_barrier, 1},
    {"reversed", reversed, 1},
    {"rounds_without_barrier", rounds_without_barrier, 1},
    {"beyond_shared", beyond_shared, 1},
    {"uninitialised_shared", uninitialised_shared, 1},
    {"uninitialised_dynamic", uninitialised_dynamic, 1},
    {"copied_async", copied_async<true>, 1},
    {"copied_without_wait", copied_async<false>, 1},
    {"copied_uncommitted", copied_uncommitted, 1},
    {"stored_before_copy", stored_before_copy, 1},
    {"copied_or_zeros", copied_or_zeros<true>, 1},
    {"copied_or_zeros_without_wait", copied_or_zeros<false>, 1},
    {"masked_sums", masked_sums<Skip::by_all>, 1},
    {"masked_sums_by_warp", masked_sums<Skip::by_warp>, 1},
    {"masked_sums_by_first", masked_sums<Skip::by_first>, 1},
    {"largest", largest, 1},
    {"static_and_dynamic", static_and_dynamic, 1},
    {"divergent_barrier", divergent_barrier, 1},
    {"barrier_without_some", barrier_without_some, 1},
    {"partial_shuffle", partial_shuffle, 1},
    {"divergent_shuffle", divergent_shuffle, 1},
    {"warp_sums", warp_sums, 1},
    {"beyond_global", beyond_global, 1},
    {"race_of_blocks", race_of_blocks, 4},
    {"sum_of_blocks", sum_of_blocks, 4},
    {"misaligned_pack", misaligned_pack, 1},
    {"misaligned_zeros", misaligned_zeros, 1},
    {"misaligned_rows", misaligned_rows, 1},
    {"more_threads_than_bounds", more_threads_than_bounds, 1},
    {"threads_within_bounds", threads_within_bounds, 1},
    {"exchange_in_cluster", exchange_in_cluster<2, true>, 4, Planted::cluster},
    {"exchange_by_one_inbox", exchange_in_cluster<1, true>, 4, Planted::cluster},
    {"exchange_without_staying", exchange_in_cluster<2, false>, 4, Planted::cluster},
    {"meeting_of_blocks", meeting_of_blocks<true, 0>, 4, Planted::cooperative},
    {"meeting_without_wait", meeting_of_blocks<false, 0>, 4, Planted::cooperative},
    {"meeting_with_nobody", meeting_of_blocks<true, 1>, 4, Planted::cooperative},
    {"meeting_without_launch", meeting_of_blocks<true, 0>, 4},
    {"meeting_of_too_many", meeting_of_blocks<true, 0>, 9, Planted::cooperative},
};

}  // namespace

namespace binding {

void register_planted_hopper(py::module_& m);
void register_planted_turns(py::module_& m);

void register_emulation(py::module_& m) {
  register_planted_hopper(m);
  register_planted_turns(m);
  m.def("set_order", [](const std::string& order, uint64_t seed) {
    using emulation::Order;
    emulation::set_order(order == "ascending"    ? Order::ascending
                         : order == "descending" ? Order::descending
                                                 : Order::random,
                         seed);
  });
  // The next launches are those of a device of this capability, whose blocks may have so much shared memory, and of a
  // module with code for no more than `compiled_for`.
  m.def(
      "set_device",
      [](int capability, int shared, int multiprocessors, int compiled_for) {
        emulation::device = {capability, shared, multiprocessors, compiled_for};
      },
      py::arg("capability"), py::arg("shared"), py::arg("multiprocessors") = 2, py::arg("compiled_for") = 90);
  m.def("cooperative_launches", emulation::cooperative_launches);
  m.def("launches", emulation::launches);
  m.def("last_launch", emulation::last_launch);
  m.def("skip_kernels", emulation::skip_kernels);
  m.def("run_planted", [](const std::string& name, uintptr_t y, uintptr_t x, unsigned threads) {
    for (const Planted& p : kPlanted)
      if (p.name == name) {
        const auto run = [&](auto start) {
          start(p.name, p.kernel, dim3(p.blocks), dim3(threads), size_t(256), nullptr,
                static_cast<float*>(pointer(y)), static_cast<const float*>(pointer(x)));
        };
        if (p.launch == Planted::cooperative) return run([](auto&&... a) { launch_cooperative(a...); });
        if (p.launch == Planted::cluster)
          return run([&p](auto name, auto kernel, auto&&... a) {
            launch_clusters(name, kernel, int(p.blocks), a...);
          });
        return run([](auto&&... a) { launch(a...); });
      }
    throw py::key_error(name);
  });
  m.def("product", [](const std::string& type, uintptr_t c, uintptr_t a, uintptr_t b) {
    float* to = static_cast<float*>(pointer(c));
    const auto run = [&]<class T>(T) {
      launch("product", product<T>, dim3(1), dim3(32), 1024, nullptr, to, static_cast<const T*>(pointer(a)),
             static_cast<const T*>(pointer(b)));
    };
    if (type == "float16") return run(__half{});
    if (type == "bfloat16") return run(__nv_bfloat16{});
    launch("product_tf32", product_tf32, dim3(1), dim3(32), 0, nullptr, to,
           static_cast<const float*>(pointer(a)), static_cast<const float*>(pointer(b)));
  });
}

}  // namespace binding
}  // namespace fastdl
