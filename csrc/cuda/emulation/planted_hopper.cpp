// Kernels with bulk copies, barriers and wgmma: clean ones, and each once more for every mistake of Mistake
// (tests/test_cuda_emulator_hopper.py).
#include "bindings/cuda/arguments.h"
#include "cuda/hopper.h"
#include "cuda/numeric.h"

namespace fastdl {
namespace {

enum class Mistake : int {
  none,
  no_wait_for_load,
  no_wait_for_product,
  stage_freed_early,
  no_wait_for_free_stage,
  no_barrier_fence,
  no_barrier_sync,
  too_few_bytes,
  one_arrival_missing,
  product_diverges,
  no_product_fence,
  sums_written_early,
  product_left,
  store_left,
  store_overwritten,
  load_left,
  unaligned_tile,
  too_many_registers,
  registers_of_half,
  no_named_barrier,
  wrong_named_count,
};

constexpr int kTile = 64, kStages = 2, kLine = 128;
constexpr int kTileBytes = kTile * kLine;

// c (m, n) = a b over k in tiles of 64 x 64, one block each. Threads 0 .. 127 produce, 128 .. 255 multiply,
// the rest only has registers.
// a is (m, k), across (k, m); b is (n, k), across (k, n); the maps' boxes are rows of 128 bytes, 64 of them
// (TF32 across: none). kRegisters: a goes through registers.
template <class T, bool kAcrossA, bool kAcrossB, bool kRegisters>
__global__ void multiply(const FASTDL_GRID_CONSTANT TensorMap a, const FASTDL_GRID_CONSTANT TensorMap b,
                         const FASTDL_GRID_CONSTANT TensorMap c, int k, Mistake mistake) {
  FASTDL_TILES_SHARED(tiles);
  FASTDL_SHARED(Barrier, full, kStages);
  FASTDL_SHARED(Barrier, empty, kStages);
  constexpr int kDepth = int(kLine / sizeof(T));  // summands in a stage
  const int row = int(blockIdx.y) * kTile, column = int(blockIdx.x) * kTile;
  const int steps = (k + kDepth - 1) / kDepth;
  const int warpgroup = int(threadIdx.x) / 128, thread = int(threadIdx.x) % 128;
  const auto at = [&](int stage, int operand) { return tiles + (2 * stage + operand) * kTileBytes; };
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full[size_t(s)], 1);
      barrier_init(empty[size_t(s)], mistake == Mistake::one_arrival_missing ? 5 : 4);
    }
    if (mistake != Mistake::no_barrier_fence) barrier_init_fence();
  }
  if (mistake != Mistake::no_barrier_sync) sync_threads();
  if (warpgroup == 0) {
    if (mistake == Mistake::registers_of_half && thread >= 64) return;
    if (mistake != Mistake::too_many_registers) registers_fewer<40>();
    if (thread != 0) return;
    for (int step = 0; step < steps; ++step) {
      const auto stage = size_t(step % kStages);
      if (mistake != Mistake::no_wait_for_free_stage)
        barrier_wait(empty[stage], uint32_t(step / kStages % 2 ^ 1));
      barrier_expect(full[stage], mistake == Mistake::too_few_bytes ? kTileBytes : 2 * kTileBytes);
      const int s = step * kDepth;
      if constexpr (kAcrossA)
        bulk_load(at(int(stage), 0), a, {row, s}, full[stage]);
      else
        bulk_load(at(int(stage), 0), a, {s, row}, full[stage]);
      if constexpr (kAcrossB)
        bulk_load(at(int(stage), 1), b, {column, s}, full[stage]);
      else
        bulk_load(at(int(stage), 1), b, {s, column}, full[stage]);
    }
    if (mistake == Mistake::load_left) {
      barrier_wait(empty[0], 0);
      bulk_load(at(0, 0), a, {0, 0}, full[0]);
    }
    return;
  }
  if (warpgroup == 2) return;
  registers_more<240>();
  float d[kTile / 2] = {};
  for (int step = 0; step < steps; ++step) {
    const auto stage = size_t(step % kStages);
    if (mistake != Mistake::no_wait_for_load) barrier_wait(full[stage], uint32_t(step / kStages % 2));
    if (mistake == Mistake::stage_freed_early && thread % 32 == 0) barrier_arrive(empty[stage]);
    uint64_t x = kAcrossA ? matrix_across(at(int(stage), 0), 0) : matrix_along(at(int(stage), 0));
    uint64_t y = kAcrossB ? matrix_across(at(int(stage), 1), 0) : matrix_along(at(int(stage), 1));
    if (mistake == Mistake::unaligned_tile) y = matrix_advance(y, 128);
    if (mistake != Mistake::no_product_fence) wgmma_fence();
    for (int i = 0; i < 4; ++i) {
      if constexpr (kRegisters) {
        uint32_t fragment[4];
        for (int j = 0; j < 4; ++j)
          fragment[j] = *reinterpret_cast<const uint32_t*>(
              static_cast<const unsigned char*>(swizzled(
                  at(int(stage), 0), thread / 32 * 16 + thread % 32 / 4 + j % 2 * 8, 2 * i + j / 2)) +
              thread % 4 * 4);
        wgmma<T, kTile, kAcrossB>(d, fragment, y, true);
      } else if (mistake == Mistake::product_diverges && thread >= 96) {
        wgmma<T, kTile, kAcrossA, kAcrossB>(d, x, y, true);
      } else {
        wgmma<T, kTile, kAcrossA, kAcrossB>(d, x, y, true);
      }
      x = matrix_advance(x, kAcrossA ? 2048 : 32);
      y = matrix_advance(y, kAcrossB ? 2048 : 32);
    }
    wgmma_commit();
    if (mistake == Mistake::sums_written_early) d[0] = 1;
    if (mistake == Mistake::product_left) return;
    if (mistake != Mistake::no_wait_for_product) wgmma_wait<0>();
    wgmma_touch(d);
    if constexpr (kRegisters) sync_warp();  // other lanes have read the tile, too
    if (mistake != Mistake::stage_freed_early && thread % 32 == 0) barrier_arrive(empty[stage]);
  }
  // The sums, as two boxes of 64 rows and 32 columns.
  unsigned char* const sums = tiles + 2 * kStages * kTileBytes;
  for (int i = 0; i < kTile / 2; ++i) {
    const int r = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8, e = i / 4 * 8 + thread % 4 * 2 + i % 2;
    static_cast<float*>(swizzled(sums + e / 32 * kTileBytes, r, e % 32 / 4))[e % 4] = d[i];
  }
  fence_async_shared();
  if (mistake != Mistake::no_named_barrier)
    sync_named(1, mistake == Mistake::wrong_named_count && thread >= 64 ? 64 : 128);
  if (thread == 0) {
    bulk_store(c, sums, {column, row});
    bulk_store(c, sums + kTileBytes, {column + 32, row});
    bulk_commit();
    if (mistake == Mistake::store_overwritten) *reinterpret_cast<float*>(sums) = -1;
    if (mistake != Mistake::store_left) bulk_wait<0>();
  }
}

// y = the box of x (rows of 8 floats, 3 axes more) at (-2, -1, 1, 0): zeros where there is nothing.
__global__ void shifted(const FASTDL_GRID_CONSTANT TensorMap y, const FASTDL_GRID_CONSTANT TensorMap x,
                        uint32_t bytes) {
  FASTDL_TILES_SHARED(tile);
  FASTDL_SHARED(Barrier, full, 1);
  if (threadIdx.x == 0) {
    barrier_init(full[0], 1);
    barrier_init_fence();
    barrier_expect(full[0], bytes);
    bulk_load(tile, x, {-2, -1, 1, 0}, full[0]);
  }
  sync_threads();
  barrier_wait(full[0], 0);
  if (threadIdx.x == 0) {
    bulk_store(y, tile, {0, 0, 0, 0});
    bulk_commit();
    bulk_wait<0>();
  }
}

// Two warpgroups take turns: b's part waits for a's to arrive, without a waiting for b.
__global__ void turns(float* y, const float* x) {
  FASTDL_SHARED(float, passed, 128);
  const int thread = int(threadIdx.x) % 128;
  if (threadIdx.x < 128) {
    passed[size_t(thread)] = x[thread % 64];
    arrive_named(3, 256);
  } else {
    sync_named(3, 256);
    y[thread % 64] = passed[size_t(127 - thread)];
  }
}

template <class T, bool kAcrossA, bool kAcrossB, bool kRegisters>
void run_multiply(uintptr_t c, uintptr_t a, uintptr_t b, int m, int n, int k, int mistake) {
  const auto map = [](uintptr_t data, int rows, int columns, int box_rows, auto zero) {
    const int64_t sizes[] = {columns, rows}, strides[] = {int64_t(columns) * int64_t(sizeof(zero))};
    const int box[] = {int(kLine / sizeof(zero)), box_rows};
    return tensor_map<decltype(zero)>(binding::pointer(data), 2, sizes, strides, box, Swizzle::bytes128);
  };
  launch("multiply", multiply<T, kAcrossA, kAcrossB, kRegisters>,
         dim3(unsigned((n + 63) / 64), unsigned((m + 63) / 64)), dim3(384),
         (2 * kStages + 2) * kTileBytes + 1024, nullptr,
         kAcrossA ? map(a, k, m, kTile, T{}) : map(a, m, k, kTile, T{}),
         kAcrossB ? map(b, k, n, kTile, T{}) : map(b, n, k, kTile, T{}), map(c, m, n, kTile, 0.0f), k,
         Mistake(mistake));
}

}  // namespace

namespace binding {

void register_planted_hopper(py::module_& m) {
  py::enum_<Mistake> mistakes(m, "Mistake");
  const char* const names[] = {"none",
                               "no_wait_for_load",
                               "no_wait_for_product",
                               "stage_freed_early",
                               "no_wait_for_free_stage",
                               "no_barrier_fence",
                               "no_barrier_sync",
                               "too_few_bytes",
                               "one_arrival_missing",
                               "product_diverges",
                               "no_product_fence",
                               "sums_written_early",
                               "product_left",
                               "store_left",
                               "store_overwritten",
                               "load_left",
                               "unaligned_tile",
                               "too_many_registers",
                               "registers_of_half",
                               "no_named_barrier",
                               "wrong_named_count"};
  for (int i = 0; i < int(std::size(names)); ++i) mistakes.value(names[i], Mistake(i));
  // c (m, n) float32 = a b. kind: of the elements; form: "along", "across" (both), "mixed" (b), "registers".
  m.def("multiply_tiles", [](const std::string& kind, const std::string& form, uintptr_t c, uintptr_t a,
                             uintptr_t b, int rows, int columns, int k, Mistake mistake) {
    const auto run = [&]<class T>(T) {
      if (form == "across")
        return run_multiply<T, true, true, false>(c, a, b, rows, columns, k, int(mistake));
      if (form == "mixed")
        return run_multiply<T, false, true, false>(c, a, b, rows, columns, k, int(mistake));
      if (form == "registers")
        return run_multiply<T, false, true, true>(c, a, b, rows, columns, k, int(mistake));
      run_multiply<T, false, false, false>(c, a, b, rows, columns, k, int(mistake));
    };
    if (kind == "float16") return run(__half{});
    if (kind == "bfloat16") return run(__nv_bfloat16{});
    run_multiply<float, false, false, false>(c, a, b, rows, columns, k, int(mistake));
  });
  m.def("shifted_box", [](uintptr_t y, uintptr_t x) {  // x (2, 3, 4, 8) -> y (2, 3, 4, 8)
    const int64_t sizes[] = {8, 4, 3, 2}, strides[] = {32, 128, 384};
    const int box[] = {8, 4, 3, 2};
    launch("shifted", shifted, dim3(1), dim3(32), 768, nullptr,
           tensor_map<float>(pointer(y), 4, sizes, strides, box, Swizzle::none),
           tensor_map<float>(pointer(x), 4, sizes, strides, box, Swizzle::none), 768u);
  });
  m.def("take_turns", [](uintptr_t y, uintptr_t x) {
    launch("turns", turns, dim3(1), dim3(256), 0, nullptr, static_cast<float*>(pointer(y)),
           static_cast<const float*>(pointer(x)));
  });
}

}  // namespace binding
}  // namespace fastdl
