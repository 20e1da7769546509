// A ThreadPool over any pool that can only schedule functions, TensorFlow's or XLA's.
//
// The caller works through the tasks itself, and whichever threads of the pool come free help. It
// waits for tasks that are being worked on, never for a helper that has not begun: calling from a
// thread of the same pool cannot deadlock, and a busy pool only means less help. A helper that is
// late finds nothing left to do; what it looks at then belongs to it as well as to the caller.

#ifndef KERAS_NORMS_KERNELS_CPU_SHARED_WORK_H_
#define KERAS_NORMS_KERNELS_CPU_SHARED_WORK_H_

#include <algorithm>
#include <atomic>
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

  // Valid for as long as this object.
  ThreadPool pool() { return {&SharedWork::Run, this}; }

 private:
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
      done_ += done;
      if (done_ == count_) all_done_.notify_one();
    }

    void Wait() {
      std::unique_lock<std::mutex> lock(mutex_);
      all_done_.wait(lock, [this] { return done_ == count_; });
    }

   private:
    const int64_t count_;
    const ThreadPool::Task task_;
    void* const context_;  // Gone once all tasks are done; only tasks look at it.
    std::atomic<int64_t> next_{0};
    std::mutex mutex_;
    std::condition_variable all_done_;
    int64_t done_ = 0;
  };

  static void Run(void* pool, int64_t count, ThreadPool::Task task, void* context) {
    auto* self = static_cast<SharedWork*>(pool);
    auto job = std::make_shared<Job>(count, task, context);
    const int64_t helpers = std::min(self->threads_, count) - 1;
    for (int64_t i = 0; i < helpers; ++i) self->schedule_([job] { job->Work(); });
    job->Work();
    job->Wait();
  }

  const int64_t threads_;
  const Schedule schedule_;
};

}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_CPU_SHARED_WORK_H_
