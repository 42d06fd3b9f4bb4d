#include "threads.h"

#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

namespace effnet {
namespace {

cpu_set_t processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  // Of the process's first thread: a framework may have moved the calling one.
  sched_getaffinity(getpid(), sizeof set, &set);
  return set;
}

// Threads that sleep between operators. The caller works too.
class Pool {
 public:
  Pool() : set_(processors()) {
    const int wanted = CPU_COUNT(&set_) > 0 ? CPU_COUNT(&set_) : 1;
    for (int i = 1; i < wanted; ++i) {
      try {
        threads_.emplace_back([this] { serve(); });
      } catch (const std::system_error&) {
        break;  // a limit on threads: those that there are do the work
      }
    }
  }

  int size() const { return static_cast<int>(threads_.size()) + 1; }

  void run(int64_t tasks, const std::function<void(int64_t)>& work) {
    std::unique_lock<std::mutex> turn(turn_, std::try_to_lock);
    // The framework may run two operators at once; the second then does its tasks alone.
    if (!turn.owns_lock() || threads_.empty() || tasks < 2) {
      for (int64_t task = 0; task < tasks; ++task) work(task);
      return;
    }
    failure_ = nullptr;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      work_ = &work;
      tasks_ = tasks;
      next_.store(0);
      busy_ = static_cast<int>(threads_.size());
      ++round_;
    }
    wake_.notify_all();
    take(work, tasks);
    std::unique_lock<std::mutex> lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  void take(const std::function<void(int64_t)>& work, int64_t tasks) {
    try {
      for (int64_t task; (task = next_.fetch_add(1)) < tasks;) work(task);
    } catch (...) {
      std::lock_guard<std::mutex> lock(mutex_);
      failure_ = std::current_exception();
    }
  }

  void serve() {
    sched_setaffinity(0, sizeof set_, &set_);
    uint64_t seen = 0;
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return round_ != seen; });
      seen = round_;
      const auto* work = work_;
      const int64_t tasks = tasks_;
      lock.unlock();
      take(*work, tasks);
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  cpu_set_t set_;
  std::mutex turn_, mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(int64_t)>* work_ = nullptr;
  int64_t tasks_ = 0;
  std::atomic<int64_t> next_{0};
  int busy_ = 0;
  uint64_t round_ = 0;
  std::exception_ptr failure_;
  std::vector<std::thread> threads_;
};

// Never destroyed: its threads may still wait while the process ends.
Pool& pool() {
  static Pool* const only = new Pool;
  return *only;
}

struct Freed {
  void operator()(float* memory) const { std::free(memory); }
};

struct Slot {
  std::unique_ptr<float, Freed> memory;
  int64_t size = 0;
};

constexpr int kSlots = 8;
thread_local Slot slots[kSlots];

}  // namespace

int thread_count() { return pool().size(); }

void in_parallel(int64_t tasks, const std::function<void(int64_t)>& work) {
  pool().run(tasks, work);
}

float* scratch(int slot, int64_t count) {
  Slot& mine = slots[slot];
  if (mine.size < count) {
    const size_t bytes = (static_cast<size_t>(count) * sizeof(float) + 63) / 64 * 64;
    mine.memory.reset(static_cast<float*>(std::aligned_alloc(64, bytes)));
    if (!mine.memory) {
      mine.size = 0;
      throw std::bad_alloc();
    }
    mine.size = count;
  }
  return mine.memory.get();
}

}  // namespace effnet
