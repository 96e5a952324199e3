// The emulator's machinery: fibers, blocks, collectives. See emulator.h.
//
// Sanitizers are told about fibers: AddressSanitizer of each change of stack; ThreadSanitizer sees each CUDA
// thread as a fiber of its own without order between them, and barriers as release and acquire. This file
// itself must be compiled without ThreadSanitizer (it moves between stacks), but with FASTDL_TSAN to make
// those calls.
#include "cuda/emulation/machine.h"

#include <sys/mman.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

#ifdef FASTDL_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef FASTDL_TSAN
extern "C" {
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

#ifndef __x86_64__
#error "the emulation of CUDA switches fibers by hand, which is written for x86-64 only"
#endif

// Saves the callee's registers on this stack and its pointer in *save, then goes on where `to` was saved.
extern "C" void fastdl_switch_stack(void** save, void* to);
asm(R"(
.text
.p2align 4
.type fastdl_switch_stack, @function
fastdl_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size fastdl_switch_stack, .-fastdl_switch_stack
)");

namespace fastdl::emulation {

thread_local const Here* here = nullptr;

void acquire([[maybe_unused]] void* address) {
#ifdef FASTDL_TSAN
  __tsan_acquire(address);
#endif
}
void release([[maybe_unused]] void* address) {
#ifdef FASTDL_TSAN
  __tsan_release(address);
#endif
}
void will_read([[maybe_unused]] const void* from, [[maybe_unused]] size_t bytes) {
#ifdef FASTDL_TSAN
  __tsan_read_range(const_cast<void*>(from), bytes);
#endif
}
void will_write([[maybe_unused]] void* to, [[maybe_unused]] size_t bytes) {
#ifdef FASTDL_TSAN
  __tsan_write_range(to, bytes);
#endif
}

#ifdef FASTDL_TSAN
Unseen::Unseen() {
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
}
Unseen::~Unseen() {
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
}
#else
Unseen::Unseen() = default;
Unseen::~Unseen() = default;
#endif

namespace {

#ifdef FASTDL_TSAN
constexpr size_t kStackBytes = 64 << 10;  // mapped anew for each block
#else
constexpr size_t kStackBytes = 256 << 10;
#endif
constexpr size_t kGuardBytes = 4096;
constexpr size_t kPlainShared = 48 << 10;  // what a kernel may have without asking
constexpr int kPoison = 0xFF;              // NaN in every floating-point format, -1 in integers

Order order_of_threads = Order::ascending;
uint64_t order_seed = 0;

class Stack {
 public:
  Stack() {
    void* base = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED) throw std::bad_alloc();
    base_ = static_cast<std::byte*>(base);
    mprotect(base_, kGuardBytes, PROT_NONE);  // an overflow is a fault, not a neighbour's wrong value
  }
  ~Stack() { munmap(base_, kStackBytes); }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  // Fresh memory at the same place: to ThreadSanitizer the next thread's, ordered after no earlier one.
  void renew() {
    mmap(base_ + kGuardBytes, kStackBytes - kGuardBytes, PROT_READ | PROT_WRITE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  }
  std::byte* base() const { return base_; }
  std::byte* top() const { return base_ + kStackBytes; }

 private:
  std::byte* base_;
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
  void* tsan = nullptr;
};

bool same(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}
std::string name_of(const Fiber& f) {
  return "thread (" + std::to_string(f.thread.x) + ", " + std::to_string(f.thread.y) + ", " +
         std::to_string(f.thread.z) + ")";
}
std::string state_of(const Fiber& f) {
  if (f.state == State::done) return name_of(f) + " has left the kernel";
  return name_of(f) + " waits at the " + f.kind + " in " + describe(*f.site);
}

struct FreeAligned {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<std::byte, FreeAligned>;

Memory poisoned(size_t bytes) {
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
  explicit Worker(const Launch& launch, size_t first_stack = 0) : launch_(launch), first_stack_(first_stack) {
    const size_t threads = size_t(launch.block.x) * launch.block.y * launch.block.z;
    fibers_.resize(threads);
    while (stacks().size() < first_stack + threads) stacks().push_back(std::make_unique<Stack>());
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
  bool waits_for_counter() const;
  bool round();
  uint64_t late();
  void explain();
  void end();

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
  static std::vector<std::unique_ptr<Stack>>& stacks() {
    thread_local std::vector<std::unique_ptr<Stack>> stacks;
    return stacks;
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
  const size_t first_stack_;
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

void Worker::entry() {
  Worker& w = *current();
#ifdef FASTDL_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &w.scheduler_bottom_, &w.scheduler_size_);
#endif
  acquire(&w.launch_.started);
  try {
    w.launch_.body(w.launch_.context);
    if (w.fiber().delivered < w.fiber().issued) {  // a copy that nobody waited for arrives all the same
      cp_async_commit();
      cp_async_wait(0);
    }
    if (w.hopper_) hopper_leave_thread(*w.hopper_);
  } catch (...) {
    w.error_ = std::current_exception();
  }
  release(&w.launch_.finished);
  w.running_->state = State::done;
  w.to_scheduler(true);
}

void Worker::switch_to(Fiber& f) {
  running_ = &f;
  here = &f;
#ifdef FASTDL_TSAN
  __tsan_switch_to_fiber(f.tsan, 1);  // 1: no order between the two
#endif
#ifdef FASTDL_ASAN
  __sanitizer_start_switch_fiber(&scheduler_fake_, f.stack->base(), kStackBytes);
#endif
  fastdl_switch_stack(&scheduler_stack_, f.stack_pointer);
#ifdef FASTDL_ASAN
  __sanitizer_finish_switch_fiber(scheduler_fake_, nullptr, nullptr);
#endif
}

void Worker::to_scheduler([[maybe_unused]] bool last) {
  Fiber& f = *running_;
#ifdef FASTDL_TSAN
  __tsan_switch_to_fiber(scheduler_tsan_, 1);
#endif
#ifdef FASTDL_ASAN
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(last ? nullptr : &fake, scheduler_bottom_, scheduler_size_);
#endif
  fastdl_switch_stack(&f.stack_pointer, scheduler_stack_);
#ifdef FASTDL_ASAN
  __sanitizer_finish_switch_fiber(fake, &scheduler_bottom_, &scheduler_size_);
#endif
}

void Worker::deadlock() {
  // Two threads that explain it: one that waits, one that will not come there.
  const Fiber* waiting = nullptr;
  for (const Fiber& f : fibers_)
    if (f.state == State::waiting && (waiting == nullptr || f.counter != nullptr)) waiting = &f;
  if (waiting->counter != nullptr)
    throw Error(std::string(launch_.name) + ": " + name_of(*waiting) + " of block " + std::to_string(block_) +
                " waits for ever in " + describe(*waiting->site) + ": for " +
                std::to_string(waiting->awaited) + " signals, of which " +
                std::to_string(__atomic_load_n(waiting->counter, __ATOMIC_RELAXED)) + " came");
  const bool warp = std::strcmp(waiting->kind, "warp operation") == 0;
  if (!warp && std::strcmp(waiting->kind, "barrier") != 0) stuck();
  const Fiber* first = warp ? waiting - waiting->lane : fibers_.data();
  const size_t count = warp ? 32 : fibers_.size();
  for (size_t i = 0; i < count; ++i)
    if (first[i].state == State::done || !same(*first[i].site, *waiting->site))
      throw Error(std::string(launch_.name) + ": divergent " + waiting->kind + ": " + state_of(*waiting) +
                  ", while " + state_of(first[i]));
  throw Error(std::string(launch_.name) + ": threads wait for ever; " + state_of(*waiting));
}

// Where all the threads are: one of each place.
void Worker::stuck() {
  std::string all;
  std::vector<const Fiber*> places;
  for (const Fiber& f : fibers_) {
    if (f.state != State::waiting ||
        std::any_of(places.begin(), places.end(), [&f](const Fiber* p) { return same(*p->site, *f.site); }))
      continue;
    places.push_back(&f);
    all += "; " + state_of(f) + (hopper_ ? hopper_waits(*hopper_, int(&f - fibers_.data())) : "");
  }
  throw Error(std::string(launch_.name) + ": threads wait for ever" + all);
}

void Worker::run_block(uint64_t block) {
  begin(block);
  while (!over())
    if (!round() && !error_) explain();
  end();
}

void Worker::begin(uint64_t block) {
  block_ = block;
  done_ = 0;
#ifdef FASTDL_TSAN  // freed when the host comes after the threads, not between blocks
  for (auto& [key, memory] : shared_) retired_.push_back(std::move(memory));
  retired_.push_back(std::move(dynamic_));
#endif
  shared_.clear();
  static_bytes_ = 0;
  dynamic_ = poisoned(launch_.shared_bytes);
  hopper_.reset();
  gatherings_.assign(fibers_.size() / 32, {});
  at_barrier_ = 0;
  barrier_site_ = nullptr;
  error_ = nullptr;
  for (size_t i = 0; i < fibers_.size(); ++i) {
    Fiber& f = fibers_[i] = Fiber{};
    const dim3 b = launch_.block, g = launch_.grid;
    f.thread = {unsigned(i % b.x), unsigned(i / b.x % b.y), unsigned(i / b.x / b.y)};
    f.block = {unsigned(block % g.x), unsigned(block / g.x % g.y), unsigned(block / g.x / g.y)};
    f.block_dim = b;
    f.grid_dim = g;
    f.lane = int(i % 32);
    f.stack = stacks()[first_stack_ + i].get();
    f.copies = copies_.get() + i * kCopiesInFlight;
    order_[i] = uint32_t(i);
#ifdef FASTDL_ASAN
    __asan_unpoison_memory_region(f.stack->base() + kGuardBytes, kStackBytes - kGuardBytes);
#endif
#ifdef FASTDL_TSAN
    f.stack->renew();
    f.tsan = __tsan_create_fiber(0);
#endif
    // As fastdl_switch_stack leaves it: six registers and a return address. The ABI wants the stack pointer
    // to be 8 more than a multiple of 16 when a function is entered.
    void** frame = reinterpret_cast<void**>(f.stack->top()) - 2;
    frame[1] = nullptr;
    frame[0] = reinterpret_cast<void*>(&Worker::entry);
    for (int r = 0; r < 6; ++r) *--frame = nullptr;
    f.stack_pointer = frame;
  }
  random_.seed(order_seed ^ (block * 0x9E3779B97F4A7C15u));
  if (order_of_threads == Order::descending) std::reverse(order_.begin(), order_.end());
}

bool Worker::waits_for_counter() const {
  return std::any_of(fibers_.begin(), fibers_.end(), [](const Fiber& f) { return f.counter != nullptr; });
}

bool Worker::round() {
  *slot() = this;
  if (order_of_threads == Order::random) std::shuffle(order_.begin(), order_.end(), random_);
  bool moved = false;
  for (uint32_t i : order_) {
    Fiber& f = fibers_[i];
    if (f.state == State::waiting && f.counter != nullptr && reached(f)) f.state = State::ready;
    if (f.state != State::ready) continue;
    moved = true;
    switch_to(f);
    done_ += f.state == State::done;
    if (error_) break;
  }
  if (!error_ && hopper_) try {
      if (!moved) moved = hopper_deliver(*hopper_, late());
      if (over()) hopper_leave_block(*hopper_);
    } catch (...) {
      error_ = std::current_exception();
    }
  here = nullptr;
  *slot() = nullptr;
  return moved;
}

// Which of several things on their way arrives: as the order of threads has it.
uint64_t Worker::late() {
  if (order_of_threads == Order::random) return random_();
  return order_of_threads == Order::ascending ? 0 : ~uint64_t(0);
}

void Worker::explain() {
  *slot() = this;
  try {
    deadlock();
  } catch (...) {
    error_ = std::current_exception();
  }
  *slot() = nullptr;
}

void Worker::end() {
#ifdef FASTDL_TSAN
  for (Fiber& f : fibers_) __tsan_destroy_fiber(f.tsan);
#endif
  if (error_) std::rethrow_exception(error_);
}

std::atomic<int64_t> cooperative_count{0};

// All blocks alive at once, on one host thread. Each goes as far as it can, so that a block that does not
// wait for another is far ahead of it, or behind.
void run_cooperative(const Launch& launch, uint64_t blocks) {
  ++cooperative_count;
  const size_t threads = size_t(launch.block.x) * launch.block.y * launch.block.z;
  std::vector<std::unique_ptr<Worker>> workers;
  for (uint64_t b = 0; b < blocks; ++b) {
    workers.push_back(std::make_unique<Worker>(launch, b * threads));
    workers.back()->begin(b);
  }
  std::vector<Worker*> turns;
  for (auto& worker : workers) turns.push_back(worker.get());
  if (order_of_threads == Order::descending) std::reverse(turns.begin(), turns.end());
  std::mt19937_64 random(order_seed);
  for (bool failed = false; !failed;) {
    turns.erase(std::remove_if(turns.begin(), turns.end(), [](Worker* w) { return w->over(); }), turns.end());
    if (turns.empty()) break;
    if (order_of_threads == Order::random) std::shuffle(turns.begin(), turns.end(), random);
    bool moved = false;
    for (Worker* w : turns) {
      while (!w->over() && w->round()) moved = true;
      failed |= w->failed();
      if (failed) break;
    }
    if (moved || failed) continue;
    // Others wait for signals that a block's mistake keeps away: that block explains it.
    const auto culprit =
        std::find_if(turns.begin(), turns.end(), [](Worker* w) { return !w->waits_for_counter(); });
    (culprit != turns.end() ? *culprit : turns.front())->explain();
    failed = true;
  }
  std::exception_ptr error;
  for (auto& worker : workers) try {
      worker->end();
    } catch (...) {
      error = std::current_exception();
    }
  if (error) std::rethrow_exception(error);
}

}  // namespace

std::string describe(const Site& site) {
  const char* name = std::strrchr(site.file_name(), '/');
  return std::string(name ? name + 1 : site.file_name()) + ":" + std::to_string(site.line());
}

void set_order(Order order, uint64_t seed) {
  order_of_threads = order;
  order_seed = seed;
}

void barrier(const Site& site) {
  Worker::current()->barrier(site);
}
void collective(void* argument, void (*work)(void* const[32]), const Site& site) {
  Worker::current()->collective(argument, work, site);
}
void warp_barrier(const Site& site) {
  Worker::current()->warp_barrier(site);
}
int64_t cooperative_launches() {
  return cooperative_count;
}
void signal(uint32_t* counter) {
  release(counter);
  __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}
void wait_for(const uint32_t* counter, uint32_t count, const Site& site) {
  Worker::current()->wait_for(counter, count, site);
}
void* shared(const void* key, size_t bytes) {
  return Worker::current()->shared(key, bytes);
}
void* dynamic_shared() {
  return Worker::current()->dynamic_shared();
}

int running_thread() {
  return int(&Worker::current()->fiber() - Worker::current()->fibers().data());
}
int threads_of_block() {
  return int(Worker::current()->fibers().size());
}
std::string name_of_thread(int thread) {
  return name_of(Worker::current()->fibers()[size_t(thread)]);
}
std::span<std::byte> dynamic_memory() {
  Worker* const w = Worker::current();
  return {static_cast<std::byte*>(w->dynamic_shared()), w->dynamic_bytes()};
}
void sleep(const char* kind, const Site& site) {
  Worker::current()->wait(kind, site);
}
bool sleeps(int thread, const char* kind) {
  const Fiber& f = Worker::current()->fibers()[size_t(thread)];
  return f.state == State::waiting && std::strcmp(f.kind, kind) == 0;
}
void wake(int thread) {
  Worker::current()->fibers()[size_t(thread)].state = State::ready;
}
Hopper& hopper_of_block() {
  return Worker::current()->hopper();
}

void cp_async(void* to, const void* from, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(to) % bytes != 0 || reinterpret_cast<uintptr_t>(from) % bytes != 0)
    throw Error("cp_async: addresses must be multiples of " + std::to_string(bytes));
  std::memset(to, kPoison, bytes);
  Fiber& f = Worker::current()->fiber();
  if (f.issued - f.delivered == kCopiesInFlight) throw Error("cp_async: too many copies in flight");
  f.copies[f.issued++ % kCopiesInFlight] = {to, from, bytes};
}
void cp_async_commit() {
  Fiber& f = Worker::current()->fiber();
  if (f.committed - f.waited == kGroupsInFlight) throw Error("cp_async: too many groups in flight");
  f.ends[f.committed++ % kGroupsInFlight] = f.issued;
}
void cp_async_wait(int groups_in_flight) {
  Fiber& f = Worker::current()->fiber();
  for (; f.committed - f.waited > size_t(groups_in_flight); ++f.waited)
    for (const size_t end = f.ends[f.waited % kGroupsInFlight]; f.delivered < end; ++f.delivered) {
      const Copy& c = f.copies[f.delivered % kCopiesInFlight];
      std::memcpy(c.to, c.from, c.bytes);
    }
}

float widen_bf16(uint32_t bits) {
  bits <<= 16;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
float widen_fp16(uint32_t bits) {
  __half_raw raw;
  raw.x = uint16_t(bits);
  return __half2float(__half(raw));
}
float widen_tf32(uint32_t bits) {  // the unit ignores the lower 13 bits
  bits &= ~0x1FFFu;
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

void mma(void* const products[32], int k, float (*widen)(uint32_t)) {
  // PTX ISA, matrix fragments for mma.m16n8k16 and m16n8k8: group = lane / 4, thread = lane % 4. Registers
  // hold two 16-bit elements or one of 32 bits; register i of a belongs to rows group + 8 (i % 2), columns of
  // its half i / 2.
  const int per = k == 16 ? 2 : 1;  // elements in a register
  float a[16][16], b[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const auto* p = static_cast<const Product*>(products[lane]);
    const int group = lane / 4, thread = lane % 4;
    for (int i = 0; i < 4; ++i)
      for (int e = 0; e < per; ++e)
        a[group + 8 * (i % 2)][thread * per + e + 4 * per * (i / 2)] =
            widen(per == 2 ? p->a[i] >> (16 * e) & 0xFFFF : p->a[i]);
    for (int i = 0; i < 2; ++i)
      for (int e = 0; e < per; ++e)
        b[thread * per + e + 4 * per * i][group] = widen(per == 2 ? p->b[i] >> (16 * e) & 0xFFFF : p->b[i]);
  }
  for (int lane = 0; lane < 32; ++lane)
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + 8 * (i / 2), column = lane % 4 * 2 + i % 2;
      float sum = 0;
      for (int j = 0; j < k; ++j) sum += a[row][j] * b[j][column];
      static_cast<const Product*>(products[lane])->d[i] += sum;
    }
}

void run(const char* name, dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void*), void* context,
         bool cooperative) {
  const uint64_t threads = uint64_t(block.x) * block.y * block.z, blocks = uint64_t(grid.x) * grid.y * grid.z;
  if (threads == 0 || threads > 1024 || threads % 32 != 0)
    throw Error(std::string(name) + ": blocks must have 32, 64, .. 1024 threads, not " +
                std::to_string(threads));
  if (blocks == 0 || grid.x > 0x7FFFFFFF || grid.y > 65535 || grid.z > 65535)
    throw Error(std::string(name) + ": the grid is empty or too large");
  if (shared_bytes > (227 << 10)) throw Error(std::string(name) + ": too much shared memory");
  const Launch launch{name, grid, block, shared_bytes, body, context, cooperative};
  release(&launch.started);
  if (cooperative) {
    if (blocks > kResidentBlocks)
      throw Error(std::string(name) + ": " + std::to_string(blocks) + " blocks do not fit at once, only " +
                  std::to_string(kResidentBlocks));
    run_cooperative(launch, blocks);
    acquire(&launch.finished);
    return;
  }
  std::atomic<uint64_t> next{0};
  std::exception_ptr error;
  std::mutex mutex;
  const auto work = [&] {
    Worker worker(launch);
    for (uint64_t b; (b = next++) < blocks;) try {
        worker.run_block(b);
      } catch (...) {
        next = blocks;
        std::lock_guard lock(mutex);
        if (!error) error = std::current_exception();
      }
  };
  // Starting a thread costs as much as some thousand fibers.
  const uint64_t host =
      std::min<uint64_t>({std::thread::hardware_concurrency(), blocks, 1 + blocks * threads / 8192});
  std::vector<std::thread> helpers;
  for (uint64_t i = 1; i < host; ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  acquire(&launch.finished);
  if (error) std::rethrow_exception(error);
}

}  // namespace fastdl::emulation
