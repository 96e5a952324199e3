// What kernels call and the host launches: grids of blocks, collectives, copies, products. See emulator.h.
#include <map>
#include <mutex>
#include <thread>

#include "cuda/emulation/worker.h"

namespace fastdl::emulation {
namespace {

std::atomic<int64_t> cooperative_count{0}, launch_count{0};
std::atomic<const char*> last_name{""};
std::atomic<bool> skips_kernels{false};

// Like mbarrier: an exchange is over when one thread has said how many bytes to expect and so many have come,
// whoever sent them. `expected` is less than 0 where they come first.
struct Inbox {
  bool told = false;
  int64_t expected = 0;
};
struct Store {
  void* to;
  std::array<std::byte, 8> value;
  uint32_t bytes;
  void* inbox;
  int block;
};
// The running cluster: its blocks, how many of their threads have come to its barriers, and what its blocks
// have stored in each other's memory that has not arrived yet.
struct Cluster {
  std::vector<Worker*> blocks;
  uint32_t arrived = 0;
  std::map<const void*, Inbox> inboxes;
  std::vector<Store> stores;
};
thread_local Cluster cluster;

void end_exchange(void* inbox) {
  Inbox& state = cluster.inboxes.at(inbox);
  if (!state.told || state.expected != 0) return;
  state.told = false;
  __atomic_fetch_add(static_cast<uint32_t*>(inbox), 1, __ATOMIC_RELAXED);
}

// One of the stores on their way arrives: the oldest, the newest or any.
void deliver_store(const char* name, std::mt19937_64& random) {
  const size_t last = cluster.stores.size() - 1;
  const size_t chosen = order_of_threads == Order::ascending    ? 0
                        : order_of_threads == Order::descending ? last
                                                                : random() % (last + 1);
  const Unseen unseen;
  const Store store = cluster.stores[chosen];
  cluster.stores.erase(cluster.stores.begin() + std::ptrdiff_t(chosen));
  if (cluster.blocks[size_t(store.block)]->over())
    throw Error(std::string(name) + ": a store in the cluster came to block " + std::to_string(store.block) +
                ", which has left the kernel");
  std::memcpy(store.to, store.value.data(), store.bytes);
  const auto inbox = cluster.inboxes.find(store.inbox);
  if (inbox == cluster.inboxes.end())
    throw Error(std::string(name) + ": a store in the cluster came to an inbox that nobody has begun");
  inbox->second.expected -= store.bytes;
  end_exchange(store.inbox);
}

// Blocks `first` .. alive at once, on one host thread. Each goes as far as it can, so that a block that does
// not wait for another is far ahead of it, or behind.
void run_together(const Launch& launch, uint64_t first, uint64_t blocks) {
  std::vector<std::unique_ptr<Worker>> workers;
  for (uint64_t b = 0; b < blocks; ++b) {
    workers.push_back(std::make_unique<Worker>(launch, blocks));
    workers.back()->begin(first + b);
  }
  std::vector<Worker*> turns;
  for (auto& worker : workers) turns.push_back(worker.get());
  cluster = {turns, 0, {}, {}};
  if (order_of_threads == Order::descending) std::reverse(turns.begin(), turns.end());
  std::mt19937_64 random(order_seed);
  bool failed = false;
  const auto deliver = [&] {
    if (cluster.stores.empty()) return false;
    try {
      deliver_store(launch.name, random);
    } catch (...) {
      workers.front()->fail(std::current_exception());
      failed = true;
    }
    return true;
  };
  while (!failed) {
    turns.erase(std::remove_if(turns.begin(), turns.end(), [](Worker* w) { return w->over(); }), turns.end());
    if (turns.empty()) {
      deliver();  // to a block that has left: an error
      break;
    }
    if (order_of_threads == Order::random) {
      std::shuffle(turns.begin(), turns.end(), random);
      if (random() % 2 == 0) deliver();
    }
    bool moved = false;
    for (Worker* w : turns) {
      while (!w->over() && w->round()) moved = true;
      failed |= w->failed();
      if (failed) break;
    }
    if (moved || failed || deliver()) continue;
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

// The same place of another block's dynamic shared memory.
void* in_cluster(void* place, int block) {
  const auto offset = static_cast<std::byte*>(place) - dynamic_memory().data();
  if (offset < 0 || size_t(offset) >= dynamic_memory().size())
    throw Error("in_cluster: the place is not in dynamic shared memory");
  if (block < 0 || size_t(block) >= cluster.blocks.size())
    throw Error("in_cluster: block " + std::to_string(block) + " of a cluster of " +
                std::to_string(cluster.blocks.size()));
  if (cluster.blocks[size_t(block)]->over())
    throw Error("in_cluster: block " + std::to_string(block) + " has left the kernel");
  return static_cast<std::byte*>(cluster.blocks[size_t(block)]->dynamic_shared()) + offset;
}

}  // namespace

Device device;

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
int64_t launches() {
  return launch_count;
}
const char* last_launch() {
  return last_name;
}
void skip_kernels(bool skip) {
  skips_kernels = skip;
}
void signal(uint32_t* counter) {
  release(counter);
  __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}
void wait_for(const uint32_t* counter, uint32_t count, const Site& site) {
  Worker::current()->wait_for(counter, count, site);
}
void inbox_begin(void* inbox) {
  const Unseen unseen;
  *static_cast<uint64_t*>(inbox) = 0;
  cluster.inboxes[inbox] = {};
}
void inbox_expect(void* inbox, uint32_t bytes, const Site& site) {
  const Unseen unseen;
  Inbox& state = cluster.inboxes.at(inbox);
  if (state.told) throw Error("inbox_expect in " + describe(site) + ": the exchange before is not over yet");
  state.told = true;
  state.expected += bytes;
  end_exchange(inbox);
}
// By parity, as on the device: what has gone on by two exchanges looks as if it had not moved.
void inbox_wait(const void* inbox, uint32_t n, const Site& site) {
  const auto* const over = static_cast<const uint32_t*>(inbox);
  wait_for(over, n + 1, site);
  if (__atomic_load_n(over, __ATOMIC_RELAXED) != n + 1)
    throw Error("inbox_wait in " + describe(site) + ": for exchange " + std::to_string(n) +
                ", but a later one is over, too");
}
void store_in_cluster(void* to, const void* from, uint32_t bytes, int block, void* inbox) {
  Store store{in_cluster(to, block), {}, bytes, in_cluster(inbox, block), block};
  std::memcpy(store.value.data(), from, bytes);
  release(store.inbox);
  const Unseen unseen;
  cluster.stores.push_back(store);
}
void cluster_sync(const Site& site) {
  const uint32_t all = uint32_t(cluster.blocks.size()) * uint32_t(threads_of_block());
  release(&cluster.arrived);
  const uint32_t count = (cluster.arrived++ / all + 1) * all;
  wait_for(&cluster.arrived, count, site);
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

void demand_multiple(const char* instruction, const void* address, size_t bytes) {
  const size_t beyond = reinterpret_cast<uintptr_t>(address) % bytes;
  if (beyond != 0)
    throw Error(Worker::current()->name() + ": " + instruction + ": addresses must be multiples of " +
                std::to_string(bytes) + " bytes, not " + std::to_string(beyond) + " beyond one");
}
void cp_async(void* to, const void* from, size_t bytes) {
  demand_multiple("cp_async", to, bytes);
  demand_multiple("cp_async", from, bytes);
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
// What was stored there meanwhile may as well have come after the copy.
static void demand_untouched(const Copy& c) {
  const auto* const at = static_cast<const unsigned char*>(c.to);
  if (std::any_of(at, at + c.bytes, [](unsigned char byte) { return byte != kPoison; }))
    throw Error(Worker::current()->name() + ": cp_async: the target was written before the copy came");
}
void cp_async_wait(int groups_in_flight) {
  Fiber& f = Worker::current()->fiber();
  for (; f.committed - f.waited > size_t(groups_in_flight); ++f.waited)
    for (const size_t end = f.ends[f.waited % kGroupsInFlight]; f.delivered < end; ++f.delivered) {
      const Copy& c = f.copies[f.delivered % kCopiesInFlight];
      demand_untouched(c);
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
      float& d = static_cast<const Product*>(products[lane])->d[i];
      double sum = d;
      for (int j = 0; j < k; ++j) sum += double(a[row][j]) * double(b[j][column]);
      d = cut(sum);
    }
}

namespace {

// Threads that __launch_bounds__ allow, 0: the kernel has none.
uint64_t bounds_of(const void* kernel) {
  const auto* code = static_cast<const unsigned char*>(kernel);
  if (std::memcmp(code, "\xF3\x0F\x1E\xFA", 4) == 0) code += 4;  // endbr64
  uint64_t warps = 0;
  while (code[warps] == 0x90) ++warps;
  return 32 * warps;
}

uint64_t checked_blocks(const char* name, const void* kernel, dim3 grid, dim3 block, size_t shared_bytes) {
  const uint64_t threads = uint64_t(block.x) * block.y * block.z, blocks = uint64_t(grid.x) * grid.y * grid.z;
  if (threads == 0 || threads > 1024 || threads % 32 != 0)
    throw Error(std::string(name) + ": blocks must have 32, 64, .. 1024 threads, not " +
                std::to_string(threads));
  if (const uint64_t bounds = bounds_of(kernel); bounds > 0 && threads > bounds)
    throw Error(std::string(name) + ": " + std::to_string(threads) +
                " threads, but the kernel's launch bounds allow " + std::to_string(bounds));
  if (blocks == 0 || grid.x > 0x7FFFFFFF || grid.y > 65535 || grid.z > 65535)
    throw Error(std::string(name) + ": the grid is empty or too large");
  if (shared_bytes > size_t(device.shared))
    throw Error(std::string(name) + ": " + std::to_string(shared_bytes) +
                " bytes of shared memory, but the device's blocks may have " + std::to_string(device.shared));
  return blocks;
}

}  // namespace

void run_clusters(const char* name, const void* kernel, int blocks, dim3 grid, dim3 block,
                  size_t shared_bytes, void (*body)(void*), void* context) {
  const uint64_t all = checked_blocks(name, kernel, grid, block, shared_bytes);
  ++launch_count;
  last_name = name;
  if (skips_kernels) return;
  if (blocks > kLargestCluster || grid.x % unsigned(blocks) != 0)
    throw Error(std::string(name) + ": clusters of " + std::to_string(blocks) + " blocks do not fit");
  const Launch launch{name, grid, block, shared_bytes, body, context, true};
  release(&launch.started);
  for (uint64_t first = 0; first < all; first += uint64_t(blocks))
    run_together(launch, first, uint64_t(blocks));
  acquire(&launch.finished);
}

void run(const char* name, const void* kernel, dim3 grid, dim3 block, size_t shared_bytes,
         void (*body)(void*), void* context, bool cooperative) {
  const uint64_t blocks = checked_blocks(name, kernel, grid, block, shared_bytes);
  ++launch_count;
  last_name = name;
  if (skips_kernels) return;
  const Launch launch{name, grid, block, shared_bytes, body, context, cooperative};
  release(&launch.started);
  if (cooperative) {
    if (blocks > kResidentBlocks)
      throw Error(std::string(name) + ": " + std::to_string(blocks) + " blocks do not fit at once, only " +
                  std::to_string(kResidentBlocks));
    ++cooperative_count;
    run_together(launch, 0, blocks);
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
#ifdef FASTDL_TSAN
  const uint64_t host = 1;  // whose stacks live on
#else
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  // Starting a thread costs as much as some thousand fibers.
  const uint64_t host =
      std::min<uint64_t>({std::thread::hardware_concurrency(), blocks, 1 + blocks * threads / 8192});
#endif
  std::vector<std::thread> helpers;
  for (uint64_t i = 1; i < host; ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  acquire(&launch.finished);
  if (error) std::rethrow_exception(error);
}

}  // namespace fastdl::emulation

#ifdef FASTDL_CHECKS_ALIGNMENT
// What -fsanitize=alignment calls, in place of its library.
extern "C" [[gnu::visibility("hidden")]] void __ubsan_handle_type_mismatch_v1(void* data, void* address) {
  struct Mismatch {
    const char* file;
    uint32_t line, column;
    const void* type;
    unsigned char alignment, kind;
  };
  const auto* const found = static_cast<const Mismatch*>(data);
  fastdl::emulation::misaligned(found->file, found->line, address, size_t(1) << found->alignment);
}
#endif
