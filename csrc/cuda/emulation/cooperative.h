// Cooperative launches and clusters under emulation: blocks that are alive at once and wait for each other.
// Part of emulator.h.
#pragma once

namespace fastdl {
namespace emulation {

constexpr int kResidentBlocks = 8;  // few, so that small tests find grids that do not fit

int64_t cooperative_launches();  // so far

// A thread that waits for a counter gives way to all others of all blocks; if none can go on, that is an
// error.
void signal(uint32_t* counter);
void wait_for(const uint32_t* counter, uint32_t count, const Site& site);

constexpr int kLargestCluster = 4;
// Runs a grid cluster by cluster.
void run_clusters(const char* name, const void* kernel, int blocks, dim3 grid, dim3 block,
                  size_t shared_bytes, void (*body)(void*), void* context);
void cluster_sync(const Site& site);
// Stores arrive later, one by one and in any order; an inbox counts the exchanges that are over.
void inbox_begin(void* inbox);
void inbox_expect(void* inbox, uint32_t bytes, const Site& site);
void inbox_wait(const void* inbox, uint32_t n, const Site& site);
void store_in_cluster(void* to, const void* from, uint32_t bytes, int block, void* inbox);

}  // namespace emulation

template <class... P, class... A>
void launch_cooperative(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                        Stream, A&&... arguments) {
  std::tuple<P...> parameters(std::forward<A>(arguments)...);
  auto body = [&] { std::apply(kernel, parameters); };
  emulation::run(
      name, reinterpret_cast<const void*>(kernel), grid, block, shared_bytes,
      [](void* f) { (*static_cast<decltype(body)*>(f))(); }, &body, true);
}
template <class... P>
int resident_blocks(void (*)(P...), int, size_t) {
  return emulation::kResidentBlocks;
}

template <class... P, class... A>
void launch_clusters(const char* name, void (*kernel)(P...), int blocks, dim3 grid, dim3 block,
                     size_t shared_bytes, Stream stream, A&&... arguments) {
  if (blocks == 1)
    return launch(name, kernel, grid, block, shared_bytes, stream, std::forward<A>(arguments)...);
  std::tuple<P...> parameters(std::forward<A>(arguments)...);
  auto body = [&] { std::apply(kernel, parameters); };
  emulation::run_clusters(
      name, reinterpret_cast<const void*>(kernel), blocks, grid, block, shared_bytes,
      [](void* f) { (*static_cast<decltype(body)*>(f))(); }, &body);
}
template <class... P>
int largest_cluster(void (*)(P...)) {
  return capability() == 90 && emulation::device.compiled_for >= 90 ? emulation::kLargestCluster : 1;
}
template <class... P>
int resident_clusters(void (*)(P...), int blocks, int, size_t) {
  return emulation::kResidentBlocks / blocks;
}
inline void cluster_sync(const Site& site = Site::current()) {
  emulation::cluster_sync(site);
}
inline void inbox_begin(uint64_t* inbox) {
  emulation::inbox_begin(inbox);
}
inline void inbox_expect(uint64_t* inbox, uint32_t bytes, const Site& site = Site::current()) {
  emulation::inbox_expect(inbox, bytes, site);
}
inline void inbox_wait(uint64_t* inbox, uint32_t n, const Site& site = Site::current()) {
  emulation::inbox_wait(inbox, n, site);
}
template <class T>
void store_in_cluster(T* place, int block, T value, uint64_t* inbox) {
  emulation::store_in_cluster(place, &value, sizeof(T), block, inbox);
}

inline void signal(uint32_t* counter) {
  emulation::signal(counter);
}
inline void wait_for(const uint32_t* counter, uint32_t count, const Site& site = Site::current()) {
  emulation::wait_for(counter, count, site);
}

}  // namespace fastdl
