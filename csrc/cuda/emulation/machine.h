// Inside the emulator: what the running block offers to hopper.cpp, and what that is asked at the right
// times.
#pragma once

#include <memory>
#include <span>

#include "cuda/emulation/emulator.h"

namespace fastdl::emulation {

// Of the running block. Threads are numbers in it.
int running_thread();
int threads_of_block();
std::string name_of_thread(int thread);
std::span<std::byte> dynamic_memory();
// The running thread waits (`kind` and `site` say for what) until another one wakes it.
void sleep(const char* kind, const Site& site);
bool sleeps(int thread, const char* kind);
void wake(int thread);

// ThreadSanitizer's view: order through an object, and accesses that only the emulator makes.
void acquire(void* object);
void release(void* object);
void will_read(const void* from, size_t bytes);
void will_write(void* to, size_t bytes);
// While one of these lives, reports name the kernel's line that called: the emulator's functions leave no
// frames.
struct CalledFrom {
  explicit CalledFrom(void* return_address);
  ~CalledFrom();
  CalledFrom(const CalledFrom&) = delete;
  CalledFrom& operator=(const CalledFrom&) = delete;
};
// While one of these lives, memory is allocated and freed by nobody.
struct Unseen {
  Unseen();
  ~Unseen();
  Unseen(const Unseen&) = delete;
  Unseen& operator=(const Unseen&) = delete;
};

// Barriers, asynchronous copies and products of one block.
class Hopper;
struct FreeHopper {
  void operator()(Hopper* hopper) const;
};
using HopperOfBlock = std::unique_ptr<Hopper, FreeHopper>;
HopperOfBlock make_hopper();
Hopper& hopper_of_block();  // the running block's, made when first asked for

void hopper_leave_thread(Hopper& hopper);              // the running thread ends
void hopper_leave_block(Hopper& hopper);               // all have ended
bool hopper_deliver(Hopper& hopper, uint64_t random);  // nobody can move: does a copy arrive?
std::string hopper_waits(Hopper& hopper, int thread);  // more about what a thread waits for

}  // namespace fastdl::emulation
