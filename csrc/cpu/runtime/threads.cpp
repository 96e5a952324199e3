// The thread pool. One job at a time: the caller publishes (task, context, count) under a new epoch, each
// thread takes the indices of its own share and then what is left of the others', the caller waits until
// every worker has left the job. Shares keep data in a core's cache: what thread t wrote in one operation it
// reads in the next one. A second caller that comes meanwhile (another Python thread) does not queue: it runs
// its own job inline.
//
// Jobs take the workers with the smallest numbers, and those alone: the others see from the word that
// announces a job (epoch, wake?, workers wanted) that they are not meant, and neither touch the job's state
// nor spin any longer for it. So a small job costs the same on many cores as on two. Sleepers are woken by
// their number, the caller and each worker its next four, so that nobody wakes many one after another.
//
// A worker may join a job only while `open` says so; the caller closes the job before it waits, so that
// nobody can touch a context that is about to leave the stack. state = (epoch << 16 | workers inside), one
// atomic word.
#include "cpu/runtime/threads.h"

#include <pthread.h>
#if defined(__linux__)
#include <sched.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>

#include "cpu/runtime/denormals.h"
#include "cpu/runtime/pause.h"
#ifdef FASTDL_SIMULATED_THREADS
#include <array>
#include <utility>

#include "cpu/runtime/simulated.h"
#endif

namespace fastdl {
namespace {

constexpr int kMostThreads = 1024;

thread_local int t_index = 0;
thread_local bool t_in_parallel = false;

// CPUs that the cgroup's quota allows, rounded up; 0 when there is no limit.
int cgroup_cpus() {
  long long quota = -1, period = 0;
  if (FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {  // version 2: "max 100000" or "200000 100000"
    if (std::fscanf(file, "%lld %lld", &quota, &period) != 2) quota = -1;
    std::fclose(file);
  } else if (FILE* v1 = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r")) {
    if (std::fscanf(v1, "%lld", &quota) != 1) quota = -1;
    std::fclose(v1);
    if (FILE* p = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r")) {
      if (std::fscanf(p, "%lld", &period) != 1) quota = -1;
      std::fclose(p);
    }
  }
  return quota > 0 && period > 0 ? int(ceil_div(quota, period)) : 0;
}

// Cores that this process may use: threads that share a core share its arithmetic units and caches, for which
// the kernels' tiles are made. 0 where the system does not say.
int usable_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 0;
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    const std::string path =
        "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list";
    char siblings[256];
    FILE* file = std::fopen(path.c_str(), "r");
    const bool read = file && std::fgets(siblings, sizeof siblings, file);
    if (file) std::fclose(file);
    if (!read) return CPU_COUNT(&set);
    cores.insert(siblings);
  }
  return int(cores.size());
#elif defined(__APPLE__)
  int cores = 0;
  size_t size = sizeof cores;
  return sysctlbyname("hw.physicalcpu", &cores, &size, nullptr, 0) == 0 ? cores : 0;
#else
  return 0;
#endif
}

int default_threads() {
  for (const char* name : {"FASTDL_NUM_THREADS", "OMP_NUM_THREADS"}) {
    if (const char* text = std::getenv(name)) {
      const int n = std::atoi(text);  // OMP_NUM_THREADS may be a list: its first number counts
      if (n >= 1) return std::min(n, kMostThreads);
    }
  }
  int cpus = usable_cores();
  if (cpus == 0) cpus = int(std::thread::hardware_concurrency());
  if (const int limit = cgroup_cpus()) cpus = std::min(cpus, limit);
  return std::max(cpus, 1);
}

class Pool {
 public:
  void run(int64_t count, detail::Task task, void* context, bool worth_waking, int threads) {
    std::unique_lock<std::mutex> lock(launch_, std::try_to_lock);
    if (lock.owns_lock() && !worth_waking && all_asleep()) {
      worth_waking = one_of_many();
      if (!worth_waking) lock.unlock();
    }
    if (!lock.owns_lock()) return run_inline(count, task, context);
    start_workers(threads - 1);
    task_ = task;
    context_ = context;
    wanted_ = threads - 1;
    error_ = nullptr;
    for (int i = 0; i < threads; ++i) {
      shares_[i].next.store(count * i / threads, std::memory_order_relaxed);
      shares_[i].end = count * (i + 1) / threads;
    }
    const uint64_t epoch = (state_.load(std::memory_order_relaxed) >> 16) + 1;
    state_.store(epoch << 16 | kOpen, std::memory_order_seq_cst);
    const uint64_t call = epoch << 32 | (worth_waking ? kWake : 0) | uint64_t(wanted_);
    call_.store(call, std::memory_order_seq_cst);
    wake_next(0, call);

    work(0);
    state_.fetch_and(~uint64_t{kOpen}, std::memory_order_seq_cst);
    for (int spins = 0; (state_.load(std::memory_order_acquire) & kInside) != 0; ++spins) {
      pause();
      if (spins > 20000) std::this_thread::yield();
    }
    if (error_) {
      std::exception_ptr error = error_;
      error_ = nullptr;
      lock.unlock();
      std::rethrow_exception(error);
    }
  }

  int started() const { return started_.load(std::memory_order_relaxed); }

 private:
  static constexpr uint64_t kOpen = 0x8000, kInside = 0x7fff;   // of state_
  static constexpr uint64_t kWake = 0x10000, kWanted = 0xffff;  // of call_, below the epoch

  // Worker 1 takes part in every job: nobody is awake longer. (launch_ is held.)
  bool all_asleep() const {
    return started() == 0 || sleepers_[1]->asleep.load(std::memory_order_relaxed) != 0;
  }

  // Wakes those of the next four workers whom the call wants.
  void wake_next(int index, uint64_t call) {
    if (!(call & kWake)) return;
    for (int i = 4 * index + 1; i <= std::min(4 * index + 4, int(call & kWanted)); ++i) {
      std::atomic<int>& asleep = sleepers_[i]->asleep;
      if (asleep.load(std::memory_order_seq_cst) && asleep.exchange(0, std::memory_order_seq_cst))
        asleep.notify_one();
    }
  }

  // Whether many short jobs came straight one after another, all threads asleep: one that is woken for this
  // one is there for the next ones. (launch_ is held.)
  bool one_of_many() {
    const auto now = std::chrono::steady_clock::now();
    in_a_row_ = now - last_short_ < std::chrono::microseconds(200) ? in_a_row_ + 1 : 0;
    last_short_ = now;
    return in_a_row_ >= 16;
  }

  // Nested calls are cut as they are on the pool: whether it was free must not show in the bits.
  static void run_inline(int64_t count, detail::Task task, void* context) {
    struct Region {
      Region() { t_in_parallel = true; }
      ~Region() { t_in_parallel = false; }
    } region;
    for (int64_t i = 0; i < count; ++i) task(context, i);
  }

  void work(int index) {
    t_in_parallel = true;
    const int threads = wanted_ + 1;
    for (int i = 0; i < threads; ++i) {
      Share& share = shares_[(index + i) % threads];
      while (share.next.load(std::memory_order_relaxed) < share.end) {
        const int64_t task = share.next.fetch_add(1, std::memory_order_relaxed);
        if (task >= share.end) break;
        try {
          task_(context_, task);
        } catch (...) {  // carried to the caller, which rethrows it
          std::lock_guard<std::mutex> guard(error_mutex_);
          if (!error_) error_ = std::current_exception();
          for (int j = 0; j < threads; ++j) shares_[j].next.store(shares_[j].end, std::memory_order_relaxed);
        }
      }
    }
    t_in_parallel = false;
  }

  void start_workers(int wanted) {  // nobody is inside a job now
    if (wanted >= share_count_) {
      share_count_ = wanted + 1;
      shares_.reset(new Share[size_t(share_count_)]);
    }
    for (int i = started_.load(std::memory_order_relaxed); i < wanted; ++i) {
      sleepers_[i + 1] = new Sleeper;
      std::thread([this, i] { loop(i + 1); }).detach();
      started_.store(i + 1, std::memory_order_relaxed);
    }
  }

  void loop(int index) {
    t_index = index;
    FlushDenormals flush;
    uint64_t seen = 0;
    for (;;) {
      seen = wait_for_call(index, seen);
      wake_next(index, seen);
      uint64_t state = state_.load(std::memory_order_seq_cst);
      // Join only the job that is open now, and only while it is.
      bool joined = false;
      while (state & kOpen) {
        if (state_.compare_exchange_weak(state, state + 1, std::memory_order_seq_cst)) {
          joined = true;
          break;
        }
      }
      if (!joined) continue;
      if (index <= wanted_) work(index);
      state_.fetch_sub(1, std::memory_order_release);
    }
  }

  // The next call after `seen` that wants this worker. Calls that do not are no reason to go on spinning.
  uint64_t wait_for_call(int index, uint64_t seen) {
    using clock = std::chrono::steady_clock;
    const auto is_for_me = [&] {
      const uint64_t call = call_.load(std::memory_order_seq_cst);
      const bool wanted = call != seen && index <= int(call & kWanted);
      seen = call;
      return wanted;
    };
    std::atomic<int>& asleep = sleepers_[index]->asleep;
    for (;;) {
      const auto deadline = clock::now() + std::chrono::microseconds(200);
      for (int i = 1; i % 64 != 0 || clock::now() <= deadline; ++i) {
        if (is_for_me()) return seen;
        pause();
      }
      asleep.store(1, std::memory_order_seq_cst);
      // A caller that did not see the sleeper has published its call before.
      if (is_for_me()) {
        asleep.store(0, std::memory_order_seq_cst);
        return seen;
      }
      asleep.wait(1, std::memory_order_seq_cst);
    }
  }

  std::mutex launch_, error_mutex_;
  std::exception_ptr error_;
  detail::Task task_ = nullptr;
  void* context_ = nullptr;
  int wanted_ = 0, share_count_ = 0, in_a_row_ = 0;
  std::chrono::steady_clock::time_point last_short_{};
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  std::unique_ptr<Share[]> shares_;
  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<uint64_t> call_{0};
  alignas(64) std::atomic<int> started_{0};
  struct alignas(64) Sleeper {
    std::atomic<int> asleep{0};
  };
  Sleeper* sleepers_[kMostThreads] = {};  // of each worker; made before it starts
};

// Leaked on purpose: workers may outlive static destruction, and after fork the parent's pool cannot be
// destroyed.
std::atomic<Pool*> g_pool{nullptr};
std::atomic<int> g_threads{0};

Pool& pool() {
  Pool* current = g_pool.load(std::memory_order_acquire);
  if (current) return *current;
  static std::once_flag registered;
  std::call_once(registered, [] {
    pthread_atfork(nullptr, nullptr, [] {
      g_pool.store(nullptr, std::memory_order_relaxed);
      t_index = 0;
      t_in_parallel = false;
    });
  });
  Pool* made = new Pool;
  if (g_pool.compare_exchange_strong(current, made)) return *made;
  delete made;
  return *current;
}

}  // namespace

int num_threads() {
  int n = g_threads.load(std::memory_order_relaxed);
  if (n == 0) g_threads.store(n = default_threads(), std::memory_order_relaxed);
  return n;
}

void set_num_threads(int n) {
  if (n < 1) throw std::invalid_argument("set_num_threads: n must be at least 1, got " + std::to_string(n));
  g_threads.store(std::min(n, kMostThreads), std::memory_order_relaxed);
}

int thread_index() {
  return t_index;
}

int workers_started() {
  Pool* current = g_pool.load(std::memory_order_acquire);
  return current ? current->started() : 0;
}

namespace detail {

bool in_parallel() {
  return t_in_parallel;
}

void run(int64_t count, Task task, void* context, bool worth_waking) {
  const int threads = num_threads();
  if (t_in_parallel || threads == 1 || count <= 1) {
    for (int64_t i = 0; i < count; ++i) task(context, i);
    return;
  }
#ifdef FASTDL_SIMULATED_THREADS
  t_in_parallel = true;
  simulated::run(count, int(std::min<int64_t>(threads, count)), [=](int thread, int64_t index) {
    t_index = thread;
    task(context, index);
  });
  t_index = 0;
  t_in_parallel = false;
#else
  pool().run(count, task, context, worth_waking, int(std::min<int64_t>(threads, count)));
#endif
}

}  // namespace detail
}  // namespace fastdl

#ifdef FASTDL_SIMULATED_THREADS
void fastdl_simulated_totals(double* inside_work_critical_jobs) {
  const auto t = std::exchange(fastdl::simulated::totals, {});
  std::copy_n(std::to_array({t.inside, t.work, t.critical, t.jobs}).data(), 4, inside_work_critical_jobs);
}
#endif
