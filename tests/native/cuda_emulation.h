// As much of CUDA as the kernels use, on the threads of the host: no GPU is needed to execute them.
//
// A thread of the host plays each CUDA thread of a block, and blocks run one after the other, so
// shared memory is static memory and sanitizers see every access. Blocks and grids are small, so
// that small arrays are split as large ones are on a GPU.

#ifndef KERAS_NORMS_TESTS_NATIVE_CUDA_EMULATION_H_
#define KERAS_NORMS_TESTS_NATIVE_CUDA_EMULATION_H_

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(...)

typedef struct CUstream_st* cudaStream_t;

namespace keras_norms::cuda {

constexpr int kThreads = 16;
constexpr int64_t kReductionBlocks = 6;
constexpr int64_t kElementwiseBlocks = 6;

struct Dimensions {
  unsigned x, y, z;
  Dimensions(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

struct alignas(16) Piece {
  char bytes[16];
};
// Memory is read and written as the arrays that the tests made, whatever they are of.
inline Piece LoadPiece(const Piece* from) {
  Piece piece;
  if (reinterpret_cast<uintptr_t>(from) % 16 != 0) std::abort();
  std::memcpy(piece.bytes, reinterpret_cast<const char*>(from), 16);
  return piece;
}
inline void StorePiece(const Piece& piece, Piece* to) {
  if (reinterpret_cast<uintptr_t>(to) % 16 != 0) std::abort();
  std::memcpy(reinterpret_cast<char*>(to), piece.bytes, 16);
}

struct Half {
  _Float16 value;
};
struct BFloat16 {
  uint16_t bits;
};

inline float Widen(Half x) { return static_cast<float>(x.value); }
inline float Widen(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline void Narrow(float from, Half* to) { to->value = static_cast<_Float16>(from); }
inline void Narrow(float from, BFloat16* to) {
  uint32_t bits;
  std::memcpy(&bits, &from, sizeof(bits));
  const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
  const uint32_t rounded = bits + 0x7fff + ((bits >> 16) & 1);  // To the nearest, ties to even.
  to->bits = is_nan ? 0x7fc0 : static_cast<uint16_t>(rounded >> 16);
}

// Where the threads of a block wait for each other.
class Meeting {
 public:
  explicit Meeting(int threads) : threads_(threads) {}

  // Threads that leave the kernel meet, too: a barrier that only some of them reached is an error.
  void Wait(bool is_leaving) {
    const int round = round_.load();
    if (is_leaving) ++leaving_;
    if (++waiting_ < threads_) {
      while (round_.load() == round) std::this_thread::yield();
      return;
    }
    const int leaving = leaving_.exchange(0);
    if (leaving != 0 && leaving != threads_) {
      std::fprintf(stderr, "A barrier was not reached by all threads of its block.\n");
      std::abort();
    }
    waiting_ = 0;
    ++round_;
  }

 private:
  const int threads_;
  std::atomic<int> waiting_{0}, leaving_{0}, round_{0};
};

// The place of the thread that asks.
struct Place {
  Dimensions thread, block, grid;
  Meeting* meeting = nullptr;
};
inline thread_local Place place;

inline Dimensions ThreadIndex() { return place.thread; }
inline Dimensions BlockIndex() { return place.block; }
inline Dimensions GridSize() { return place.grid; }
inline void Barrier() { place.meeting->Wait(/*is_leaving=*/false); }

template <typename... Parameters, typename... Arguments>
const char* Launch(void (*kernel)(Parameters...), Dimensions grid, Dimensions block, cudaStream_t,
                   const Arguments&... arguments) {
  const unsigned threads = block.x * block.y * block.z;
  if (threads == 0 || threads > kThreads) return "The block has no valid size.";
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
    return "The grid has no valid size.";
  }
  Meeting meeting(static_cast<int>(threads));
  const auto play = [&](unsigned thread) {
    place.thread = Dimensions(thread % block.x, thread / block.x % block.y, 0);
    place.grid = grid;
    place.meeting = &meeting;
    for (unsigned z = 0; z < grid.z; ++z) {
      for (unsigned y = 0; y < grid.y; ++y) {
        for (unsigned x = 0; x < grid.x; ++x) {
          place.block = Dimensions(x, y, z);
          kernel(arguments...);
          meeting.Wait(/*is_leaving=*/true);
        }
      }
    }
  };
  std::vector<std::thread> players;
  for (unsigned thread = 0; thread < threads; ++thread) players.emplace_back(play, thread);
  for (std::thread& player : players) player.join();
  return nullptr;
}

}  // namespace keras_norms::cuda

#endif  // KERAS_NORMS_TESTS_NATIVE_CUDA_EMULATION_H_
