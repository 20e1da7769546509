// A ThreadPool over any pool that can only schedule functions, TensorFlow's or XLA's.
//
// The caller works through the tasks itself, and whichever threads of the pool come free help. It
// waits for tasks that are being worked on, never for a helper that has not begun: calling from a
// thread of the same pool cannot deadlock, and a busy pool only means less help. A helper that is
// late finds nothing left to do; what it looks at then belongs to it as well as to the caller.
//
// To wake a thread takes longer than a pass over a small activation. So helpers are asked for once,
// and between two passes of one call they, and the caller, look out for each other for a moment
// before they go to sleep.

#ifndef KERAS_NORMS_KERNELS_CPU_SHARED_WORK_H_
#define KERAS_NORMS_KERNELS_CPU_SHARED_WORK_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "../thread_pool.h"

namespace keras_norms {

class SharedWork {
 public:
  using Schedule = std::function<void(std::function<void()>)>;

  // `threads`: how many work at the same time, the caller included.
  SharedWork(int64_t threads, Schedule schedule)
      : threads_(threads), schedule_(std::move(schedule)) {}
  ~SharedWork() {
    if (board_ != nullptr) board_->Post(nullptr);
  }
  SharedWork(const SharedWork&) = delete;
  SharedWork& operator=(const SharedWork&) = delete;

  // Valid for as long as this object.
  ThreadPool pool() { return {&SharedWork::Run, this}; }

 private:
  // How long a thread looks out for another before it goes to sleep.
  static constexpr std::chrono::microseconds kLookout{50};

  // Whether `holds` becomes true within that time.
  template <typename Holds>
  static bool Becomes(const Holds& holds) {
    const auto end = std::chrono::steady_clock::now() + kLookout;
    do {
      for (int i = 0; i < 64; ++i) {
        if (holds()) return true;
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      }
    } while (std::chrono::steady_clock::now() < end);
    return false;
  }

  class Job {
   public:
    Job(int64_t count, ThreadPool::Task task, void* context)
        : count_(count), task_(task), context_(context) {}

    void Work() {
      int64_t done = 0;
      for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < count_; ++done) {
        task_(context_, i);
      }
      if (done == 0) return;
      std::lock_guard<std::mutex> lock(mutex_);
      if (done_.fetch_add(done, std::memory_order_release) + done == count_) {
        all_done_.notify_one();
      }
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
    std::atomic<int64_t> next_{0};
    std::mutex mutex_;
    std::condition_variable all_done_;
    std::atomic<int64_t> done_{0};
  };

  // Where the caller puts its jobs and helpers find them.
  class Board {
   public:
    // Null says that there are no more.
    void Post(std::shared_ptr<Job> job) {
      std::lock_guard<std::mutex> lock(mutex_);
      is_over_ = job == nullptr;
      job_ = std::move(job);
      posts_.fetch_add(1, std::memory_order_release);
    }

    void Help() {
      for (int64_t seen = 0;;) {
        const auto is_new = [&] { return posts_.load(std::memory_order_acquire) != seen; };
        if (!Becomes(is_new)) return;
        std::shared_ptr<Job> job;
        {
          std::lock_guard<std::mutex> lock(mutex_);
          seen = posts_.load(std::memory_order_relaxed);
          if (is_over_) return;
          job = job_;
        }
        job->Work();
      }
    }

   private:
    std::mutex mutex_;
    std::shared_ptr<Job> job_;
    bool is_over_ = false;
    std::atomic<int64_t> posts_{0};
  };

  static void Run(void* pool, int64_t count, ThreadPool::Task task, void* context) {
    auto* self = static_cast<SharedWork*>(pool);
    auto job = std::make_shared<Job>(count, task, context);
    self->Ask(std::min(self->threads_, count) - 1, job);
    job->Work();
    job->Wait();
  }

  void Ask(int64_t helpers, const std::shared_ptr<Job>& job) {
    if (helpers < 1) return;
    if (board_ == nullptr) board_ = std::make_shared<Board>();
    board_->Post(job);
    for (; asked_ < helpers; ++asked_) {
      schedule_([board = board_] { board->Help(); });
    }
  }

  const int64_t threads_;
  const Schedule schedule_;
  std::shared_ptr<Board> board_;
  int64_t asked_ = 0;
};

}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_CPU_SHARED_WORK_H_
