// How fibers are switched, and blocks run until their threads are done or wait for ever. See worker.h.
#include "cuda/emulation/worker.h"

#include <cstdio>

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
Order order_of_threads = Order::ascending;
uint64_t order_seed = 0;

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
CalledFrom::CalledFrom(void* return_address) {
  __tsan_func_entry(return_address);
}
CalledFrom::~CalledFrom() {
  __tsan_func_exit();
}
Unseen::Unseen() {
  AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
}
Unseen::~Unseen() {
  AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
}
#else
CalledFrom::CalledFrom(void*) {}
CalledFrom::~CalledFrom() = default;
Unseen::Unseen() = default;
Unseen::~Unseen() = default;
#endif

// What no group has no wait waits for.
static void demand_committed(const Fiber& f) {
  const size_t committed = f.committed == 0 ? 0 : f.ends[(f.committed - 1) % kGroupsInFlight];
  if (f.issued != committed)
    throw Error(Worker::current()->name() + ": cp_async: " + std::to_string(f.issued - committed) +
                " copies of " + name_of(f) + " are in no group at the end: commit them before the wait");
}

void Worker::entry() {
  Worker& w = *current();
#ifdef FASTDL_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &w.scheduler_bottom_, &w.scheduler_size_);
#endif
  acquire(&w.launch_.started);
  try {
    w.launch_.body(w.launch_.context);
    demand_committed(w.fiber());
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

void Worker::abandon(std::exception_ptr error) {
  error_ = std::move(error);
  release(&launch_.finished);
  running_->state = State::done;
  to_scheduler(true);
  std::abort();  // nobody comes back to it
}

void misaligned(const char* file, uint32_t line, const void* address, size_t alignment) {
  Worker* const worker = Worker::current();
  const char* const name = std::strrchr(file, '/');
  const std::string what = "misaligned access in " + std::string(name ? name + 1 : file) + ":" +
                           std::to_string(line) + ": an address that ends in " +
                           std::to_string(reinterpret_cast<uintptr_t>(address) % 64) + " (of 64) for " +
                           std::to_string(alignment) + " bytes";
  if (worker == nullptr || here == nullptr) {
    std::fprintf(stderr, "%s\n", what.c_str());
    std::abort();  // the host's code
  }
  worker->abandon(std::make_exception_ptr(Error(worker->name() + ": " + what)));
}

void Worker::switch_to(Fiber& f) {
  running_ = &f;
  here = &f;
#ifdef FASTDL_TSAN
  __tsan_switch_to_fiber(f.stack->tsan(), 1);  // 1: no order between the two
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
    f.stack = stack(i).get();
    f.copies = copies_.get() + i * kCopiesInFlight;
    order_[i] = uint32_t(i);
#ifdef FASTDL_ASAN
    __asan_unpoison_memory_region(f.stack->base() + kGuardBytes, kStackBytes - kGuardBytes);
#endif
    // As fastdl_switch_stack leaves it: six registers and a return address. The ABI wants the stack pointer
    // to be 8 more than a multiple of 16 when a function is entered.
    void** frame = reinterpret_cast<void**>(f.stack->top()) - 2;
    frame[1] = nullptr;
    frame[0] = reinterpret_cast<void*>(&Worker::entry);
    for (int r = 0; r < 6; ++r) *--frame = nullptr;
    f.stack_pointer = frame;
  }
  release(&launch_.started);  // what was made here, for threads that lived before it
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
  if (!error_) return;
  for (size_t i = 0; i < fibers_.size(); ++i) stack(i).reset();  // some are left in the middle of a call
  std::rethrow_exception(error_);
}

}  // namespace fastdl::emulation
