// CUDA on the CPU: what portable.h offers to kernels when they are compiled by the host compiler, for tests.
//
// Every CUDA thread is a fiber with a stack of its own; the fibers of a block share one host thread and are
// switched by hand, blocks are spread over host threads. What threads do together is a *collective*: each
// participant deposits its arguments and waits, the last one does the work for all. Mistakes that a GPU would
// not report are errors here, with the places in the source: threads that meet at different barriers, a
// shuffle without the whole warp, an index outside of a shared array. Shared memory starts as NaN, cp_async
// delivers at the wait and leaves NaN until then, and threads run in a chosen order, so that a missing
// barrier shows as a wrong value. Accesses must be aligned as their types are (-fsanitize=alignment, whose
// reports come here), and launches must keep to the kernel's bounds and to the device's limits.
//
// Everything a collective does with other fibers' data runs uninstrumented (kUninstrumented): to
// ThreadSanitizer only barriers order the threads of a block, as on the device.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector_types.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#undef __global__
#undef __device__
#undef __host__
#undef __forceinline__
#undef __launch_bounds__
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
// A kernel's bounds stand at its beginning, one nop for 32 threads, where launches look at them.
#define __launch_bounds__(...) \
  __attribute__((patchable_function_entry(::fastdl::emulation::warps_of_bounds(__VA_ARGS__))))
#define FASTDL_UNROLL
#define FASTDL_ROLLED
#define FASTDL_UNROLL_BY(n)
#define FASTDL_UNINSTRUMENTED __attribute__((no_sanitize_thread))

namespace fastdl {

using Stream = struct CUstream_st*;

namespace emulation {

using Site = std::source_location;

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

constexpr int warps_of_bounds(int threads, int = 0) {
  return threads / 32;
}
std::string describe(const Site& site);

// What a fiber may ask about itself.
struct Here {
  uint3 thread, block;
  dim3 block_dim, grid_dim;
  int lane;
};
// The running fiber's. (Fibers never change their host thread, so a thread-local pointer is safe.)
extern thread_local const Here* here;

enum class Order { ascending, descending, random };
void set_order(Order order, uint64_t seed);
// What devices differ in.
struct Device {
  int capability = 90;
  int shared = 227 << 10;   // bytes of shared memory that a block may have
  int multiprocessors = 2;  // few, so that small tests reach the loops over a grid
  int compiled_for = 90;    // of what the module holds, the capability whose code runs
};
extern Device device;
int64_t launches();         // so far, of any kind
const char* last_launch();  // its name
// Launches are counted and checked, and nothing runs: what is left is the host's time.
void skip_kernels(bool skip);

// Runs body(context), which is the kernel, in every thread of the grid; returns when all are done, or throws
// the first error. A cooperative grid's blocks take turns on one host thread, the others come one after the
// other.
void run(const char* name, const void* kernel, dim3 grid, dim3 block, size_t shared_bytes,
         void (*body)(void*), void* context, bool cooperative = false);

// Waits for all threads of the block; all must come to the same site.
void barrier(const Site& site);
// Waits for all lanes of the warp at the same site; the last one calls work with the 32 arguments.
void collective(void* argument, void (*work)(void* const arguments[32]), const Site& site);
void warp_barrier(const Site& site);
// The block's shared array of that key, made and poisoned by the first thread that asks.
void* shared(const void* key, size_t bytes);
void* dynamic_shared();
// Asynchronous copies of the running thread.
// An error unless the address is one that the instruction takes; compilers do not know it.
void demand_multiple(const char* instruction, const void* address, size_t bytes);
void cp_async(void* to, const void* from, size_t bytes);
void cp_async_commit();
void cp_async_wait(int groups_in_flight);

// A shared array whose index is checked.
template <class T, size_t kSize>
class SharedArray {
 public:
  explicit SharedArray(const void* key, const Site& site)
      : data_(static_cast<T*>(shared(key, sizeof(T) * kSize))), site_(site) {}
  T& operator[](size_t i) const {
    if (i >= kSize)
      throw Error("shared array of " + std::to_string(kSize) + " elements (" + describe(site_) + "): index " +
                  std::to_string(int64_t(i)));
    return data_[i];
  }
  T* data() const { return data_; }

 private:
  T* data_;
  Site site_;
};

// One exchange between lanes: give a value, take the one of a lane.
template <class T>
struct Exchange {
  T give, take;
  int from;
};
template <class T>
FASTDL_UNINSTRUMENTED void exchange(void* const arguments[32]) {
  for (int lane = 0; lane < 32; ++lane) {
    auto* mine = static_cast<Exchange<T>*>(arguments[lane]);
    mine->take = static_cast<Exchange<T>*>(arguments[mine->from])->give;
  }
}
template <class T>
T shuffle_from(T value, int lane, const Site& site) {
  Exchange<T> e{value, value, lane};
  collective(&e, exchange<T>, site);
  return e.take;
}

}  // namespace emulation

#define threadIdx (::fastdl::emulation::here->thread)
#define blockIdx (::fastdl::emulation::here->block)
#define blockDim (::fastdl::emulation::here->block_dim)
#define gridDim (::fastdl::emulation::here->grid_dim)

// A template's or a function's own static gives each declaration one identity, as __shared__ does.
#define FASTDL_SHARED(T, name, size) \
  static const char name##_key = 0;  \
  const ::fastdl::emulation::SharedArray<T, size_t(size)> name(&name##_key, ::std::source_location::current())
#define FASTDL_DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(::fastdl::emulation::dynamic_shared())

template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, Stream,
            A&&... arguments) {
  std::tuple<P...> parameters(std::forward<A>(arguments)...);
  auto body = [&] { std::apply(kernel, parameters); };
  emulation::run(
      name, reinterpret_cast<const void*>(kernel), grid, block, shared_bytes,
      [](void* f) { (*static_cast<decltype(body)*>(f))(); }, &body);
}

inline int multiprocessors() {
  return emulation::device.multiprocessors;
}
inline int capability() {
  return emulation::device.capability;
}
inline int64_t shared_memory() {
  return emulation::device.shared;
}
inline void zero(void* to, size_t bytes, Stream) {
  std::memset(to, 0, bytes);
}

using emulation::Site;
}  // namespace fastdl

#include "cuda/emulation/cooperative.h"
#include "cuda/emulation/special_math.h"

namespace fastdl {

inline void sync_threads(const Site& site = Site::current()) {
  emulation::barrier(site);
}
inline void sync_warp(const Site& site = Site::current()) {
  emulation::warp_barrier(site);
}
inline void thread_fence() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
}
inline int lane_id() {
  return emulation::here->lane;
}

template <class T>
T shuffle_xor(T value, int mask, const Site& site = Site::current()) {
  return emulation::shuffle_from(value, lane_id() ^ mask, site);
}
template <class T>
T shuffle(T value, int lane, const Site& site = Site::current()) {
  return emulation::shuffle_from(value, lane & 31, site);
}
template <class T>
T shuffle_up(T value, int delta, const Site& site = Site::current()) {
  return emulation::shuffle_from(value, lane_id() >= delta ? lane_id() - delta : lane_id(), site);
}
inline uint32_t ballot(bool vote, const Site& site = Site::current()) {
  struct Vote {
    bool vote;
    uint32_t all;
  } v{vote, 0};
  emulation::collective(
      &v,
      [](void* const a[32]) FASTDL_UNINSTRUMENTED {
        uint32_t all = 0;
        for (int i = 0; i < 32; ++i) all |= uint32_t(static_cast<Vote*>(a[i])->vote) << i;
        for (int i = 0; i < 32; ++i) static_cast<Vote*>(a[i])->all = all;
      },
      site);
  return v.all;
}

template <class T>
T atomic_add(T* at, T value) {
  std::atomic_ref<T> ref(*at);
  if constexpr (std::is_floating_point_v<T>) {
    T old = ref.load();
    while (!ref.compare_exchange_weak(old, old + value)) {
    }
    return old;
  } else {
    return ref.fetch_add(value);
  }
}
inline int atomic_max(int* at, int value) {
  std::atomic_ref<int> ref(*at);
  int old = ref.load();
  while (old < value && !ref.compare_exchange_weak(old, value)) {
  }
  return old;
}
inline uint64_t atomic_cas(uint64_t* at, uint64_t expected, uint64_t desired) {
  std::atomic_ref<uint64_t>(*at).compare_exchange_strong(expected, desired);
  return expected;
}

inline float rounded_product(float a, float b) {
  return a * b;
}  // compiled for a target without FMA
inline double rounded_product(double a, double b) {
  return a * b;
}
inline int bits_of(uint32_t x) {
  return std::popcount(x);
}
inline uint32_t multiply_high(uint32_t a, uint32_t b) {
  return uint32_t(uint64_t(a) * b >> 32);
}

inline void opaque(int&) {}
inline float exp2_approximate(float x) {
  return std::exp2(x);
}
inline float reciprocal_approximate(float x) {
  return 1 / x;
}
inline void store_16(void* to, const void* from) {
  struct alignas(16) Words {
    uint32_t v[4];
  } words;
  memcpy(&words, from, sizeof(words));
  *static_cast<Words*>(to) = words;  // says where it is not aligned
}
inline float larger_or_nan(float a, float b) {
  return a >= b || a != a ? a : b;
}
inline float smaller_or_nan(float a, float b) {
  return a <= b || a != a ? a : b;
}

// 16 bytes from global to shared memory, there after the wait.
inline void cp_async_16(void* to, const void* from) {
  emulation::cp_async(to, from, 16);
}
alignas(16) inline constexpr uint64_t kZerosToCopy[2] = {0, 0};
inline void cp_async_16_or_zeros(void* to, const void* from, bool present) {
  emulation::demand_multiple("cp_async", from, 16);  // also of an address that is not read
  emulation::cp_async(to, present ? from : kZerosToCopy, 16);
}
inline void cp_async_8_or_zeros(void* to, const void* from, bool present) {
  emulation::demand_multiple("cp_async", from, 8);
  emulation::cp_async(to, present ? from : kZerosToCopy, 8);
}
inline void cp_async_4_or_zeros(void* to, const void* from, bool present) {
  emulation::demand_multiple("cp_async", from, 4);
  emulation::cp_async(to, present ? from : kZerosToCopy, 4);
}
inline void cp_async_16_or_zeros_cached(void* to, const void* from, bool present) {
  cp_async_16_or_zeros(to, from, present);
}
inline void cp_async_commit() {
  emulation::cp_async_commit();
}
template <int kInFlight>
void cp_async_wait() {
  emulation::cp_async_wait(kInFlight);
}

// Four 8x8 matrices of 16-bit elements; lanes 8i .. 8i + 7 give the addresses of matrix i's rows.
template <bool kTransposed>
void ldmatrix_x4(uint32_t (&to)[4], const void* row, const Site& site = Site::current()) {
  struct Load {
    const uint16_t* row;
    uint32_t* to;
  } load{static_cast<const uint16_t*>(row), to};
  emulation::demand_multiple("ldmatrix", row, 16);
  emulation::collective(
      &load,
      [](void* const a[32]) FASTDL_UNINSTRUMENTED {
        for (int m = 0; m < 4; ++m)
          for (int lane = 0; lane < 32; ++lane) {
            uint32_t pair = 0;
            for (int half = 0; half < 2; ++half) {
              const int r = kTransposed ? lane % 4 * 2 + half : lane / 4;
              const int c = kTransposed ? lane / 4 : lane % 4 * 2 + half;
              pair |= uint32_t(static_cast<Load*>(a[8 * m + r])->row[c]) << (16 * half);
            }
            static_cast<Load*>(a[lane])->to[m] = pair;
          }
      },
      site);
}

namespace emulation {

// d += a b for the fragments of mma.m16n8kK.row.col: a 16 x K, b K x 8, both with elements of kBits.
struct Product {
  float* d;
  const uint32_t *a, *b;
};
float widen_bf16(uint32_t bits);
float widen_fp16(uint32_t bits);
float widen_tf32(uint32_t bits);
// What a tensor core leaves of products and the accumulator, which it adds exactly or nearly so: it does not round to
// the nearest number but toward zero, so that errors of long sums do not cancel.
inline float cut(double sum) {
  const auto rounded = float(sum);
  return std::isfinite(rounded) && std::fabs(double(rounded)) > std::fabs(sum) ? std::nextafter(rounded, 0.0f)
                                                                               : rounded;
}
void mma(void* const products[32], int k, float (*widen)(uint32_t));

}  // namespace emulation

template <class T>
void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                  const Site& site = Site::current()) {
  static_assert(std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
  emulation::Product p{d, a, b};
  emulation::collective(
      &p,
      [](void* const products[32]) {
        emulation::mma(products, 16,
                       std::is_same_v<T, __half> ? emulation::widen_fp16 : emulation::widen_bf16);
      },
      site);
}
inline void mma_m16n8k8_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                             const Site& site = Site::current()) {
  emulation::Product p{d, a, b};
  emulation::collective(
      &p, [](void* const products[32]) { emulation::mma(products, 8, emulation::widen_tf32); }, site);
}
inline uint32_t to_tf32(float x) {  // round to nearest, ties away from zero, as cvt.rna does
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return (bits & 0x7F800000u) == 0x7F800000u ? bits : (bits + 0x1000u) & ~0x1FFFu;
}

}  // namespace fastdl
