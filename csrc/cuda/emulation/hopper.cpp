// Barriers in shared memory, bulk copies, named barriers and wgmma (hopper.h) for the emulator.
//
// Everything asynchronous happens as late as the device may let it happen: a bulk load poisons its target at
// once and arrives when no thread of the block can move, in the order that threads run in; wgmma reads its
// tiles and gives its sums at the wait that covers it, until when the accumulators are NaN; a bulk store
// reads shared memory at its wait. So a missing wait, or a tile overwritten too early, shows as a wrong
// value.
#include <array>
#include <chrono>
#include <cstring>
#include <deque>
#include <thread>
#include <vector>

#include "cuda/emulation/machine.h"
#include "cuda/hopper.h"

namespace fastdl::emulation {
namespace {

constexpr int kPoison = 0xFF, kWarpgroup = 128, kRegisters = 65536;
constexpr uint64_t kMark = 0xBA00'0000'0000'0000u;  // in a barrier's word, above its number
const char* const kBarrierWait = "barrier_wait";
const char* const kWgmmaWait = "wgmma_wait";
const char* const kTurnWait = "turn_wait";
constexpr const char* kNamed[16] = {
    "named barrier 0",  "named barrier 1",  "named barrier 2",  "named barrier 3",
    "named barrier 4",  "named barrier 5",  "named barrier 6",  "named barrier 7",
    "named barrier 8",  "named barrier 9",  "named barrier 10", "named barrier 11",
    "named barrier 12", "named barrier 13", "named barrier 14", "named barrier 15"};

[[noreturn]] void fail(const char* what, const Site& site, const std::string& why) {
  throw Error(std::string(what) + " in " + describe(site) + ": " + why);
}
bool same(const Site& a, const Site& b) {
  return a.line() == b.line() && a.column() == b.column() && std::strcmp(a.file_name(), b.file_name()) == 0;
}
std::atomic<int> failures{0};  // blocks that ended by an error
uint32_t now(const uint32_t& turn) {
  return std::atomic_ref<uint32_t>(const_cast<uint32_t&>(turn)).load();
}
uintptr_t number_of(const void* p) {
  return reinterpret_cast<uintptr_t>(p);
}

int registers_of_thread(size_t threads) {  // when a kernel starts
  return std::min(kRegisters / int(threads) / 8 * 8, 256);
}

struct SharedBarrier {
  const Barrier* place;
  int arrivals, pending, initialiser;
  int64_t bytes = 0;  // announced and not arrived
  uint32_t phase = 0;
  bool fenced = false;
};
struct NamedBarrier {
  int threads = 0, arrived = 0;
};

// A box on its way between an array and shared memory.
struct Box {
  TensorMap map;
  std::array<int, 5> at{};
  std::byte* shared;
  Site site;
  SharedBarrier* barrier = nullptr;
  bool adds = false;  // a store: float32 numbers, to what is there

  size_t row_bytes() const { return size_t(map.box[0]) * map.bytes; }
  size_t bytes() const {
    size_t all = row_bytes();
    for (int i = 1; i < map.rank; ++i) all *= map.box[i];
    return all;
  }
  // Calls each(shared, global or null) for every 16 bytes; a chunk at the array's end may be there in part:
  // `there` bytes.
  template <class F>
  void chunks(F each) const {
    const size_t rows = bytes() / row_bytes();
    const int64_t row_end = map.sizes[0] * map.bytes;
    for (size_t r = 0; r < rows; ++r) {
      std::byte* from = map.data;
      bool inside = true;
      size_t rest = r;
      for (int i = 1; i < map.rank; ++i) {
        const int64_t c = at[size_t(i)] + int64_t(rest % map.box[i]);
        rest /= map.box[i];
        inside &= c >= 0 && c < map.sizes[i];
        from += c * map.strides[i - 1];
      }
      for (size_t c = 0; c < row_bytes(); c += 16) {
        std::byte* to = shared + r * row_bytes() + c;
        if (map.swizzled) to = shared + ((number_of(to) ^ (number_of(to) >> 3 & 0x70)) - number_of(shared));
        const int64_t first = int64_t(at[0]) * map.bytes + int64_t(c);
        for (int e = 0; e < 16; e += map.bytes) {
          const int64_t byte = first + e;
          each(to + e, inside && byte >= 0 && byte < row_end ? from + byte : nullptr);
        }
      }
    }
  }
};

struct Accumulator {
  float* d;
  size_t count;
  int in_flight;
  std::vector<float> value;  // what d holds for the hardware, while the kernel sees NaN
};
struct Issued {
  Wgmma product;
  std::array<uint32_t, 4> registers;
  Accumulator* sums;
  Site site;
};
struct Thread {
  const SharedBarrier* waits_for = nullptr;
  uint32_t parity = 0;
  const uint32_t* turn = nullptr;  // and it is `mine` that this one waits for
  uint32_t mine = 0;
  int registers = 0;
  bool fenced = false;
  std::deque<Issued> issued;
  std::deque<size_t> groups;  // sizes of those committed
  size_t uncommitted = 0;
  std::vector<std::unique_ptr<Accumulator>> sums;
  std::deque<Box> stores;
  std::deque<size_t> store_groups;
  size_t stores_uncommitted = 0;
};
struct Warpgroup {
  int arrived = 0;
  const Site* site = nullptr;
  std::vector<const std::byte*> read;  // 16 bytes each
};

}  // namespace

class Hopper {
 public:
  Hopper() : threads(size_t(threads_of_block())), warpgroups(threads.size() / kWarpgroup) {
    for (Thread& t : threads) t.registers = registers_of_thread(threads.size());
  }
  Thread& thread() { return threads[size_t(running_thread())]; }

  SharedBarrier& find(const Barrier& barrier, const char* what, const Site& site) {
    const uint64_t number = barrier.word ^ kMark;
    if (number >= barriers.size() || barriers[number].place != &barrier)
      fail(what, site, "the barrier is not initialised (is there a sync_threads after barrier_init?)");
    if (!barriers[number].fenced) fail(what, site, "barrier_init_fence is missing after barrier_init");
    return barriers[number];
  }
  void advance(SharedBarrier& b) {
    if (b.pending > 0 || b.bytes != 0) return;
    b.phase ^= 1;
    b.pending = b.arrivals;
    for (size_t t = 0; t < threads.size(); ++t)
      if (threads[t].waits_for == &b && threads[t].parity != b.phase && sleeps(int(t), kBarrierWait))
        wake(int(t));
  }
  Box box(const TensorMap& map, const int* at, int rank, const void* shared, const char* what,
          const Site& site) const {
    if (rank != map.rank)
      fail(what, site, std::to_string(rank) + " coordinates for " + std::to_string(map.rank) + " axes");
    if (number_of(shared) % 128 != 0) fail(what, site, "the place in shared memory is not a multiple of 128");
    Box result{map, {}, static_cast<std::byte*>(const_cast<void*>(shared)), site};
    std::copy(at, at + rank, result.at.begin());
    const std::span<std::byte> all = dynamic_memory();
    if (result.shared >= all.data() && result.shared < all.data() + all.size() &&
        result.bytes() > size_t(all.data() + all.size() - result.shared))
      fail(what, site, "the box ends beyond the shared memory");
    return result;
  }
  void execute(int warpgroup, size_t groups, const Site& site);
  bool take_turns();
  bool wait_for_turns();

  std::deque<SharedBarrier> barriers;  // never moves them
  std::array<NamedBarrier, 16> named;
  std::deque<Box> loads;
  std::vector<Thread> threads;
  std::vector<Warpgroup> warpgroups;
  bool left = false;  // all threads have, without an error

 private:
  const int failures_before = failures;
  // Element (row, k) of an operand, from its descriptor.
  const std::byte* element(uint64_t descriptor, bool across, int row, int k, int bytes,
                           const Issued& of) const {
    const uint64_t start = (descriptor & 0x3FFF) << 4, leading = (descriptor >> 16 & 0x3FFF) << 4,
                   stride = (descriptor >> 32 & 0x3FFF) << 4;
    uint64_t at = start;
    if (across)
      at += uint64_t(row / 64) * leading + uint64_t(row % 64) * 2 + uint64_t(k % 8) * 128 +
            uint64_t(k / 8) * stride;
    else
      at += uint64_t(row / 8) * stride + uint64_t(row % 8) * 128 + uint64_t(k * bytes);
    at ^= at >> 3 & 0x70;
    const std::span<std::byte> all = dynamic_memory();
    if (at + uint64_t(bytes) > all.size()) fail("wgmma", of.site, "a tile ends beyond the shared memory");
    return all.data() + at;
  }
  static void check(uint64_t descriptor, bool across, const Issued& of) {
    const uint64_t start = (descriptor & 0x3FFF) << 4;
    if (descriptor >> 62 != 1 || (descriptor >> 49 & 7) != 0)
      fail("wgmma", of.site, "the descriptor is not of 128-byte swizzle with atoms at multiples of 1024");
    if (across ? start % 1024 != 0 : start % 1024 >= 128 || start % 32 != 0)
      fail("wgmma", of.site, "the tile is not at a multiple of 1024 bytes, or not advanced by whole steps");
  }
  void tile(std::vector<float>& to, uint64_t descriptor, bool across, int rows, const Issued& of,
            std::vector<const std::byte*>& read) const;
};

namespace {

float widened(Number number, const std::byte* at) {
  uint32_t bits = 0;
  std::memcpy(&bits, at, number == Number::tf32 ? 4 : 2);
  return number == Number::tf32      ? widen_tf32(bits)
         : number == Number::float16 ? widen_fp16(bits)
                                     : widen_bf16(bits);
}

}  // namespace

// (k, row) from the tile.
void Hopper::tile(std::vector<float>& to, uint64_t descriptor, bool across, int rows, const Issued& of,
                  std::vector<const std::byte*>& read) const {
  check(descriptor, across, of);
  const Number number = of.product.number;
  const int bytes = number == Number::tf32 ? 4 : 2, summands = 32 / bytes;
  to.resize(size_t(summands * rows));
  for (int k = 0; k < summands; ++k)
    for (int row = 0; row < rows; ++row) {
      const std::byte* at = element(descriptor, across, row, k, bytes, of);
      if (number_of(at) % 16 == 0) read.push_back(at);
      to[size_t(k * rows + row)] = widened(number, at);
    }
}

// The oldest `groups` of a warpgroup.
void Hopper::execute(int warpgroup, size_t groups, const Site& site) {
  Thread* const all = &threads[size_t(warpgroup) * kWarpgroup];
  std::vector<const std::byte*>& read = warpgroups[size_t(warpgroup)].read;
  read.clear();
  std::vector<float> a, b;
  std::vector<double> d;
  for (; groups > 0; --groups) {
    for (int t = 0; t < kWarpgroup; ++t)
      if (all[t].groups.empty() || all[t].groups.front() != all[0].groups.front())
        fail("wgmma_wait", site, "threads of a warpgroup have issued different numbers of wgmma");
    for (size_t i = all[0].groups.front(); i > 0; --i) {
      const Issued& first = all[0].issued.front();
      const Wgmma& p = first.product;
      const int n = p.columns, summands = p.number == Number::tf32 ? 8 : 16;
      d.resize(size_t(64 * n));
      if (p.registers != nullptr)
        a.resize(size_t(summands * 64));
      else
        tile(a, p.a, p.across_a, 64, first, read);
      tile(b, p.b, p.across_b, n, first, read);
      for (int t = 0; t < kWarpgroup; ++t) {
        const Issued& mine = all[t].issued.front();
        const Wgmma& q = mine.product;
        if (!same(mine.site, first.site) || q.number != p.number || q.columns != n || q.a != p.a ||
            q.b != p.b || q.accumulate != p.accumulate || q.across_a != p.across_a ||
            q.across_b != p.across_b)
          fail("wgmma", first.site,
               "not the same for the whole warpgroup: " + name_of_thread(warpgroup * kWarpgroup + t) +
                   " has the one in " + describe(mine.site));
        const int row = 16 * (t / 32) + t % 32 / 4, column = 2 * (t % 4);
        for (int j = 0; j < n / 2; ++j)
          d[size_t((row + 8 * (j / 2 % 2)) * n + 8 * (j / 4) + column + j % 2)] =
              p.accumulate ? double(mine.sums->value[size_t(j)]) : 0.0;
        if (p.registers != nullptr)  // as mma.m16n8k16
          for (int j = 0; j < 8; ++j)
            a[size_t((column + j % 2 + 8 * (j / 4)) * 64 + row + 8 * (j / 2 % 2))] =
                (p.number == Number::float16 ? widen_fp16 : widen_bf16)(
                    mine.registers[size_t(j / 2)] >> 16 * (j % 2) & 0xFFFF);
      }
      for (int row = 0; row < 64; ++row)
        for (int k = 0; k < summands; ++k) {
          const double x = a[size_t(k * 64 + row)];
          const float* from = &b[size_t(k * n)];
          double* to = &d[size_t(row * n)];
          for (int j = 0; j < n; ++j) to[j] += x * double(from[j]);
        }
      for (int t = 0; t < kWarpgroup; ++t) {
        Accumulator& sums = *all[t].issued.front().sums;
        const int row = 16 * (t / 32) + t % 32 / 4, column = 2 * (t % 4);
        for (int j = 0; j < n / 2; ++j)
          sums.value[size_t(j)] = cut(d[size_t((row + 8 * (j / 2 % 2)) * n + 8 * (j / 4) + column + j % 2)]);
        if (--sums.in_flight == 0) {
          for (size_t j = 0; j < sums.count; ++j) {
            uint32_t bits;
            std::memcpy(&bits, sums.d + j, 4);
            if (bits != 0xFFFFFFFFu)
              fail("wgmma", all[t].issued.front().site, "its accumulators were written before wgmma_wait");
          }
          std::copy(sums.value.begin(), sums.value.end(), sums.d);
          std::erase_if(all[t].sums, [&sums](const auto& s) { return s.get() == &sums; });
        }
        all[t].issued.pop_front();
      }
    }
    for (int t = 0; t < kWarpgroup; ++t) all[t].groups.pop_front();
  }
}

void FreeHopper::operator()(Hopper* hopper) const {
  const Unseen unseen;
  if (!hopper->left) ++failures;
  delete hopper;
}
HopperOfBlock make_hopper() {
  const Unseen unseen;
  return HopperOfBlock(new Hopper);
}

void hopper_leave_thread(Hopper& hopper) {
  const Thread& t = hopper.thread();
  if (!t.issued.empty()) fail("wgmma", t.issued.front().site, "the kernel ends without wgmma_wait for it");
  if (!t.stores.empty())
    fail("bulk_store", t.stores.front().site, "the kernel ends without bulk_wait for it");
}
void hopper_leave_block(Hopper& hopper) {
  if (!hopper.loads.empty())
    fail("bulk_load", hopper.loads.front().site, "the kernel ends without barrier_wait for it");
  const int pool = registers_of_thread(hopper.threads.size()) * int(hopper.threads.size());
  int registers = 0;
  for (size_t t = 0; t < hopper.threads.size(); ++t) {
    registers += hopper.threads[t].registers;
    if (hopper.threads[t].registers != hopper.threads[t / kWarpgroup * kWarpgroup].registers)
      throw Error("registers_more, registers_fewer: not by the whole warpgroup");
  }
  if (registers > pool)  // what a block starts with is all that it can share out
    throw Error("registers_more, registers_fewer: " + std::to_string(registers) + " registers of " +
                std::to_string(pool));
  hopper.left = true;
}
// Threads whose turn it is wake up. Blocks whose turn is earlier run on other host threads.
bool Hopper::take_turns() {
  bool found = false;
  for (size_t t = 0; t < threads.size(); ++t)
    if (threads[t].turn != nullptr && sleeps(int(t), kTurnWait) && now(*threads[t].turn) == threads[t].mine) {
      wake(int(t));
      found = true;
    }
  return found;
}
bool Hopper::wait_for_turns() {
  if (std::none_of(threads.begin(), threads.end(), [](const Thread& t) { return t.turn != nullptr; }))
    return false;
  const auto start = std::chrono::steady_clock::now();
  while (!take_turns()) {
    if (failures != failures_before) return false;  // the one before may never pass on
    if (std::chrono::steady_clock::now() - start > std::chrono::minutes(2)) return false;
    std::this_thread::yield();
  }
  return true;
}

bool hopper_deliver(Hopper& hopper, uint64_t random) {
  if (hopper.take_turns()) return true;
  const size_t count = hopper.loads.size();
  if (count == 0) return hopper.wait_for_turns();
  const Unseen unseen;
  const auto it = hopper.loads.begin() + std::ptrdiff_t(random == ~uint64_t(0) ? count - 1 : random % count);
  it->chunks([bytes = it->map.bytes](std::byte* to, const std::byte* from) {
    if (from != nullptr)
      std::memcpy(to, from, bytes);
    else
      std::memset(to, 0, bytes);
  });
  SharedBarrier& b = *it->barrier;
  b.bytes -= int64_t(it->bytes());
  hopper.loads.erase(it);
  hopper.advance(b);
  return true;
}
std::string hopper_waits(Hopper& hopper, int thread) {
  const Thread& t = hopper.threads[size_t(thread)];
  if (sleeps(thread, kTurnWait))
    return " (for " + std::to_string(t.mine) + ", it is the turn of " + std::to_string(now(*t.turn)) + ")";
  if (!sleeps(thread, kBarrierWait) || t.waits_for == nullptr) return "";
  return " (parity " + std::to_string(t.parity) + "; missing: " + std::to_string(t.waits_for->pending) +
         " arrivals, " + std::to_string(t.waits_for->bytes) + " bytes)";
}

void barrier_init(Barrier& barrier, int arrivals, const Site& site) {
  if (number_of(&barrier) % 8 != 0) fail("barrier_init", site, "the address is not a multiple of 8");
  if (arrivals < 1) fail("barrier_init", site, "at least one arrival");
  const Unseen unseen;
  Hopper& h = hopper_of_block();
  barrier.word = kMark | h.barriers.size();
  h.barriers.push_back({&barrier, arrivals, arrivals, running_thread()});
}
void barrier_init_fence() {
  for (SharedBarrier& b : hopper_of_block().barriers) b.fenced |= b.initialiser == running_thread();
}
void barrier_arrive(Barrier& barrier, uint32_t bytes, const Site& site) {
  Hopper& h = hopper_of_block();
  SharedBarrier& b = h.find(barrier, "barrier_arrive", site);
  if (b.pending == 0) fail("barrier_arrive", site, "more arrivals than the barrier has in a phase");
  release(&b);
  b.bytes += bytes;
  if (b.bytes >= 1 << 20) fail("barrier_expect", site, "a barrier counts less than 2^20 bytes");
  --b.pending;
  h.advance(b);
}
void barrier_wait(Barrier& barrier, uint32_t parity, const Site& site) {
  Hopper& h = hopper_of_block();
  SharedBarrier& b = h.find(barrier, "barrier_wait", site);
  Thread& t = h.thread();
  if (parity > 1) fail("barrier_wait", site, "parity is 0 or 1");
  while (b.phase == parity) {
    t.waits_for = &b;
    t.parity = parity;
    sleep(kBarrierWait, site);
  }
  t.waits_for = nullptr;
  acquire(&b);
}

void turn_wait(const uint32_t& turn, uint32_t mine, const Site& site) {
  Thread& t = hopper_of_block().thread();
  t.turn = &turn;
  t.mine = mine;
  if (now(turn) != mine) sleep(kTurnWait, site);
  t.turn = nullptr;
  acquire(const_cast<uint32_t*>(&turn));
}
void turn_pass(uint32_t& turn, uint32_t next) {
  release(&turn);
  std::atomic_ref<uint32_t>(turn).store(next);
}

void named_barrier(int id, int threads, bool waits, const Site& site) {
  if (id < 1 || id > 15) fail("named barrier", site, "id is 1 to 15, not " + std::to_string(id));
  if (threads % 32 != 0 || threads < 32 || threads > threads_of_block())
    fail(kNamed[id], site, std::to_string(threads) + " threads are not whole warps of the block");
  NamedBarrier& b = hopper_of_block().named[size_t(id)];
  if (b.arrived > 0 && b.threads != threads)
    fail(kNamed[id], site, std::to_string(threads) + " threads, others said " + std::to_string(b.threads));
  b.threads = threads;
  release(&b);
  if (++b.arrived < threads) {
    if (!waits) return;
    sleep(kNamed[id], site);
  } else {
    b.arrived = 0;
    for (int t = 0; t < threads_of_block(); ++t)
      if (sleeps(t, kNamed[id])) wake(t);
  }
  if (waits) acquire(&b);
}

void registers(int count, bool more, const Site& site) {
  int& now = hopper_of_block().thread().registers;
  if (more ? count < now : count > now)
    fail(more ? "registers_more" : "registers_fewer", site,
         std::to_string(count) + " where the thread has " + std::to_string(now));
  now = count;
}

void bulk_load(void* to, const TensorMap& map, const int* at, int rank, Barrier& barrier, const Site& site) {
  const CalledFrom frame(__builtin_return_address(0));
  Hopper& h = hopper_of_block();
  SharedBarrier& b = h.find(barrier, "bulk_load", site);
  Box box = h.box(map, at, rank, to, "bulk_load", site);
  box.barrier = &b;
  will_write(to, box.bytes());
  std::memset(to, kPoison, box.bytes());
  release(&b);
  const Unseen unseen;
  h.loads.push_back(box);
}
void bulk_store(const TensorMap& map, const void* from, const int* at, int rank, const Site& site) {
  Hopper& h = hopper_of_block();
  const Unseen unseen;
  h.thread().stores.push_back(h.box(map, at, rank, from, "bulk_store", site));
  ++h.thread().stores_uncommitted;
}
void bulk_store(void* to, const void* from, uint32_t bytes, bool adds, const Site& site) {
  if (number_of(to) % 16 != 0 || bytes % 16 != 0 || bytes >= 1 << 18)
    fail("bulk_store", site, "the address and the bytes must be multiples of 16, fewer than 2^18");
  TensorMap map{};
  map.data = static_cast<std::byte*>(to);
  map.sizes[0] = bytes / 4;
  map.box[0] = uint16_t(bytes / 4);
  map.rank = 1;
  map.bytes = 4;
  const int at[] = {0};
  Hopper& h = hopper_of_block();
  const Unseen unseen;
  h.thread().stores.push_back(h.box(map, at, 1, from, "bulk_store", site));
  h.thread().stores.back().adds = adds;
  ++h.thread().stores_uncommitted;
}
void bulk_commit() {
  const Unseen unseen;
  Thread& t = hopper_of_block().thread();
  t.store_groups.push_back(t.stores_uncommitted);
  t.stores_uncommitted = 0;
}
void bulk_wait(int in_flight) {
  const CalledFrom frame(__builtin_return_address(0));
  Thread& t = hopper_of_block().thread();
  for (; t.store_groups.size() > size_t(in_flight); t.store_groups.pop_front())
    for (size_t i = t.store_groups.front(); i > 0; --i) {
      const Box& box = t.stores.front();
      will_read(box.shared, box.bytes());
      box.chunks([bytes = box.map.bytes, adds = box.adds](const std::byte* from, std::byte* to) {
        if (to == nullptr) return;
        will_write(to, bytes);
        if (adds)
          *reinterpret_cast<float*>(to) += *reinterpret_cast<const float*>(from);
        else
          std::memcpy(to, from, bytes);
      });
      const Unseen unseen;
      t.stores.pop_front();
    }
}

uint32_t tile_offset(const void* shared) {
  const std::span<std::byte> all = dynamic_memory();
  const uintptr_t offset = number_of(shared) - number_of(all.data());
  if (offset >= all.size()) throw Error("a tile of wgmma must lie in dynamic shared memory");
  return uint32_t(offset);
}

void wgmma(float* d, const Wgmma& product, const Site& site) {
  const Unseen unseen;
  Thread& t = hopper_of_block().thread();
  if (!t.fenced) fail("wgmma", site, "wgmma_fence is missing before it");
  const size_t count = size_t(product.columns / 2);
  Accumulator* sums = nullptr;
  for (const auto& s : t.sums) {
    if (s->d == d && s->count == count)
      sums = s.get();
    else if (s->d < d + count && d < s->d + s->count)
      fail("wgmma", site, "its accumulators overlap those of one in flight");
  }
  if (sums == nullptr) {
    t.sums.push_back(std::make_unique<Accumulator>(Accumulator{d, count, 0, {d, d + count}}));
    sums = t.sums.back().get();
    std::memset(d, kPoison, count * sizeof(float));
  }
  ++sums->in_flight;
  ++t.uncommitted;
  Issued issued{product, {}, sums, site};
  if (product.registers != nullptr)
    std::copy(product.registers, product.registers + 4, issued.registers.begin());
  t.issued.push_back(issued);
}
void wgmma_fence() {
  hopper_of_block().thread().fenced = true;
}
void wgmma_commit() {
  const Unseen unseen;
  Thread& t = hopper_of_block().thread();
  t.groups.push_back(t.uncommitted);
  t.uncommitted = 0;
}
void wgmma_wait(int in_flight, const Site& site) {
  const CalledFrom frame(__builtin_return_address(0));
  Hopper& h = hopper_of_block();
  const int me = running_thread(), warpgroup = me / kWarpgroup;
  if (size_t(warpgroup) >= h.warpgroups.size()) fail("wgmma_wait", site, "not in a whole warpgroup");
  Warpgroup& w = h.warpgroups[size_t(warpgroup)];
  if (w.site != nullptr && !same(*w.site, site))
    fail("wgmma_wait", site, "other threads of the warpgroup wait in " + describe(*w.site));
  if (++w.arrived < kWarpgroup) {
    w.site = &site;
    sleep(kWgmmaWait, site);
  } else {
    w = {0, nullptr, std::move(w.read)};
    const size_t groups = h.thread().groups.size();
    {
      const Unseen unseen;
      h.execute(warpgroup, groups > size_t(in_flight) ? groups - size_t(in_flight) : 0, site);
    }
    for (int t = warpgroup * kWarpgroup; t < (warpgroup + 1) * kWarpgroup; ++t) {
      h.threads[size_t(t)].fenced = false;
      if (t != me) wake(t);
    }
  }
  if (me % 32 == 0)  // for its warp
    for (const std::byte* at : w.read) will_read(at, 16);
}

}  // namespace fastdl::emulation
