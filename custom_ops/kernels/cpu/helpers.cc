#include "helpers.h"

#include <sched.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "older_systems.h"

namespace keras_norms {
namespace {

// How long a thread looks out for another before it goes to sleep.
constexpr std::chrono::microseconds kLookout{60};

// Whether `holds` becomes true within that time.
template <typename Holds>
bool Becomes(const Holds& holds) {
  const auto end = std::chrono::steady_clock::now() + kLookout;
  do {
    for (int i = 0; i < 32; ++i) {
      if (holds()) return true;
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// Whether subnormal numbers are taken for 0, and how results are rounded. TensorFlow sets that for
// its threads, and what helpers compute must have the same bits.
#if defined(__SSE2__)
unsigned int FloatingPointMode() { return _mm_getcsr(); }
void SetFloatingPointMode(unsigned int mode) { _mm_setcsr(mode); }
#else
unsigned int FloatingPointMode() { return 0; }
void SetFloatingPointMode(unsigned int) {}
#endif

// The tasks of one pass.
class Job {
 public:
  Job(int64_t count, ThreadPool::Task task, void* context)
      : count_(count), task_(task), context_(context) {}

  void Help() {
    SetFloatingPointMode(mode_);
    Work();
  }

  void Work() {
    int64_t done = 0;
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_; ++done) {
      task_(context_, i);
    }
    if (done == 0) return;
    std::lock_guard<std::mutex> lock(mutex_);
    if (done_.fetch_add(done, std::memory_order_release) + done == count_) all_done_.notify_one();
  }

  void Wait() {
    const auto is_done = [this] { return done_.load(std::memory_order_acquire) == count_; };
    if (Becomes(is_done)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    all_done_.wait(lock, is_done);
  }

 private:
  const int64_t count_;
  const ThreadPool::Task task_;
  void* const context_;  // Gone once all tasks are done; only tasks look at it.
  const unsigned int mode_ = FloatingPointMode();
  std::atomic<int64_t> next_{0};
  std::mutex mutex_;
  std::condition_variable all_done_;
  std::atomic<int64_t> done_{0};
};

// A thread bound to a processor.
class Helper {
 public:
  explicit Helper(int processor) : processor_(processor) {
    std::thread([this] {
      cpu_set_t set;
      CPU_ZERO(&set);
      CPU_SET(processor_, &set);
      // Where that is forbidden it runs where the system likes.
      sched_setaffinity(/*this thread*/ 0, sizeof set, &set);
      Loop();
    }).detach();
  }

  int processor() const { return processor_; }

  // Takes the job and returns true, or is busy.
  bool Take(const std::shared_ptr<Job>& job) {
    bool idle = true;
    if (!is_idle_.compare_exchange_strong(idle, false, std::memory_order_acq_rel)) return false;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      job_ = job;
      has_job_.store(true, std::memory_order_release);
      if (!is_asleep_) return true;
    }
    wakes_.notify_one();
    return true;
  }

 private:
  void Loop() {
    const auto has_job = [this] { return has_job_.load(std::memory_order_acquire); };
    for (;;) {
      Becomes(has_job);
      std::shared_ptr<Job> job;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        is_asleep_ = true;
        wakes_.wait(lock, has_job);
        is_asleep_ = false;
        job = std::move(job_);
        has_job_.store(false, std::memory_order_relaxed);
      }
      job->Help();
      job.reset();
      is_idle_.store(true, std::memory_order_release);
    }
  }

  const int processor_;
  std::atomic<bool> is_idle_{true};  // Whoever makes it false gives the next job.
  std::atomic<bool> has_job_{false};
  std::mutex mutex_;
  std::condition_variable wakes_;
  bool is_asleep_ = false;
  std::shared_ptr<Job> job_;
};

// One for each processor that this process may use. They live as long as the process does.
const std::vector<Helper*>& AllHelpers() {
  static const auto* const helpers = [] {
    auto* made = new std::vector<Helper*>();
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return made;
    for (int processor = 0; processor < CPU_SETSIZE; ++processor) {
      if (CPU_ISSET(processor, &set)) made->push_back(new Helper(processor));
    }
    return made;
  }();
  return *helpers;
}

}  // namespace

void Helpers::Run(void* self, int64_t count, ThreadPool::Task task, void* context) {
  const auto job = std::make_shared<Job>(count, task, context);
  int64_t wanted = std::min(static_cast<Helpers*>(self)->threads_, count) - 1;
  if (wanted > 0) {
    const int own = sched_getcpu();
    for (Helper* helper : AllHelpers()) {
      if (helper->processor() != own && helper->Take(job) && --wanted == 0) break;
    }
  }
  job->Work();
  job->Wait();
}

}  // namespace keras_norms
