// What kernels are written with: the differences between a GPU and its emulation, and nothing else.
//
// The same .cu files are compiled by nvcc for the device and, with FASTDL_EMULATED, by the host compiler for
// tests (emulation/emulator.h then takes this file's place). So kernels use only CUDA's own names threadIdx,
// blockIdx, blockDim, gridDim, __global__, __device__, __launch_bounds__ and vector types, and from here:
//
//   launch(name, kernel, grid, block, shared_bytes, stream, arguments...)   a failure names the kernel
//   launch_cooperative(as launch)   resident_blocks(kernel, threads, shared_bytes)  all blocks at once
//   signal(counter)  wait_for(counter, count)                          between the blocks of such a grid
//   launch_clusters(name, kernel, blocks, as launch)  resident_clusters  largest_cluster    blocks of 9.0a
//   cluster_sync()  inbox_begin  inbox_expect  store_in_cluster  inbox_wait      between a cluster's blocks
//   FASTDL_SHARED(T, name, size)   FASTDL_DYNAMIC_SHARED(T, name)   FASTDL_UNROLL  FASTDL_ROLLED
//   FASTDL_UNROLL_BY(n)
//   sync_threads()  sync_warp()  thread_fence()  lane_id()
//   shuffle_xor(v, mask)  shuffle(v, lane)  shuffle_up(v, delta)  ballot(b)         the whole warp takes part
//   rounded_product(a, b)  multiply_high(a, b)  bits_of(x)  exp2_approximate(x)  reciprocal_approximate(x)  opaque(x)
//   larger_or_nan(a, b)  smaller_or_nan(a, b)  store_16(to, from)
//   log_gamma  erfcx  erf_inverse  normal_below  normal_quantile  bessel_i0  bessel_i1  sin_pi  cos_pi
//   atomic_add(p, v)  atomic_max(p, v)  atomic_cas(p, expected, desired)
//   cp_async_16(shared, global)  cp_async_commit()  cp_async_wait<groups in flight>()
//   cp_async_16_or_zeros(shared, global, present)
//   cp_async_16_or_zeros_cached, cp_async_8_or_zeros, cp_async_4_or_zeros    through the first-level cache
//   ldmatrix_x4<transposed>(registers, row)  mma_m16n8k16<T>(d, a, b)  mma_m16n8k8_tf32(d, a, b)  to_tf32(x)
//   multiprocessors()  capability()  shared_memory()  zero(pointer, bytes, stream)  of the current device
//
// With hopper.h the only file with inline assembly and launches.
#pragma once

#ifdef FASTDL_EMULATED
#include "cuda/emulation/emulator.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#define FASTDL_UNROLL _Pragma("unroll")
#define FASTDL_ROLLED _Pragma("unroll 1")
#define FASTDL_PRAGMA(text) _Pragma(#text)
#define FASTDL_UNROLL_BY(n) FASTDL_PRAGMA(unroll n)
#define FASTDL_SHARED(T, name, size) __shared__ __align__(16) T name[size]
// One untyped symbol for all: templates of different element types would otherwise declare it twice.
#define FASTDL_DYNAMIC_SHARED(T, name)                        \
  extern __shared__ __align__(16) unsigned char name##_raw[]; \
  T* const name = reinterpret_cast<T*>(name##_raw)

namespace fastdl {

using Stream = cudaStream_t;

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // clear it, unless the context is lost
  throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status) + " (" +
                           cudaGetErrorName(status) + ")");
}

// More than every kernel may have has to be asked for. Never less than before: a recorded graph, or another
// thread about to launch, may need it.
template <class... P>
void allow_shared(const char* name, void (*kernel)(P...), size_t bytes) {
  if (bytes <= (48 << 10)) return;
  cudaFuncAttributes now;
  check(cudaFuncGetAttributes(&now, kernel), name);
  if (now.maxDynamicSharedSizeBytes < int(bytes))
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)), name);
}

template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, Stream stream,
            A&&... arguments) {
  allow_shared(name, kernel, shared_bytes);
  // clang-format off
  kernel<<<grid, block, shared_bytes, stream>>>(std::forward<A>(arguments)...);
  // clang-format on
  check(cudaGetLastError(), name);
}

// All blocks of the grid are there at once, so they may wait for each other; an error where they do not fit.
template <class... P, class... A>
void launch_cooperative(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                        Stream stream, A&&... arguments) {
  allow_shared(name, kernel, shared_bytes);
  std::tuple<P...> parameters(std::forward<A>(arguments)...);
  std::apply(
      [&](P&... p) {
        void* addresses[] = {&p...};
        check(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(kernel), grid, block, addresses,
                                          shared_bytes, stream),
              name);
      },
      parameters);
}

// An attribute of the current device. Asking takes some tens of nanoseconds.
inline int device_attribute(cudaDeviceAttr attribute) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&value, attribute, device), "cudaDeviceGetAttribute");
  return value;
}
inline int multiprocessors() {
  return device_attribute(cudaDevAttrMultiProcessorCount);
}
inline int capability() {
  return 10 * device_attribute(cudaDevAttrComputeCapabilityMajor) +
         device_attribute(cudaDevAttrComputeCapabilityMinor);
}
// Bytes of shared memory that a block may ask for.
inline int64_t shared_memory() {
  return device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
}
// How many blocks of a kernel the device can have at once.
template <class... P>
int resident_blocks(void (*kernel)(P...), int threads, size_t shared_bytes) {
  if (device_attribute(cudaDevAttrCooperativeLaunch) == 0) return 0;
  int blocks = 0;
  allow_shared("cudaFuncSetAttribute", kernel, shared_bytes);
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared_bytes),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  return blocks * multiprocessors();
}
// Clusters need code compiled for 9.0a: other devices run that of 8.0, and so does a device of 9.0 where the module
// holds no other. (`binaryVersion` is 90 there, too, when the code is assembled for it.) Not all devices have the
// largest ones.
template <class... P>
int largest_cluster(void (*kernel)(P...)) {
  if (capability() != 90) return 1;
  cudaFuncAttributes code;
  check(cudaFuncGetAttributes(&code, kernel), "cudaFuncGetAttributes");
  return code.ptxVersion >= 90 ? 16 : 1;
}
template <class... P>
cudaLaunchConfig_t cluster_launch(const char* name, void (*kernel)(P...), int blocks, dim3 grid, dim3 block,
                                  size_t shared_bytes, Stream stream, cudaLaunchAttribute& attribute) {
  allow_shared(name, kernel, shared_bytes);
  if (blocks > 8)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), name);
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = unsigned(blocks);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid, config.blockDim = block, config.dynamicSmemBytes = shared_bytes;
  config.stream = stream, config.attrs = &attribute, config.numAttrs = 1;
  return config;
}
// How many clusters of so many blocks the device can have at once.
template <class... P>
int resident_clusters(void (*kernel)(P...), int blocks, int threads, size_t shared_bytes) {
  cudaLaunchAttribute attribute;
  const auto config =
      cluster_launch("cudaFuncSetAttribute", kernel, blocks, dim3(unsigned(blocks * multiprocessors())),
                     dim3(unsigned(threads)), shared_bytes, nullptr, attribute);
  int clusters = 0;
  check(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config), "cudaOccupancyMaxActiveClusters");
  return clusters;
}
// Every so many neighbours along x are a cluster.
template <class... P, class... A>
void launch_clusters(const char* name, void (*kernel)(P...), int blocks, dim3 grid, dim3 block,
                     size_t shared_bytes, Stream stream, A&&... arguments) {
  if (blocks == 1)
    return launch(name, kernel, grid, block, shared_bytes, stream, std::forward<A>(arguments)...);
  cudaLaunchAttribute attribute;
  const auto config = cluster_launch(name, kernel, blocks, grid, block, shared_bytes, stream, attribute);
  check(cudaLaunchKernelEx(&config, kernel, std::forward<A>(arguments)...), name);
}
inline void zero(void* to, size_t bytes, Stream stream) {
  check(cudaMemsetAsync(to, 0, bytes, stream), "cudaMemsetAsync");
}

constexpr uint32_t kWholeWarp = 0xFFFFFFFFu;

__device__ __forceinline__ void sync_threads() {
  __syncthreads();
}
__device__ __forceinline__ void sync_warp() {
  __syncwarp();
}
__device__ __forceinline__ void thread_fence() {
  __threadfence();
}
// A block meets others: sync_threads(), one thread signals, waits for the others' signals, sync_threads().
// What a block wrote before is then visible to all. Counters only rise.
__device__ __forceinline__ void signal(uint32_t* counter) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}
__device__ __forceinline__ void wait_for(const uint32_t* counter, uint32_t count) {
  uint32_t now;
  do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(now) : "l"(counter) : "memory");
  while (int32_t(now - count) < 0);
}
__device__ __forceinline__ int lane_id() {
  int lane;
  asm("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

// Any trivially copyable value; structures of 4-byte words go word by word.
template <class T>
__device__ __forceinline__ T shuffle(T value, int lane) {
  if constexpr (std::is_arithmetic_v<T>) {
    return __shfl_sync(kWholeWarp, value, lane);
  } else {
    uint32_t words[sizeof(T) / 4];
    memcpy(words, &value, sizeof(T));
    FASTDL_UNROLL
    for (uint32_t& word : words) word = __shfl_sync(kWholeWarp, word, lane);
    memcpy(&value, words, sizeof(T));
    return value;
  }
}
template <class T>
__device__ __forceinline__ T shuffle_xor(T value, int mask) {
  if constexpr (std::is_arithmetic_v<T>)
    return __shfl_xor_sync(kWholeWarp, value, mask);
  else
    return shuffle(value, lane_id() ^ mask);
}
template <class T>
__device__ __forceinline__ T shuffle_up(T value, int delta) {
  if constexpr (std::is_arithmetic_v<T>)
    return __shfl_up_sync(kWholeWarp, value, delta);
  else
    return shuffle(value, lane_id() >= delta ? lane_id() - delta : lane_id());
}
__device__ __forceinline__ uint32_t ballot(bool vote) {
  return __ballot_sync(kWholeWarp, vote);
}

template <class T>
__device__ __forceinline__ T atomic_add(T* at, T value) {
  return atomicAdd(at, value);
}
__device__ __forceinline__ int atomic_max(int* at, int value) {
  return atomicMax(at, value);
}
__device__ __forceinline__ uint64_t atomic_cas(uint64_t* at, uint64_t expected, uint64_t desired) {
  return atomicCAS(reinterpret_cast<unsigned long long*>(at), expected, desired);
}

// A product that is rounded before anything is added to it.
__device__ __forceinline__ float rounded_product(float a, float b) {
  return __fmul_rn(a, b);
}
__device__ __forceinline__ double rounded_product(double a, double b) {
  return __dmul_rn(a, b);
}
// How many bits are set.
__device__ __forceinline__ int bits_of(uint32_t x) {
  return __popc(x);
}
__device__ __forceinline__ uint32_t multiply_high(uint32_t a, uint32_t b) {
  return __umulhi(a, b);
}

// x from here on is unknown to the compiler, which so cannot keep in registers what follows from it, loops
// around this place long.
__device__ __forceinline__ void opaque(int& x) {
  asm volatile("" : "+r"(x));
}

// 2^x within 2^-22 of it; 0 instead of numbers below the normal ones.
__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / x within a unit in the last place, by one instruction; 0 instead of numbers below the normal ones.
__device__ __forceinline__ float reciprocal_approximate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 16 bytes by one access, also where the compiler takes a pack apart (addresses that a loop counts on).
__device__ __forceinline__ void store_16(void* to, const void* from) {
  uint4 words;
  memcpy(&words, from, sizeof(words));
  __stwb(static_cast<uint4*>(to), words);
}

// One instruction; NaN if either is.
__device__ __forceinline__ float larger_or_nan(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
__device__ __forceinline__ float smaller_or_nan(float a, float b) {
  float y;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}

// CUDA's functions that the standard library lacks.
#define FASTDL_CUDA_FUNCTION_OF(name, single, wide)  \
  __device__ __forceinline__ float name(float x) {   \
    return single(x);                                \
  }                                                  \
  __device__ __forceinline__ double name(double x) { \
    return wide(x);                                  \
  }
FASTDL_CUDA_FUNCTION_OF(log_gamma, ::lgammaf, ::lgamma)
FASTDL_CUDA_FUNCTION_OF(erfcx, ::erfcxf, ::erfcx)
FASTDL_CUDA_FUNCTION_OF(erf_inverse, ::erfinvf, ::erfinv)
FASTDL_CUDA_FUNCTION_OF(normal_below, ::normcdff, ::normcdf)
FASTDL_CUDA_FUNCTION_OF(normal_quantile, ::normcdfinvf, ::normcdfinv)
FASTDL_CUDA_FUNCTION_OF(bessel_i0, ::cyl_bessel_i0f, ::cyl_bessel_i0)
FASTDL_CUDA_FUNCTION_OF(bessel_i1, ::cyl_bessel_i1f, ::cyl_bessel_i1)
FASTDL_CUDA_FUNCTION_OF(sin_pi, ::sinpif, ::sinpi)
FASTDL_CUDA_FUNCTION_OF(cos_pi, ::cospif, ::cospi)
#undef FASTDL_CUDA_FUNCTION_OF

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return uint32_t(__cvta_generic_to_shared(pointer));
}
// All threads of a cluster meet; what was written before is visible to all.
__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::
                   : "memory");
#endif
}
// Blocks of a cluster give each other values without a barrier: stores to the same place of another block's
// dynamic shared memory count their bytes at an inbox there, a word of shared memory that one thread begins
// and, once for each exchange, tells how many bytes to expect. Exchange n of an inbox is over when so many
// have come, whoever sent them and for which exchange: who may be ahead of others needs another inbox. A
// block must not leave before its inbox's last exchange is over.
__device__ __forceinline__ void inbox_begin([[maybe_unused]] uint64_t* inbox) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared.b64 [%0], 1;" ::"r"(shared_address(inbox)) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
__device__ __forceinline__ void inbox_expect([[maybe_unused]] uint64_t* inbox,
                                             [[maybe_unused]] uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(inbox)), "r"(bytes)
               : "memory");
#endif
}
// (Acquiring for the whole cluster would throw away the first-level cache each time; what has come lies in shared
// memory.)
__device__ __forceinline__ void inbox_wait([[maybe_unused]] uint64_t* inbox, [[maybe_unused]] uint32_t n) {
#if __CUDA_ARCH__ >= 900
  uint32_t over;
  do
    asm volatile(
        "{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(over)
        : "r"(shared_address(inbox)), "r"(n & 1)
        : "memory");
  while (over == 0);
#endif
}
template <class T>
__device__ __forceinline__ void store_in_cluster([[maybe_unused]] T* place, [[maybe_unused]] int block,
                                                 [[maybe_unused]] T value, [[maybe_unused]] uint64_t* inbox) {
#if __CUDA_ARCH__ >= 900
  uint32_t to, counts;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(to) : "r"(shared_address(place)), "r"(block));
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(counts) : "r"(shared_address(inbox)), "r"(block));
  if constexpr (sizeof(T) == 8)
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b64 [%0], %1, [%2];" ::"r"(to),
                 "l"(__double_as_longlong(value)), "r"(counts)
                 : "memory");
  else
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(to),
                 "r"(__float_as_uint(value)), "r"(counts)
                 : "memory");
#endif
}
__device__ __forceinline__ void cp_async_16(void* to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)), "l"(from) : "memory");
}
// Zeros where there is nothing to copy; `from` is an address all the same, but not read.
__device__ __forceinline__ void cp_async_16_or_zeros(void* to, const void* from, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(present ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void cp_async_16_or_zeros_cached(void* to, const void* from, bool present) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(present ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void cp_async_8_or_zeros(void* to, const void* from, bool present) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(present ? 8 : 0)
               : "memory");
}
__device__ __forceinline__ void cp_async_4_or_zeros(void* to, const void* from, bool present) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(present ? 4 : 0)
               : "memory");
}
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kInFlight>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kInFlight) : "memory");
}

template <bool kTransposed>
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&to)[4], const void* row) {
  if constexpr (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// d += a b with the tensor cores, float accumulators.
template <class T>
__device__ __forceinline__ void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<T, __half>)
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4],
                                                 const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ uint32_t to_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return bits;
}

}  // namespace fastdl
#endif
