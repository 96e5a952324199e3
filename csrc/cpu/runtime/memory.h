// The caching allocator under every array that fastdl makes. Fresh pages cost ten to thirty times more than
// the arithmetic on them, so freed blocks are kept and handed out again. Blocks are 64-byte aligned; large
// ones are mapped on their own, with huge pages advised. Thread-safe. Idle memory is bounded by a limit.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastdl::memory {

void* allocate(size_t bytes);    // never null: throws std::bad_alloc. Contents are undefined.
void deallocate(void* pointer);  // a pointer from allocate, from any thread

struct Stats {
  uint64_t in_use, in_use_peak;  // bytes handed out now, and their maximum since the last reset
  uint64_t cached;               // bytes kept for reuse
  uint64_t cache_limit;          // cached never exceeds it
  uint64_t allocations, reused;  // calls of allocate, and how many needed no system call
  uint64_t guard_errors;         // blocks found overwritten beyond their ends (guard mode only)
};
Stats stats();
void reset_peak();
void set_cache_limit(uint64_t bytes);
void empty_cache();
void set_guard(
    bool on);  // tests: blocks allocated from now on carry guard bytes at both ends, checked when freed

// A typed scratch array for the length of a scope.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t count) : data_(count ? static_cast<T*>(allocate(count * sizeof(T))) : nullptr) {}
  ~Buffer() {
    if (data_) deallocate(data_);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  operator T*() const { return data_; }
  T* get() const { return data_; }

 private:
  T* data_;
};

}  // namespace fastdl::memory
