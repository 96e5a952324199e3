// Blocks live in size classes: eight per power of two, so that rounding up wastes at most an eighth. A freed
// block goes to its class's list and is reused as a whole, by arrays of its class or a little smaller, so
// that work whose sizes vary settles on a set of blocks; nothing is split or merged. What is cached beyond
// the most that was ever in use goes back to the system, the classes unused for longest first. A 64-byte
// header in front of each block holds its class and its size. Classes of 2 MiB and more are mapped
// separately, aligned to huge pages, with the data starting a varying number of cache lines in: arrays of
// equal size would otherwise all start at the same offset modulo 4096 and fight for the same cache sets. In a
// build with AddressSanitizer, cached blocks and what is left of a block behind the bytes asked for may not
// be touched.
#include "cpu/runtime/memory.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <thread>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
constexpr bool kMarked = true;
#else
constexpr bool kMarked = false;
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

namespace fastdl::memory {
namespace {

constexpr size_t kAlign = 64, kHugePage = size_t{2} << 20;
constexpr int kClasses = 48 * 8;
constexpr int kFit = 4;  // a block of up to four classes more, half as large again, is taken before a new one
constexpr uint64_t kAlwaysCached = uint64_t{256} << 20;  // less is not worth giving back
constexpr size_t kFrontGuard = 16, kBackGuard = 64;
constexpr unsigned char kGuardByte = 0xA5;
constexpr size_t kMostMarked = size_t{1} << 20;  // more would take time

struct Header {
  Header* next;      // in a free list
  void* mapping;     // start of the block as the system gave it
  size_t capacity;   // bytes of the class
  size_t requested;  // bytes asked for
  int32_t size_class;
  bool guarded;
  size_t counted;                          // bytes of the class asked for, of which in_use tells
  unsigned char front_guard[kFrontGuard];  // ends where the data begins
};
static_assert(sizeof(Header) == kAlign);

class SpinLock {
 public:
  void lock() {
    while (flag_.exchange(true, std::memory_order_acquire)) std::this_thread::yield();
  }
  void unlock() { flag_.store(false, std::memory_order_release); }

 private:
  std::atomic<bool> flag_{false};
};

struct State {
  SpinLock lock;
  Header* free_lists[kClasses] = {};
  uint64_t touched[kClasses] = {};  // when a list was last used, counted in allocations
  uint64_t most_in_use = 0;         // since the start or the last empty_cache
  Stats stats{};
  bool guard = false;
  unsigned colour = 0;
};
constinit State g;

struct Locked {
  Locked() { g.lock.lock(); }
  ~Locked() { g.lock.unlock(); }
};

// Class index and capacity for a size: 64, 128, ... 512 in steps of 64, then eight steps per doubling.
int class_of(size_t bytes, size_t& capacity) {
  bytes = std::max(bytes, kAlign);
  if (bytes <= 512) {
    const size_t units = (bytes + kAlign - 1) / kAlign;
    capacity = units * kAlign;
    return int(units) - 1;
  }
  const int power = std::bit_width(bytes - 1) - 1;  // 2^power < bytes <= 2^(power+1)
  const size_t step = size_t{1} << (power - 3);
  const size_t units = (bytes - (size_t{1} << power) + step - 1) / step;  // 1..8
  capacity = (size_t{1} << power) + units * step;
  return 8 + (power - 9) * 8 + int(units) - 1;
}

uint64_t memory_of_this_machine() {
  uint64_t total = uint64_t(sysconf(_SC_PHYS_PAGES)) * uint64_t(sysconf(_SC_PAGESIZE));
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    if (FILE* file = std::fopen(path, "r")) {
      unsigned long long limit = 0;
      if (std::fscanf(file, "%llu", &limit) == 1 && limit > 0) total = std::min<uint64_t>(total, limit);
      std::fclose(file);
      break;
    }
  }
  return total;
}

uint64_t default_cache_limit() {
  if (const char* text = std::getenv("FASTDL_CACHE_LIMIT_MB")) {
    char* end = nullptr;
    const unsigned long long mb = std::strtoull(text, &end, 10);
    if (end != text) return uint64_t(mb) << 20;
  }
  return memory_of_this_machine() / 4;
}

bool is_mapped(size_t capacity) {
  return capacity >= kHugePage;
}
size_t mapping_bytes(size_t capacity) {
  return (capacity + 4096 + kHugePage - 1) / kHugePage * kHugePage;
}

Header* from_system(size_t capacity, int size_class, unsigned colour) {
  void* start;
  size_t offset = 0;
  if (is_mapped(capacity)) {
    const size_t bytes = mapping_bytes(capacity);
    // Over-map by one huge page and return the unaligned ends, so that the block can be backed by huge pages.
    char* raw = static_cast<char*>(
        mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (raw == MAP_FAILED) return nullptr;
    char* aligned = reinterpret_cast<char*>((uintptr_t(raw) + kHugePage - 1) / kHugePage * kHugePage);
    if (aligned > raw) munmap(raw, size_t(aligned - raw));
    const size_t tail = size_t(raw + bytes + kHugePage - (aligned + bytes));
    if (tail) munmap(aligned + bytes, tail);
#if defined(MADV_HUGEPAGE)
    madvise(aligned, bytes, MADV_HUGEPAGE);
#endif
    start = aligned;
    offset = size_t(colour % 16) * 3 * kAlign;
  } else {
    start = std::aligned_alloc(kAlign, sizeof(Header) + capacity);
    if (!start) return nullptr;
  }
  auto* header = reinterpret_cast<Header*>(static_cast<char*>(start) + offset);
  header->mapping = start;
  header->capacity = capacity;
  header->size_class = size_class;
  return header;
}

void to_system(Header* header) {
  ASAN_UNPOISON_MEMORY_REGION(header + 1, header->capacity);
  if (is_mapped(header->capacity))
    munmap(header->mapping, mapping_bytes(header->capacity));
  else
    std::free(header->mapping);
}

// A cached block for this class, or null. The lists of the next larger classes are tried, too, but for the
// smallest blocks, whose classes are further apart.
Header* take(int size_class) {
  const int most = size_class < 8 ? size_class : std::min(size_class + kFit, kClasses - 1);
  for (int c = size_class; c <= most; ++c)
    if (Header* header = g.free_lists[c]) {
      g.free_lists[c] = header->next;
      g.touched[c] = g.stats.allocations;
      g.stats.cached -= header->capacity;
      return header;
    }
  return nullptr;
}

// Takes blocks out of the cache until at most `bytes` are left, lists that were not used for longest first;
// the caller gives them back to the system outside the lock.
Header* shrink(uint64_t bytes) {
  Header* all = nullptr;
  while (g.stats.cached > bytes) {
    int oldest = -1;
    for (int c = 0; c < kClasses; ++c)
      if (g.free_lists[c] && (oldest < 0 || g.touched[c] < g.touched[oldest])) oldest = c;
    while (Header* header = g.free_lists[oldest]) {
      g.free_lists[oldest] = header->next;
      header->next = all;
      all = header;
      g.stats.cached -= header->capacity;
    }
  }
  return all;
}

uint64_t cache_limit() {
  if (g.stats.cache_limit == 0) g.stats.cache_limit = default_cache_limit();
  return std::min(g.stats.cache_limit, std::max(kAlwaysCached, g.most_in_use));
}

void release_all(Header* list) {
  while (list) {
    Header* next = list->next;
    to_system(list);
    list = next;
  }
}

bool is_intact(const unsigned char* guard, size_t bytes) {
  return std::all_of(guard, guard + bytes, [](unsigned char byte) { return byte == kGuardByte; });
}

// After fork the child owns copies of all blocks; only the lock may have been held by a thread that is gone.
[[maybe_unused]] const int g_at_fork =
    pthread_atfork([] { g.lock.lock(); }, [] { g.lock.unlock(); }, [] { g.lock.unlock(); });

}  // namespace

void* allocate(size_t bytes) {
  if (bytes > (size_t{1} << 46)) throw std::bad_alloc();
  Header* header = nullptr;
  size_t capacity;
  int size_class;
  bool guard;
  unsigned colour;
  {
    Locked locked;
    guard = g.guard;
    size_class = class_of(bytes + (guard ? kBackGuard : 0), capacity);
    ++g.stats.allocations;
    header = take(size_class);
    if (header) ++g.stats.reused;
    g.stats.in_use += capacity;
    g.stats.in_use_peak = std::max(g.stats.in_use_peak, g.stats.in_use);
    colour = g.colour++;
  }
  if (!header) {
    header = from_system(capacity, size_class, colour);
    if (!header) {  // out of memory: give the cache back and try once more
      empty_cache();
      header = from_system(capacity, size_class, colour);
    }
    if (!header) {
      Locked locked;
      g.stats.in_use -= capacity;
      throw std::bad_alloc();
    }
  }
  header->requested = bytes;
  header->counted = capacity;
  header->guarded = guard;
  auto* data = reinterpret_cast<unsigned char*>(header + 1);
  ASAN_UNPOISON_MEMORY_REGION(data, header->capacity);
  if (guard) {
    std::memset(header->front_guard, kGuardByte, kFrontGuard);
    std::memset(data + bytes, kGuardByte, kBackGuard);
  }
  ASAN_POISON_MEMORY_REGION(data + bytes, header->capacity - bytes);
  // For the sanitizers: what was never written is NaN, and as integers of 4 and of 8 bytes often the greatest one, to
  // which nothing can be added. Else it depends on earlier calls whether somebody notices that it was read.
  for (size_t i = 0; kMarked && i < std::min(bytes, kMostMarked) / 8; ++i)
    reinterpret_cast<uint64_t*>(data)[i] = i % 2 ? 0x7fffffffffffffff : 0x7fffffff7fffffff;
  return data;
}

void deallocate(void* pointer) {
  if (!pointer) return;
  auto* data = static_cast<unsigned char*>(pointer);
  Header* header = reinterpret_cast<Header*>(data) - 1;
  ASAN_UNPOISON_MEMORY_REGION(data, header->capacity);
  const bool intact = !header->guarded || (is_intact(header->front_guard, kFrontGuard) &&
                                           is_intact(data + header->requested, kBackGuard));
  ASAN_POISON_MEMORY_REGION(data, header->capacity);
  Header* excess = nullptr;
  {
    Locked locked;
    g.most_in_use = std::max(g.most_in_use, g.stats.in_use);
    g.stats.in_use -= header->counted;
    if (!intact) ++g.stats.guard_errors;
    const uint64_t limit = cache_limit();
    if (header->capacity > limit) {
      header->next = nullptr;
      excess = header;
    } else {
      // Well below the limit, so that the next blocks do not each give back one.
      if (g.stats.cached + header->capacity > limit) excess = shrink((limit - header->capacity) / 4 * 3);
      header->next = g.free_lists[header->size_class];
      g.free_lists[header->size_class] = header;
      g.touched[header->size_class] = g.stats.allocations;
      g.stats.cached += header->capacity;
    }
  }
  release_all(excess);
}

Stats stats() {
  Locked locked;
  if (g.stats.cache_limit == 0) g.stats.cache_limit = default_cache_limit();
  return g.stats;
}

void reset_peak() {
  Locked locked;
  g.stats.in_use_peak = g.stats.in_use;
}

void set_cache_limit(uint64_t bytes) {
  Header* all;
  {
    Locked locked;
    g.stats.cache_limit = std::max<uint64_t>(bytes, 1);
    all = shrink(bytes);
  }
  release_all(all);
}

void empty_cache() {
  Header* all;
  {
    Locked locked;
    all = shrink(0);
    g.most_in_use = g.stats.in_use;
  }
  release_all(all);
}

void set_guard(bool on) {
  Locked locked;
  g.guard = on;
}

}  // namespace fastdl::memory
