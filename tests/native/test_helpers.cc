// Helpers: each task runs once, callers that call at once finish, late helpers are safe.
//
//   g++ -std=c++17 -O1 -g -fsanitize=thread -pthread -I custom_ops/kernels
//     tests/native/test_helpers.cc custom_ops/kernels/cpu/helpers.cc

#include "cpu/helpers.h"

#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace {

using keras_norms::Helpers;

void Check(bool promise, const char* sentence) {
  if (promise) return;
  std::fprintf(stderr, "FAILED: %s\n", sentence);
  std::exit(1);
}

// The sum of what 0..count-1 leave in memory that lives no longer than the call.
int64_t SumOfSquares(int threads, int64_t count) {
  Helpers helpers(threads);
  std::vector<int64_t> squares(count, -1);
  helpers.pool().ForEach(count, [&](int64_t i) { squares[i] = squares[i] == -1 ? i * i : -2; });
  int64_t sum = 0;
  for (int64_t square : squares) {
    Check(square >= 0, "every task runs exactly once");
    sum += square;
  }
  return sum;
}

int64_t ExpectedSum(int64_t count) { return (count - 1) * count * (2 * count - 1) / 6; }

void TestEveryTaskRunsOnce() {
  for (int64_t count : {0, 1, 2, 3, 7, 1000}) {
    for (int threads : {1, 2, 4, 9}) {
      Check(SumOfSquares(threads, count) == ExpectedSum(count), "all tasks are done");
    }
  }
}

// One pass right after the other, while helpers of the last one may still be on their way.
void TestPassesInARow() {
  for (int i = 0; i < 2000; ++i) {
    Check(SumOfSquares(4, 5) == ExpectedSum(5), "passes do not mix");
  }
}

void TestManyCallersAtOnce() {
  std::atomic<int> right{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      for (int k = 0; k < 100; ++k) right += SumOfSquares(3, 30) == ExpectedSum(30);
    });
  }
  for (std::thread& caller : callers) caller.join();
  Check(right == 400, "calls at the same time do not mix");
}

// What is computed must not depend on who computes it.
void TestFloatingPointModeOfTheCaller() {
#if defined(__SSE2__)
  const unsigned int before = _mm_getcsr();
  _mm_setcsr(before | 0x8040);  // Subnormal numbers are 0.
  Helpers helpers(4);
  std::atomic<int> same{0};
  helpers.pool().ForEach(1000, [&](int64_t) { same += (_mm_getcsr() & 0x8040) == 0x8040; });
  _mm_setcsr(before);
  Check(same == 1000, "helpers compute in the mode of the caller");
#endif
}

// A child has no helpers, but finishes.
void TestAfterAFork() {
  const pid_t child = fork();
  if (child == 0) _exit(SumOfSquares(4, 50) == ExpectedSum(50) ? 0 : 1);
  int status = 1;
  waitpid(child, &status, 0);
  Check(status == 0, "the caller does the work alone");
}

}  // namespace

int main() {
  TestEveryTaskRunsOnce();
  TestPassesInARow();
  TestManyCallersAtOnce();
  TestFloatingPointModeOfTheCaller();
  TestAfterAFork();
  return 0;
}
