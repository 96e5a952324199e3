// Inside the emulator: a block's threads as fibers on one host thread, and what they wait for together.
//
// Sanitizers are told about fibers: AddressSanitizer of each change of stack; ThreadSanitizer sees each CUDA
// thread as a fiber of its own without order between them, and barriers as release and acquire. What includes
// this must be compiled without ThreadSanitizer (it moves between stacks), but with FASTDL_TSAN to make those
// calls.
#pragma once

#include <sys/mman.h>

#include <array>
#include <cstdlib>
#include <exception>
#include <memory>
#include <random>
#include <vector>

#include "cuda/emulation/machine.h"

#ifdef FASTDL_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef FASTDL_TSAN
extern "C" {
void __tsan_func_entry(void* return_address);
void __tsan_func_exit();
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void __tsan_read_range(void* address, unsigned long bytes);
void __tsan_write_range(void* address, unsigned long bytes);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace fastdl::emulation {

#ifdef FASTDL_TSAN
// ThreadSanitizer's threads are slow to make, so that later blocks use them again: a block sees no race with
// the one three before it, but all with its neighbours.
constexpr size_t kStackBytes = 64 << 10, kTurnsOfStacks = 3;
#else
constexpr size_t kStackBytes = 256 << 10, kTurnsOfStacks = 1;
#endif
constexpr size_t kGuardBytes = 4096;
constexpr size_t kPlainShared = 48 << 10;  // what a kernel may have without asking
constexpr int kPoison = 0xFF;              // NaN in every floating-point format, -1 in integers

// An access that is not aligned as its type is: an error of the running thread.
void misaligned(const char* file, uint32_t line, const void* address, size_t alignment);

extern Order order_of_threads;
extern uint64_t order_seed;

// What a CUDA thread runs on, and to ThreadSanitizer a thread.
class Stack {
 public:
  Stack() {
    void* base = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<std::byte*>(base);
    mprotect(base_, kGuardBytes, PROT_NONE);  // an overflow is a fault, not a neighbour's wrong value
  }
  ~Stack() {
#ifdef FASTDL_TSAN
    __tsan_destroy_fiber(tsan_);
#endif
    munmap(base_, kStackBytes);
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  std::byte* base() const { return base_; }
  std::byte* top() const { return base_ + kStackBytes; }
#ifdef FASTDL_TSAN
  void* tsan() const { return tsan_; }
#endif

 private:
  std::byte* base_;
#ifdef FASTDL_TSAN
  void* tsan_ = __tsan_create_fiber(0);
#endif
};

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

constexpr size_t kCopiesInFlight = 256, kGroupsInFlight = 64;  // of a thread

enum class State { ready, waiting, done };

struct Fiber : Here {
  State state = State::ready;
  void* stack_pointer = nullptr;
  const Site* site = nullptr;  // where it waits
  const char* kind = "";       // for what
  void* argument = nullptr;
  const uint32_t* counter = nullptr;  // of a cooperative grid: what it waits for, and until when
  uint32_t awaited = 0;
  // Asynchronous copies: a ring of those under way, and where the committed groups end in it.
  Copy* copies = nullptr;
  size_t issued = 0, delivered = 0, committed = 0, waited = 0;
  std::array<size_t, kGroupsInFlight> ends;
  Stack* stack = nullptr;
};

inline bool same(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}
inline std::string name_of(const Fiber& f) {
  return "thread (" + std::to_string(f.thread.x) + ", " + std::to_string(f.thread.y) + ", " +
         std::to_string(f.thread.z) + ")";
}
inline std::string state_of(const Fiber& f) {
  if (f.state == State::done) return name_of(f) + " has left the kernel";
  return name_of(f) + " waits at the " + f.kind + " in " + describe(*f.site);
}

struct FreeAligned {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<std::byte, FreeAligned>;

inline Memory poisoned(size_t bytes) {
  // Exactly as large as asked for, so that AddressSanitizer sees the end. Aligned for tiles (hopper.h).
  void* p = nullptr;
  if (posix_memalign(&p, 1024, std::max<size_t>(bytes, 1)) != 0) throw std::bad_alloc();
#ifdef FASTDL_TSAN
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);  // no thread's doing
#endif
  std::memset(p, kPoison, bytes);
#ifdef FASTDL_TSAN
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
#endif
  return Memory(static_cast<std::byte*>(p));
}

struct Launch {
  const char* name;
  dim3 grid, block;
  size_t shared_bytes;
  void (*body)(void*);
  void* context;
  bool cooperative;
  // Threads come after what the host did before, the host after the threads, but no thread after another.
  mutable char started = 0, finished = 0;
};

// The fibers of one block at a time, on one host thread.
class Worker {
 public:
  // One of `together` that are alive at once.
  explicit Worker(const Launch& launch, size_t together = 1) : launch_(launch), together_(together) {
    const size_t threads = size_t(launch.block.x) * launch.block.y * launch.block.z;
    fibers_.resize(threads);
    order_.resize(threads);
    shared_.reserve(64);  // by the host, not by a thread
    copies_.reset(new Copy[threads * kCopiesInFlight]);
  }

  // Now the host comes after the threads, and may free what they used.
  ~Worker() { acquire(&launch_.finished); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  void run_block(uint64_t block);
  // The same in pieces, for blocks that take turns: a round lets every thread that can go on do so, and tells
  // whether there was one.
  void begin(uint64_t block);
  bool over() const { return done_ == fibers_.size() || error_ != nullptr; }
  bool failed() const { return error_ != nullptr; }
  void fail(std::exception_ptr error) { error_ = error; }
  // The running thread stops where it is, and the launch with it.
  [[noreturn]] void abandon(std::exception_ptr error);
  bool waits_for_counter() const;
  bool round();
  uint64_t late();
  void explain();
  void end();

  std::string name() const { return launch_.name; }
  static Worker* current() { return *slot(); }
  Fiber& fiber() { return *running_; }
  std::vector<Fiber>& fibers() { return fibers_; }
  size_t dynamic_bytes() const { return launch_.shared_bytes; }
  Hopper& hopper() {
    if (!hopper_) hopper_ = make_hopper();
    return *hopper_;
  }

  void wait(const char* kind, const Site& site) {
    Fiber& f = *running_;
    f.state = State::waiting;
    f.kind = kind;
    f.site = &site;
    to_scheduler(false);
  }

  void barrier(const Site& site) {
    same_site(barrier_site_, site, "barrier", &fibers_[0], fibers_.size());
    release(this);
    barrier_site_ = &site;
    if (++at_barrier_ == fibers_.size()) {
      at_barrier_ = 0;
      barrier_site_ = nullptr;
      for (Fiber& f : fibers_) f.state = State::ready;
      running_->state = State::ready;
      to_scheduler(false);  // in the order asked for, not the last one first
    } else {
      wait("barrier", site);
    }
    acquire(this);
  }

  void collective(void* argument, void (*work)(void* const[32]), const Site& site) {
    Fiber* const warp = running_ - running_->lane;
    Gathering& g = gatherings_[size_t(warp - fibers_.data()) / 32];
    same_site(g.site, site, "warp operation", warp, 32);
    g.site = &site;
    running_->argument = argument;
    if (++g.arrived < 32) return wait("warp operation", site);
    void* arguments[32];
    for (int lane = 0; lane < 32; ++lane) arguments[lane] = warp[lane].argument;
    work(arguments);
    g = {};
    for (int lane = 0; lane < 32; ++lane) warp[lane].state = State::ready;
  }

  void wait_for(const uint32_t* counter, uint32_t count, const Site& site) {
    if (!launch_.cooperative)
      throw Error(std::string(launch_.name) + ": wait_for in " + describe(site) +
                  " needs launch_cooperative");
    running_->counter = counter;
    running_->awaited = count;
    if (!reached(*running_)) wait("counter", site);
    running_->counter = nullptr;
    acquire(const_cast<uint32_t*>(counter));
  }

  // A collective that also orders the warp's accesses to memory, as shuffles and votes do not.
  void warp_barrier(const Site& site) {
    void* const order = &gatherings_[size_t(running_ - fibers_.data()) / 32];
    release(order);
    collective(nullptr, [](void* const*) {}, site);
    acquire(order);
  }

  void* shared(const void* key, size_t bytes) {
    auto found =
        std::find_if(shared_.begin(), shared_.end(), [key](const auto& s) { return s.first == key; });
    if (found == shared_.end()) {
      static_bytes_ += bytes;
      if (static_bytes_ + launch_.shared_bytes > size_t(device.shared))
        throw Error(std::string(launch_.name) + ": " + std::to_string(static_bytes_ + launch_.shared_bytes) +
                    " bytes of static and dynamic shared memory, but the device's blocks may have " +
                    std::to_string(device.shared));
      if (launch_.shared_bytes <= kPlainShared && static_bytes_ + launch_.shared_bytes > kPlainShared)
        throw Error(std::string(launch_.name) +
                    ": static and dynamic shared memory together are more than 48 KiB, which launch() asks "
                    "for by the dynamic size alone");
      shared_.emplace_back(key, poisoned(bytes));
      found = shared_.end() - 1;
      release(found->second.get());
    }
    acquire(
        found->second.get());  // to ThreadSanitizer allocation is a write: it comes before everything else
    return found->second.get();
  }
  void* dynamic_shared() { return dynamic_.get(); }

 private:
  struct Gathering {
    int arrived = 0;
    const Site* site = nullptr;
  };

  static Worker** slot() {
    thread_local Worker* worker = nullptr;
    return &worker;
  }
  // The stack of a thread of the running block.
  std::unique_ptr<Stack>& stack(size_t thread) const {
    thread_local std::vector<std::unique_ptr<Stack>> stacks;
    const size_t at = block_ % (together_ * kTurnsOfStacks) * fibers_.size() + thread;
    if (stacks.size() <= at) stacks.resize(at + 1);
    if (!stacks[at]) stacks[at] = std::make_unique<Stack>();
    return stacks[at];
  }

  // A group of threads must meet at one place.
  void same_site(const Site* first, const Site& site, const char* kind, const Fiber* group, size_t count) {
    if (first == nullptr || same(*first, site)) return;
    for (size_t i = 0; i < count; ++i)
      if (group[i].state == State::waiting && group[i].site == first)
        throw Error(std::string(launch_.name) + ": divergent " + kind + ": " + state_of(group[i]) + ", " +
                    name_of(*running_) + " came to the one in " + describe(site));
  }

  static bool reached(const Fiber& f) {
    return int32_t(__atomic_load_n(f.counter, __ATOMIC_RELAXED) - f.awaited) >= 0;
  }
  [[noreturn]] void deadlock();
  [[noreturn]] void stuck();
  void to_scheduler(bool last);
  void switch_to(Fiber& f);
  static void entry();

  const Launch& launch_;
  const size_t together_;
  uint64_t block_ = 0;
  size_t done_ = 0;
  std::mt19937_64 random_;
  std::vector<Fiber> fibers_;
  std::vector<uint32_t> order_;
  std::vector<Gathering> gatherings_;
  std::vector<std::pair<const void*, Memory>> shared_;
  size_t static_bytes_ = 0;  // of those
  std::unique_ptr<Copy[]> copies_;
  std::vector<Memory> retired_;
  Memory dynamic_;
  Fiber* running_ = nullptr;
  size_t at_barrier_ = 0;
  const Site* barrier_site_ = nullptr;
  std::exception_ptr error_;
  HopperOfBlock hopper_;
  void* scheduler_stack_ = nullptr;
#ifdef FASTDL_ASAN
  void* scheduler_fake_ = nullptr;
  const void* scheduler_bottom_ = nullptr;
  size_t scheduler_size_ = 0;
#endif
#ifdef FASTDL_TSAN
  void* scheduler_tsan_ = __tsan_get_current_fiber();
#endif
};

}  // namespace fastdl::emulation
