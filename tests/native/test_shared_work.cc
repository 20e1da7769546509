// Shared work: each task runs once, callers on pool threads finish, late helpers are safe.
//
//   g++ -std=c++17 -O1 -g -fsanitize=thread -pthread -I custom_ops/kernels test_shared_work.cc

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <thread>
#include <vector>

#include "cpu/shared_work.h"

namespace {

using keras_norms::SharedWork;

void Check(bool promise, const char* sentence) {
  if (promise) return;
  std::fprintf(stderr, "FAILED: %s\n", sentence);
  std::exit(1);
}

// A queue and threads; functions that are left when it ends run in its destructor.
class Pool {
 public:
  explicit Pool(int threads) {
    for (int i = 0; i < threads; ++i) {
      threads_.emplace_back([this] {
        while (RunOne(true)) {
        }
      });
    }
  }
  ~Pool() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      closed_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
    while (RunOne(false)) {
    }
  }
  void Schedule(std::function<void()> function) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      queue_.push_back(std::move(function));
    }
    changed_.notify_one();
  }

 private:
  bool RunOne(bool wait) {
    std::function<void()> function;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      if (wait) changed_.wait(lock, [this] { return closed_ || !queue_.empty(); });
      if (queue_.empty()) return false;
      function = std::move(queue_.front());
      queue_.pop_front();
    }
    function();
    return true;
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  std::vector<std::thread> threads_;
  bool closed_ = false;
};

// The sum of what 0..count-1 leave in memory that lives no longer than the call.
int64_t SumOfSquares(Pool* pool, int threads, int64_t count) {
  SharedWork work(threads, [pool](std::function<void()> f) { pool->Schedule(std::move(f)); });
  std::vector<int64_t> squares(count, -1);
  work.pool().ForEach(count, [&](int64_t i) { squares[i] = squares[i] == -1 ? i * i : -2; });
  int64_t sum = 0;
  for (int64_t square : squares) {
    Check(square >= 0, "every task runs exactly once");
    sum += square;
  }
  return sum;
}

int64_t ExpectedSum(int64_t count) { return (count - 1) * count * (2 * count - 1) / 6; }

void TestEveryTaskRunsOnce() {
  Pool pool(3);
  for (int64_t count : {0, 1, 2, 3, 7, 1000}) {
    for (int threads : {1, 2, 4, 9}) {
      Check(SumOfSquares(&pool, threads, count) == ExpectedSum(count), "all tasks are done");
    }
  }
}

// The pool has no thread at all: helpers begin only after the call returned and its memory is gone.
void TestHelpersThatNeverComeInTime() {
  Pool pool(0);
  for (int i = 0; i < 100; ++i) {
    Check(SumOfSquares(&pool, 4, 50) == ExpectedSum(50), "the caller does the work alone");
  }
}

// All threads of the pool call at once, so nobody is free to help.
void TestCallersOnPoolThreads() {
  std::atomic<int> right{0};
  {
    Pool pool(2);
    for (int i = 0; i < 200; ++i) {
      pool.Schedule([&] { right += SumOfSquares(&pool, 3, 40) == ExpectedSum(40); });
    }
  }
  Check(right == 200, "calls from the pool's own threads finish");
}

void TestManyCallersAtOnce() {
  Pool pool(2);
  std::atomic<int> right{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      for (int k = 0; k < 100; ++k) right += SumOfSquares(&pool, 3, 30) == ExpectedSum(30);
    });
  }
  for (std::thread& caller : callers) caller.join();
  Check(right == 400, "calls at the same time do not mix");
}

}  // namespace

int main() {
  TestEveryTaskRunsOnce();
  TestHelpersThatNeverComeInTime();
  TestCallersOnPoolThreads();
  TestManyCallersAtOnce();
  return 0;
}
