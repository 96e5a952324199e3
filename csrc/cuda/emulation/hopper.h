// hopper.h for the host compiler: what bulk copies, barriers in shared memory and wgmma do, later than a
// kernel may hope for and with everything checked that a GPU would not report (hopper.cpp).
#pragma once

#include "cuda/emulation/emulator.h"

#define FASTDL_GRID_CONSTANT
#define FASTDL_TILES_SHARED(name) \
  unsigned char* const name = static_cast<unsigned char*>(::fastdl::emulation::dynamic_shared())

namespace fastdl {

constexpr bool kHopperCode = true;

struct Barrier {
  uint64_t word;
};

struct TensorMap {
  std::byte* data;
  int64_t sizes[5], strides[4];  // elements; bytes of axes 1 ..
  uint16_t box[5];
  uint8_t rank, bytes, swizzled;  // axes, of an element, bool
};
static_assert(sizeof(TensorMap) <= 128);

namespace emulation {

enum class Number : int { float16, bfloat16, tf32, byte };  // bytes: of maps only

void barrier_init(Barrier& barrier, int arrivals, const Site& site);
void barrier_init_fence();
void barrier_arrive(Barrier& barrier, uint32_t bytes, const Site& site);
void barrier_wait(Barrier& barrier, uint32_t parity, const Site& site);
void named_barrier(int id, int threads, bool waits, const Site& site);
void registers(int count, bool more, const Site& site);
void bulk_load(void* to, const TensorMap& map, const int* at, int rank, Barrier& barrier, const Site& site);
void bulk_store(const TensorMap& map, const void* from, const int* at, int rank, const Site& site);
void bulk_store(void* to, const void* from, uint32_t bytes, bool adds, const Site& site);
void bulk_commit();
void bulk_wait(int in_flight);
void turn_wait(const uint32_t& turn, uint32_t mine, const Site& site);
void turn_pass(uint32_t& turn, uint32_t next);
uint32_t tile_offset(const void* shared);
struct Wgmma {
  Number number;
  int columns;
  bool across_a, across_b, accumulate;
  const uint32_t* registers;  // a, or null
  uint64_t a, b;
};
void wgmma(float* d, const Wgmma& product, const Site& site);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int in_flight, const Site& site);

}  // namespace emulation

inline void barrier_init(Barrier& barrier, int arrivals, const Site& site = Site::current()) {
  emulation::barrier_init(barrier, arrivals, site);
}
inline void barrier_init_fence() {
  emulation::barrier_init_fence();
}
inline void barrier_expect(Barrier& barrier, uint32_t bytes, const Site& site = Site::current()) {
  emulation::barrier_arrive(barrier, bytes, site);
}
inline void barrier_arrive(Barrier& barrier, const Site& site = Site::current()) {
  emulation::barrier_arrive(barrier, 0, site);
}
inline bool barrier_wait(Barrier& barrier, uint32_t parity, const Site& site = Site::current()) {
  emulation::barrier_wait(barrier, parity, site);
  return true;
}
inline void sync_named(int id, int threads, const Site& site = Site::current()) {
  emulation::named_barrier(id, threads, true, site);
}
inline void arrive_named(int id, int threads, const Site& site = Site::current()) {
  emulation::named_barrier(id, threads, false, site);
}
inline void fence_async_shared() {}
template <int kCount>
void registers_more(const Site& site = Site::current()) {
  static_assert(kCount % 8 == 0 && kCount >= 24 && kCount <= 256);
  emulation::registers(kCount, true, site);
}
template <int kCount>
void registers_fewer(const Site& site = Site::current()) {
  static_assert(kCount % 8 == 0 && kCount >= 24 && kCount <= 256);
  emulation::registers(kCount, false, site);
}

template <int kRank>
void bulk_load(void* to, const TensorMap& map, const int (&at)[kRank], Barrier& barrier,
               const Site& site = Site::current()) {
  emulation::bulk_load(to, map, at, kRank, barrier, site);
}
template <int kRank>
void bulk_store(const TensorMap& map, const void* from, const int (&at)[kRank],
                const Site& site = Site::current()) {
  emulation::bulk_store(map, from, at, kRank, site);
}
inline void bulk_store(void* to, const void* from, uint32_t bytes, const Site& site = Site::current()) {
  emulation::bulk_store(to, from, bytes, false, site);
}
inline void bulk_add(float* to, const float* from, uint32_t bytes, const Site& site = Site::current()) {
  emulation::bulk_store(to, from, bytes, true, site);
}
inline bool turn_wait(const uint32_t& turn, uint32_t mine, const Site& site = Site::current()) {
  emulation::turn_wait(turn, mine, site);
  return true;
}
inline void turn_pass(uint32_t& turn, uint32_t next) {
  emulation::turn_pass(turn, next);
}
inline void bulk_commit() {
  emulation::bulk_commit();
}
template <int kInFlight>
void bulk_wait() {
  emulation::bulk_wait(kInFlight);
}
template <int kInFlight>
void bulk_wait_read() {
  emulation::bulk_wait(kInFlight);
}
inline void bulk_prefetch(const TensorMap&) {}

inline void wgmma_fence() {
  emulation::wgmma_fence();
}
inline void wgmma_commit() {
  emulation::wgmma_commit();
}
template <int kInFlight>
void wgmma_wait(const Site& site = Site::current()) {
  emulation::wgmma_wait(kInFlight, site);
}
template <int kCount>
void wgmma_touch(float (&)[kCount]) {}
inline void wgmma_touch(uint32_t (&)[4]) {}

namespace hopper {

template <class T>
constexpr emulation::Number element_type() {
  if constexpr (std::is_same_v<T, __half>) return emulation::Number::float16;
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return emulation::Number::bfloat16;
  if constexpr (std::is_same_v<T, float>) return emulation::Number::tf32;
  if constexpr (std::is_same_v<T, uint8_t>) return emulation::Number::byte;
}
inline uint32_t tile_offset(const void* shared) {
  return emulation::tile_offset(shared);
}

}  // namespace hopper

template <class T, int N, bool kAcrossA = false, bool kAcrossB = false>
void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate, const Site& site = Site::current()) {
  static_assert(N == 32 || N == 64 || N == 96 || N == 128 || N == 192 || N == 256);
  static_assert(!std::is_same_v<T, float> || (!kAcrossA && !kAcrossB));
  emulation::wgmma(d, {hopper::element_type<T>(), N, kAcrossA, kAcrossB, accumulate, nullptr, a, b}, site);
}
template <class T, int N, bool kAcrossB = false>
void wgmma(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate,
           const Site& site = Site::current()) {
  static_assert(N == 32 || N == 64 || N == 96 || N == 128 || N == 192 || N == 256);
  static_assert(std::is_same_v<T, __half> || std::is_same_v<T, __nv_bfloat16>);
  emulation::wgmma(d, {hopper::element_type<T>(), N, false, kAcrossB, accumulate, a, 0, b}, site);
}

inline TensorMap make_tensor_map(emulation::Number number, const void* data, int rank, const int64_t* sizes,
                                 const int64_t* strides_bytes, const int* box, Swizzle swizzle) {
  TensorMap map{};
  map.data = static_cast<std::byte*>(const_cast<void*>(data));
  map.rank = uint8_t(rank);
  map.bytes = number == emulation::Number::tf32 ? 4 : number == emulation::Number::byte ? 1 : 2;
  map.swizzled = swizzle == Swizzle::bytes128;
  for (int i = 0; i < rank; ++i) {
    map.sizes[i] = sizes[i];
    map.box[i] = uint16_t(box[i]);
    if (i > 0) map.strides[i - 1] = strides_bytes[i - 1];
  }
  return map;
}

// Waits are not bounded here: threads that all wait are an error.
inline void hopper_trial_begin() {}
inline bool hopper_trial_end(Stream) {
  return true;
}

}  // namespace fastdl
