// Cooperative launches under emulation: blocks that are alive at once and wait for each other. Part of
// emulator.h.
#pragma once

namespace fastdl {
namespace emulation {

constexpr int kResidentBlocks = 8;  // few, so that small tests find grids that do not fit

int64_t cooperative_launches();  // so far

// A thread that waits for a counter gives way to all others of all blocks; if none can go on, that is an
// error.
void signal(uint32_t* counter);
void wait_for(const uint32_t* counter, uint32_t count, const Site& site);

}  // namespace emulation

template <class... P, class... A>
void launch_cooperative(const char* name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes,
                        Stream, A&&... arguments) {
  std::tuple<P...> parameters(std::forward<A>(arguments)...);
  auto body = [&] { std::apply(kernel, parameters); };
  emulation::run(
      name, grid, block, shared_bytes, [](void* f) { (*static_cast<decltype(body)*>(f))(); }, &body, true);
}
template <class... P>
int resident_blocks(void (*)(P...), int, size_t) {
  return emulation::kResidentBlocks;
}

inline void signal(uint32_t* counter) {
  emulation::signal(counter);
}
inline void wait_for(const uint32_t* counter, uint32_t count, const Site& site = Site::current()) {
  emulation::wait_for(counter, count, site);
}

}  // namespace fastdl
