// What compute capability 9.0a adds for kernels of matrix products (PTX ISA: mbarrier, cp.async.bulk.tensor,
// wgmma, setmaxnreg), and nothing else. Like portable.h it is a pair: inline assembly here,
// emulation/hopper.h for the host compiler. A kernel's body stands in `if constexpr (kHopperCode)`: the
// pass for 8.0 makes it empty.
//
//   barriers   Barrier in shared memory; barrier_init, barrier_init_fence, sync_threads, then expect, arrive
//              and wait(parity). One arrival per warp of readers (by lane 0, or after sync_warp) frees a
//              stage.
//   copies     TensorMap describes an array of up to five axes to the copy engine, made by the host;
//              bulk_load brings a box of it, zeros outside of the array, and counts the bytes on a barrier.
//   wgmma      the 128 threads of a warpgroup multiply tiles in shared memory (or A in registers) into
//              registers, asynchronously: wgmma_fence, wgmma..., wgmma_commit, wgmma_wait, wgmma_touch.
//   tiles      rows of 128 bytes, eight to an atom of 1024, aligned to that; 16-byte chunk c of row r lies at
//              place c ^ (r % 8), which the copy engine does by itself (Swizzle::bytes128) and threads by
//              swizzled(). Along: a row holds summands. Across: a row holds 64 of m or n for one summand.
//
// Waits are bounded. One that polled in vain for about a second writes to address 0, so that a mistake is an
// error of the launch and no wrong number or hung device; between hopper_trial_begin and hopper_trial_end,
// which answers whether one did, it gives up instead (kernels/cuda/hopper.py: how a device earns trust).
#pragma once

#include "cuda/portable.h"

namespace fastdl {

enum class Swizzle { none, bytes128 };

}  // namespace fastdl

#ifdef FASTDL_COMPILED_ONCE
#error "this file needs code for 9.0 of its own: name it *hopper*.cu or rnn_*.cu (CMakeLists.txt)"
#endif
#ifdef FASTDL_EMULATED
#include "cuda/emulation/hopper.h"
#else
#include <cuda.h>  // types only

#define FASTDL_GRID_CONSTANT __grid_constant__
// The block's dynamic shared memory, aligned for tiles.
#define FASTDL_TILES_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]

namespace fastdl {

#if defined(__CUDA_ARCH__) && !defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool kHopperCode = false;
#pragma nv_diag_suppress 177  // what only those kernels use is not used in this pass
#else
constexpr bool kHopperCode = true;
#endif

// Barriers.

struct Barrier {
  uint64_t word;
};

__device__ __forceinline__ void barrier_init(Barrier& barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&barrier)), "r"(arrivals)
               : "memory");
}
// By the thread that initialised, before sync_threads: the copy engine sees the barriers, too.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async;" ::: "memory");
}
// An arrival that announces bytes for the same phase.
__device__ __forceinline__ void barrier_expect(Barrier& barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&barrier)),
               "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void barrier_arrive(Barrier& barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&barrier)) : "memory");
}

// Of this file's kernels. 0: a wait in vain is an illegal access; 1: during a trial it gives up; 2: one has.
static __device__ unsigned int waits_in_vain;

__device__ __forceinline__ bool barrier_passed(uint32_t barrier, uint32_t parity) {
  uint32_t passed;  // the hardware sleeps for a while before it says no
  asm volatile(
      "{\n.reg .pred p;\n"
      "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n}"
      : "=r"(passed)
      : "r"(barrier), "r"(parity)
      : "memory");
  return passed != 0;
}
__device__ __forceinline__ bool wait_in_vain() {
  // Not __trap: with that in it ptxas takes registers_more for less, spills and serialises wgmma.
  const bool trial = atomicCAS(&waits_in_vain, 1u, 2u) != 0;
  asm volatile("st.global.u32 [%0], %1;" ::"l"(trial ? &waits_in_vain : nullptr), "r"(2) : "memory");
  return false;
}
// Until the phase of that parity is complete; 1 on a fresh barrier returns at once. False: gave up.
__device__ __forceinline__ bool barrier_wait(Barrier& barrier, uint32_t parity) {
  const uint32_t address = shared_address(&barrier);
  FASTDL_ROLLED
  for (int poll = 0; poll < 1 << 22; ++poll) {
    if (barrier_passed(address, parity)) return true;
    if (poll % 4096 == 4095 && *static_cast<volatile unsigned int*>(&waits_in_vain) == 2) return false;
  }
  return wait_in_vain();
}

// Barriers of some of the block's warps: id 1 to 15, `threads` of them come, arriving or waiting.
__device__ __forceinline__ void sync_named(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void arrive_named(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// What this thread wrote to shared memory becomes visible to wgmma and bulk_store; a barrier follows.
__device__ __forceinline__ void fence_async_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// All warps of a warpgroup: from now on at most kCount registers a thread. The kernel starts with 65536
// divided by its threads, rounded down to 8, and says so by __launch_bounds__(threads, 1).
template <int kCount>
__device__ __forceinline__ void registers_more() {
  static_assert(kCount % 8 == 0 && kCount >= 24 && kCount <= 256);
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void registers_fewer() {
  static_assert(kCount % 8 == 0 && kCount >= 24 && kCount <= 256);
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}

// Copies of boxes.

struct TensorMap {  // 128 bytes; a kernel takes it as const FASTDL_GRID_CONSTANT TensorMap
  CUtensorMap map;
};

namespace hopper {

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                 const cuuint64_t*, const cuuint32_t*, const cuuint32_t*,
                                 CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion,
                                 CUtensorMapFloatOOBfill);

inline EncodeTiled encode_tiled() {  // from the driver, whose library is not linked
  static const EncodeTiled function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
    check(
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result),
        "cuTensorMapEncodeTiled");
#else
    check(cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result),
          "cuTensorMapEncodeTiled");
#endif
    if (found == nullptr || result != cudaDriverEntryPointSuccess)
      throw std::runtime_error("CUDA: the driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<EncodeTiled>(found);
  }();
  return function;
}

template <class T>
constexpr CUtensorMapDataType element_type() {
  if constexpr (std::is_same_v<T, __half>) return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  if constexpr (std::is_same_v<T, float>) return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
  if constexpr (std::is_same_v<T, uint8_t>) return CU_TENSOR_MAP_DATA_TYPE_UINT8;
}

}  // namespace hopper

inline TensorMap make_tensor_map(CUtensorMapDataType type, const void* data, int rank, const int64_t* sizes,
                                 const int64_t* strides_bytes, const int* box, Swizzle swizzle) {
  cuuint64_t extents[5], strides[5];
  cuuint32_t boxes[5], steps[5];
  for (int i = 0; i < rank; ++i) {
    extents[i] = cuuint64_t(sizes[i]);
    boxes[i] = cuuint32_t(box[i]);
    steps[i] = 1;
    if (i > 0)
      strides[i - 1] = sizes[i] == 1 ? 16 : cuuint64_t(strides_bytes[i - 1]);  // 16: any that is valid
  }
  TensorMap result;
  const CUresult status = hopper::encode_tiled()(
      &result.map, type, cuuint32_t(rank), const_cast<void*>(data), extents, strides, boxes, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE,
      swizzle == Swizzle::none ? CU_TENSOR_MAP_SWIZZLE_NONE : CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw std::runtime_error("CUDA: cuTensorMapEncodeTiled failed (" + std::to_string(int(status)) + ")");
  return result;
}

// One thread. Coordinates of the box's first element, innermost first; they may lie outside of the array.
template <int kRank>
__device__ __forceinline__ void bulk_load(void* to, const TensorMap& map, const int (&at)[kRank],
                                          Barrier& barrier) {
  static_assert(kRank >= 2 && kRank <= 5);
  const uint32_t shared = shared_address(to), signal = shared_address(&barrier);
  const uint64_t address = reinterpret_cast<uint64_t>(&map);
  if constexpr (kRank == 2)
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
        "[%2];" ::"r"(shared),
        "l"(address), "r"(signal), "r"(at[0]), "r"(at[1])
        : "memory");
  else if constexpr (kRank == 3)
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, "
        "%5}], "
        "[%2];" ::"r"(shared),
        "l"(address), "r"(signal), "r"(at[0]), "r"(at[1]), "r"(at[2])
        : "memory");
  else if constexpr (kRank == 4)
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, "
        "%6}], [%2];" ::"r"(shared),
        "l"(address), "r"(signal), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3])
        : "memory");
  else
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, "
        "%6, %7}], [%2];" ::"r"(shared),
        "l"(address), "r"(signal), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4])
        : "memory");
}
// One thread, after fence_async_shared by all that wrote the box and a barrier. Nothing outside of the array
// is written.
template <int kRank>
__device__ __forceinline__ void bulk_store(const TensorMap& map, const void* from, const int (&at)[kRank]) {
  static_assert(kRank >= 2 && kRank <= 5);
  const uint32_t shared = shared_address(from);
  const uint64_t address = reinterpret_cast<uint64_t>(&map);
  if constexpr (kRank == 2)
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(address),
                 "r"(shared), "r"(at[0]), "r"(at[1])
                 : "memory");
  else if constexpr (kRank == 3)
    asm volatile(
        "cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(address),
        "r"(shared), "r"(at[0]), "r"(at[1]), "r"(at[2])
        : "memory");
  else if constexpr (kRank == 4)
    asm volatile(
        "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(address),
        "r"(shared), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3])
        : "memory");
  else
    asm volatile(
        "cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];" ::"l"(
            address),
        "r"(shared), "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4])
        : "memory");
}
__device__ __forceinline__ void bulk_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until at most kInFlight of this thread's groups of stores are under way (read: still read shared memory).
template <int kInFlight>
__device__ __forceinline__ void bulk_wait() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kInFlight) : "memory");
}
template <int kInFlight>
__device__ __forceinline__ void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kInFlight) : "memory");
}
// The same without a map: bytes one after the other, addresses and `bytes` multiples of 16. The second adds
// float32 numbers to those that are there, in the second-level cache.
__device__ __forceinline__ void bulk_store(void* to, const void* from, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
               "r"(shared_address(from)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void bulk_add(float* to, const float* from, uint32_t bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to),
               "r"(shared_address(from)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void bulk_prefetch(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(reinterpret_cast<uint64_t>(&map)) : "memory");
}

// Turns: blocks that write the same memory do so one after the other. A number in global memory says whose
// turn it is; the thread that waits for its number writes by bulk copies, waits for them and passes on. Its
// block must have begun after the block it waits for, which a counter ensures and the number of the block
// does not.
__device__ __forceinline__ bool turn_wait(const uint32_t& turn, uint32_t mine) {
  FASTDL_ROLLED
  for (int poll = 0; poll < 1 << 22; ++poll) {
    uint32_t now;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(&turn) : "memory");
    if (now == mine) {
      asm volatile("fence.proxy.async.global;" ::: "memory");  // bulk copies come after it
      return true;
    }
    if (poll % 4096 == 4095 && *static_cast<volatile unsigned int*>(&waits_in_vain) == 2) return false;
  }
  return wait_in_vain();
}
__device__ __forceinline__ void turn_pass(uint32_t& turn, uint32_t next) {
  asm volatile("fence.proxy.async.global;" ::: "memory");
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(&turn), "r"(next) : "memory");
}

// Tiles.

namespace hopper {

__device__ __forceinline__ uint32_t tile_offset(const void* shared) {
  return shared_address(shared);
}

}  // namespace hopper

// Products.

__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kInFlight>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kInFlight) : "memory");
}
// After a wait: the compiler must not have moved what uses these registers before it.
template <int kCount>
__device__ __forceinline__ void wgmma_touch(float (&d)[kCount]) {
  FASTDL_UNROLL
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
// The same of a first operand in registers: it must not have been overwritten.
__device__ __forceinline__ void wgmma_touch(uint32_t (&a)[4]) {
  FASTDL_UNROLL
  for (uint32_t& bits : a) asm volatile("" : "+r"(bits)::"memory");
}

#define FASTDL_R2(t) "%" #t "0,%" #t "1"
#define FASTDL_R4(t) FASTDL_R2(t) ",%" #t "2,%" #t "3"
#define FASTDL_R6(t) FASTDL_R4(t) ",%" #t "4,%" #t "5"
#define FASTDL_R8(t) FASTDL_R6(t) ",%" #t "6,%" #t "7"
#define FASTDL_R10(t) FASTDL_R8(t) ",%" #t "8,%" #t "9,"
#define FASTDL_D8(i)                                                                          \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define FASTDL_D32(i) FASTDL_D8(i), FASTDL_D8(i + 8), FASTDL_D8(i + 16), FASTDL_D8(i + 24)
// (Long lines: clang-format does not come to rest here.)
// clang-format off
// Registers 0 .. 15, 31, 47, 63, 95, 127 of d: in the instruction's text, and as operands.
#define FASTDL_TEXT_32 FASTDL_R10() FASTDL_R6(1)
#define FASTDL_TEXT_64 FASTDL_R10() FASTDL_R10(1) FASTDL_R10(2) FASTDL_R2(3)
#define FASTDL_TEXT_96 FASTDL_R10() FASTDL_R10(1) FASTDL_R10(2) FASTDL_R10(3) FASTDL_R8(4)
#define FASTDL_TEXT_128 FASTDL_R10() FASTDL_R10(1) FASTDL_R10(2) FASTDL_R10(3) FASTDL_R10(4) FASTDL_R10(5) FASTDL_R4(6)
#define FASTDL_TEXT_192 FASTDL_R10() FASTDL_R10(1) FASTDL_R10(2) FASTDL_R10(3) FASTDL_R10(4) FASTDL_R10(5) FASTDL_R10(6) FASTDL_R10(7) FASTDL_R10(8) FASTDL_R6(9)
#define FASTDL_TEXT_256 FASTDL_R10() FASTDL_R10(1) FASTDL_R10(2) FASTDL_R10(3) FASTDL_R10(4) FASTDL_R10(5) FASTDL_R10(6) FASTDL_R10(7) FASTDL_R10(8) FASTDL_R10(9) FASTDL_R10(10) FASTDL_R10(11) FASTDL_R8(12)
// clang-format on
#define FASTDL_SUMS_32 FASTDL_D8(0), FASTDL_D8(8)
#define FASTDL_SUMS_64 FASTDL_D32(0)
#define FASTDL_SUMS_96 FASTDL_D32(0), FASTDL_D8(32), FASTDL_D8(40)
#define FASTDL_SUMS_128 FASTDL_D32(0), FASTDL_D32(32)
#define FASTDL_SUMS_192 FASTDL_D32(0), FASTDL_D32(32), FASTDL_D32(64)
#define FASTDL_SUMS_256 FASTDL_D32(0), FASTDL_D32(32), FASTDL_D32(64), FASTDL_D32(96)
// The last four: numbers of the operands after d.
#define FASTDL_WGMMA_TILES(n, k, type, p, q, r, s, t)                                                   \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #r                                                  \
               ", 0;\n"                                                                                 \
               "wgmma.mma_async.sync.aligned.m64n" #n "k" #k ".f32." type "." type " {" FASTDL_TEXT_##n \
               "}, %" #p ", %" #q ", p, 1, 1, %" #s ", %" #t ";\n}"                                     \
               : FASTDL_SUMS_##n                                                                        \
               : "l"(a), "l"(b), "r"(int(accumulate)), "n"(int(kAcrossA)), "n"(int(kAcrossB)))
#define FASTDL_WGMMA_TF32(n, p, q, r)                                                      \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #r                                     \
               ", 0;\n"                                                                    \
               "wgmma.mma_async.sync.aligned.m64n" #n "k8.f32.tf32.tf32 {" FASTDL_TEXT_##n \
               "}, %" #p ", %" #q ", p, 1, 1;\n}"                                          \
               : FASTDL_SUMS_##n                                                           \
               : "l"(a), "l"(b), "r"(int(accumulate)))
#define FASTDL_WGMMA_REGISTERS(n, type, p, q, r, s, t, u, v)                                        \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #u                                              \
               ", 0;\n"                                                                             \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" FASTDL_TEXT_##n \
               "}, {%" #p ", %" #q ", %" #r ", %" #s "}, %" #t ", p, 1, 1, %" #v ";\n}"             \
               : FASTDL_SUMS_##n                                                                    \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(accumulate)),          \
                 "n"(int(kAcrossB)))
#define FASTDL_WGMMA_CASE(n, p, q, r, s, t)              \
  if constexpr (N == n) {                                \
    if constexpr (std::is_same_v<T, __half>)             \
      FASTDL_WGMMA_TILES(n, 16, "f16", p, q, r, s, t);   \
    else if constexpr (std::is_same_v<T, __nv_bfloat16>) \
      FASTDL_WGMMA_TILES(n, 16, "bf16", p, q, r, s, t);  \
    else                                                 \
      FASTDL_WGMMA_TF32(n, p, q, r);                     \
  }
#define FASTDL_WGMMA_REGISTERS_CASE(n, p, q, r, s, t, u, v)   \
  if constexpr (N == n) {                                     \
    if constexpr (std::is_same_v<T, __half>)                  \
      FASTDL_WGMMA_REGISTERS(n, "f16", p, q, r, s, t, u, v);  \
    else                                                      \
      FASTDL_WGMMA_REGISTERS(n, "bf16", p, q, r, s, t, u, v); \
  }

// d (64 x N) = a b (+ d), 32 bytes of summands a row: 16 of 16 bits, 8 in TF32 (along only). Thread t of the
// warpgroup, warp w = t / 32, lane l: d[4 i + c] is row 16 w + l / 4 + 8 (c / 2), column 8 i + 2 (l % 4) + c
// % 2.
template <class T, int N, bool kAcrossA = false, bool kAcrossB = false>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) {
  static_assert(N == 32 || N == 64 || N == 96 || N == 128 || N == 192 || N == 256);
  static_assert(!std::is_same_v<T, float> || (!kAcrossA && !kAcrossB));
  FASTDL_WGMMA_CASE(32, 16, 17, 18, 19, 20)
  FASTDL_WGMMA_CASE(64, 32, 33, 34, 35, 36)
  FASTDL_WGMMA_CASE(96, 48, 49, 50, 51, 52)
  FASTDL_WGMMA_CASE(128, 64, 65, 66, 67, 68)
  FASTDL_WGMMA_CASE(192, 96, 97, 98, 99, 100)
  FASTDL_WGMMA_CASE(256, 128, 129, 130, 131, 132)
}
// a from registers: of each warp the fragment of mma.m16n8k16 (fragments.h) for rows 16 w .. 16 w + 15.
template <class T, int N, bool kAcrossB = false>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b,
                                      bool accumulate) {
  static_assert(N == 32 || N == 64 || N == 96 || N == 128 || N == 192 || N == 256);
  static_assert(std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
  FASTDL_WGMMA_REGISTERS_CASE(32, 16, 17, 18, 19, 20, 21, 22)
  FASTDL_WGMMA_REGISTERS_CASE(64, 32, 33, 34, 35, 36, 37, 38)
  FASTDL_WGMMA_REGISTERS_CASE(96, 48, 49, 50, 51, 52, 53, 54)
  FASTDL_WGMMA_REGISTERS_CASE(128, 64, 65, 66, 67, 68, 69, 70)
  FASTDL_WGMMA_REGISTERS_CASE(192, 96, 97, 98, 99, 100, 101, 102)
  FASTDL_WGMMA_REGISTERS_CASE(256, 128, 129, 130, 131, 132, 133, 134)
}

// Trials. Of the file that calls it, on the current device.
static inline void hopper_trial_begin() {
  const unsigned int during = 1;
  check(cudaMemcpyToSymbol(waits_in_vain, &during, sizeof(during)), "hopper_trial_begin");
}
// Waits for the stream. Did every wait of its kernels end?
static inline bool hopper_trial_end(Stream stream) {
  unsigned int found = 0;
  const unsigned int after = 0;
  check(cudaStreamSynchronize(stream), "hopper_trial_end");
  check(cudaMemcpyFromSymbol(&found, waits_in_vain, sizeof(found)), "hopper_trial_end");
  check(cudaMemcpyToSymbol(waits_in_vain, &after, sizeof(after)), "hopper_trial_end");
  return found == 1;
}

}  // namespace fastdl
#endif

namespace fastdl {

// Can the copy engine take boxes from this array? Sizes and box in elements, innermost axis first, strides of
// axes 1 .. in bytes. An axis of one element may have any stride; none may repeat its elements.
inline bool tensor_map_possible(const void* data, int element_bytes, int rank, const int64_t* sizes,
                                const int64_t* strides_bytes, const int* box, Swizzle swizzle) {
  if (reinterpret_cast<uintptr_t>(data) % 16 != 0 || rank < 2 || rank > 5) return false;
  if (box[0] * element_bytes % 16 != 0) return false;
  if (swizzle == Swizzle::bytes128 && box[0] * element_bytes != 128) return false;
  for (int i = 0; i < rank; ++i) {
    if (sizes[i] < 1 || sizes[i] >= int64_t(1) << 31 || box[i] < 1 || box[i] > 256) return false;
    if (i == 0 || sizes[i] == 1) continue;
    const int64_t stride = strides_bytes[i - 1];
    if (stride < 16 || stride % 16 != 0 || stride >= int64_t(1) << 40) return false;
  }
  return true;
}

template <class T>
TensorMap tensor_map(const void* data, int rank, const int64_t* sizes, const int64_t* strides_bytes,
                     const int* box, Swizzle swizzle) {
  if (!tensor_map_possible(data, int(sizeof(T)), rank, sizes, strides_bytes, box, swizzle))
    throw std::logic_error("tensor_map: the copy engine cannot take this array");
  return make_tensor_map(hopper::element_type<T>(), data, rank, sizes, strides_bytes, box, swizzle);
}

// Descriptors of tiles for wgmma. Bits 0-13 address / 16, 16-29 and 32-45 the two distances between atoms
// / 16, 62-63 = 1: 128-byte swizzle.
namespace hopper {

__device__ __forceinline__ uint64_t tile_descriptor(const void* shared, int leading, int stride) {
  return uint64_t((tile_offset(shared) & 0x3FFFF) >> 4) | uint64_t(leading >> 4) << 16 |
         uint64_t(stride >> 4) << 32 | uint64_t(1) << 62;
}

}  // namespace hopper

// Rows hold summands, 64 of 16 bits; the next eight rows of m or n follow after 1024 bytes.
__device__ __forceinline__ uint64_t matrix_along(const void* shared) {
  return hopper::tile_descriptor(shared, 16, 1024);
}
// Row k holds 64 of m or n of summand k; the next eight summands follow after 1024 bytes, the next 64 of m or
// n after block_bytes. 16-bit elements.
__device__ __forceinline__ uint64_t matrix_across(const void* shared, int block_bytes) {
  return hopper::tile_descriptor(shared, block_bytes, 1024);
}
// Along: 32 bytes a step of summands, within a row. Across: 2048 bytes. Rows: 1024 bytes for eight.
__device__ __forceinline__ uint64_t matrix_advance(uint64_t descriptor, int bytes) {
  return descriptor + uint64_t(bytes >> 4);
}
// Chunk (0 .. 7, of 16 bytes) of a tile's row, for threads that read or write it themselves.
__device__ __forceinline__ void* swizzled(void* tile, int row, int chunk) {
  return static_cast<unsigned char*>(tile) + row * 128 + ((chunk ^ (row & 7)) << 4);
}

}  // namespace fastdl
