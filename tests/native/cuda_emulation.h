// As much of CUDA as the kernels use, on the host: no GPU is needed to execute them.
//
// The CUDA threads of a block are contexts that take turns, or threads of the host for the thread
// sanitizer. Blocks run one after the other, so shared memory is static memory and sanitizers see
// every access. Blocks and grids are small, so that small arrays are split as large ones are on a GPU.

#ifndef KERAS_NORMS_TESTS_NATIVE_CUDA_EMULATION_H_
#define KERAS_NORMS_TESTS_NATIVE_CUDA_EMULATION_H_

#include <ucontext.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
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
inline const char* CopyMemory(void* to, const void* from, size_t bytes, cudaStream_t) {
  std::memcpy(to, from, bytes);
  return nullptr;
}
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

// The place of the CUDA thread that asks.
struct Place {
  Dimensions thread, block, grid;
};
inline thread_local Place place;

inline Dimensions ThreadIndex() { return place.thread; }
inline Dimensions BlockIndex() { return place.block; }
inline Dimensions GridSize() { return place.grid; }

// A barrier that only some threads of a block reach is an error; those that leave the kernel meet,
// too.
inline void CheckMeeting(unsigned leaving, unsigned threads) {
  if (leaving == 0 || leaving == threads) return;
  std::fprintf(stderr, "A barrier was not reached by all threads of its block.\n");
  std::abort();
}

#ifdef __SANITIZE_THREAD__

// Where the threads of a block wait for each other.
class Meeting {
 public:
  explicit Meeting(unsigned threads) : threads_(threads) {}

  void Wait(bool is_leaving) {
    const unsigned round = round_.load();
    if (is_leaving) ++leaving_;
    if (++waiting_ < threads_) {
      while (round_.load() == round) std::this_thread::yield();
      return;
    }
    CheckMeeting(leaving_.exchange(0), threads_);
    waiting_ = 0;
    ++round_;
  }

 private:
  const unsigned threads_;
  std::atomic<unsigned> waiting_{0}, leaving_{0}, round_{0};
};
inline thread_local Meeting* meeting;

inline void Barrier() { meeting->Wait(/*is_leaving=*/false); }

// A thread of the host for each CUDA thread, which the sanitizer watches.
template <typename Play, typename Blocks>
void RunBlocks(unsigned threads, const Play& play, const Blocks& for_each_block) {
  Meeting place_to_meet(threads);
  std::vector<std::thread> players;
  for (unsigned thread = 0; thread < threads; ++thread) {
    players.emplace_back([&, thread] {
      meeting = &place_to_meet;
      for_each_block([&](const Dimensions& block) {
        play(thread, block);
        meeting->Wait(/*is_leaving=*/true);
      });
    });
  }
  for (std::thread& player : players) player.join();
}

#else

// The CUDA threads of a block as contexts of one thread of the host: each runs up to its next
// barrier, then the next one does. That takes no time on a busy machine, where threads that wait for
// each other take minutes.
class Crew {
 public:
  explicit Crew(unsigned threads) : fibers_(threads) {}

  void Run(const std::function<void(unsigned)>& play) {
    play_ = &play;
    unsigned leaving = 0;
    for (Fiber& fiber : fibers_) Prepare(&fiber);
    for (bool forward = true; leaving == 0; forward = !forward) {
      // In turns from both ends, so that what lacks a barrier finds a value that is not there yet.
      for (unsigned i = 0; i < fibers_.size(); ++i) {
        current_ = forward ? i : static_cast<unsigned>(fibers_.size()) - 1 - i;
        swapcontext(&caller_, &fibers_[current_].context);
        leaving += fibers_[current_].has_left ? 1 : 0;
      }
      CheckMeeting(leaving, static_cast<unsigned>(fibers_.size()));
    }
  }

  void Barrier() {
    const Place kept = place;
    swapcontext(&fibers_[current_].context, &caller_);
    place = kept;
  }

 private:
  static constexpr size_t kStackBytes = 1 << 18;
  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStackBytes]};
    bool has_left = false;
  };

  void Prepare(Fiber* fiber);
  static void Enter();

  std::vector<Fiber> fibers_;
  ucontext_t caller_;
  const std::function<void(unsigned)>* play_ = nullptr;
  unsigned current_ = 0;
};
inline Crew* crew;

inline void Crew::Prepare(Fiber* fiber) {
  fiber->has_left = false;
  getcontext(&fiber->context);
  fiber->context.uc_stack.ss_sp = fiber->stack.get();
  fiber->context.uc_stack.ss_size = kStackBytes;
  fiber->context.uc_link = &caller_;
  makecontext(&fiber->context, &Crew::Enter, 0);
}

inline void Crew::Enter() {
  const unsigned thread = crew->current_;
  (*crew->play_)(thread);
  crew->fibers_[thread].has_left = true;
}

inline void Barrier() { crew->Barrier(); }

template <typename Play, typename Blocks>
void RunBlocks(unsigned threads, const Play& play, const Blocks& for_each_block) {
  Crew players(threads);
  crew = &players;
  for_each_block([&](const Dimensions& block) {
    players.Run([&](unsigned thread) { play(thread, block); });
  });
}

#endif

template <typename... Parameters, typename... Arguments>
const char* Launch(void (*kernel)(Parameters...), Dimensions grid, Dimensions block, cudaStream_t,
                   const Arguments&... arguments) {
  const unsigned threads = block.x * block.y * block.z;
  if (threads == 0 || threads > kThreads) return "The block has no valid size.";
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
    return "The grid has no valid size.";
  }
  const auto play = [&](unsigned thread, const Dimensions& block_index) {
    place = {Dimensions(thread % block.x, thread / block.x % block.y, 0), block_index, grid};
    kernel(arguments...);
  };
  RunBlocks(threads, play, [&](const auto& run_block) {
    for (unsigned z = 0; z < grid.z; ++z) {
      for (unsigned y = 0; y < grid.y; ++y) {
        for (unsigned x = 0; x < grid.x; ++x) run_block(Dimensions(x, y, z));
      }
    }
  });
  return nullptr;
}

}  // namespace keras_norms::cuda

#endif  // KERAS_NORMS_TESTS_NATIVE_CUDA_EMULATION_H_
