// A copy of floats by two threads with ordinary stores: the measure of what memory allows.

#include <cstdint>
#include <thread>

namespace {

void Copy(const float* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}

}  // namespace

extern "C" void copy_floats(const float* from, float* to, int64_t n) {
  const int64_t half = n / 2;
  std::thread other(Copy, from, to, half);
  Copy(from + half, to + half, n - half);
  other.join();
}
