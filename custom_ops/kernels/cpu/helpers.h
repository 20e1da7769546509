// A ThreadPool of threads of our own, one a processor, that help whoever calls a kernel.
//
// Why not those of TensorFlow or XLA: to wake one of them takes longer than a pass over a small
// activation, and where cores are few the system tends to put it on the core of the caller, where it
// waits until nothing is left to do. Ours are bound to their processors; a caller asks those of
// other processors than his own, and for a moment after a pass they look out for the next one
// before they go to sleep.
//
// The caller works through the tasks itself. It waits for tasks that are being worked on, never for
// a helper that has not begun, so nothing can deadlock, after a fork either, which has no helpers.
// A helper that is late finds nothing left to do; what it looks at then belongs to it as well as to
// the caller.

#ifndef KERAS_NORMS_KERNELS_CPU_HELPERS_H_
#define KERAS_NORMS_KERNELS_CPU_HELPERS_H_

#include <cstdint>

#include "../thread_pool.h"

namespace keras_norms {

// `threads`: how many work at the same time, the caller included.
class Helpers {
 public:
  explicit Helpers(int64_t threads) : threads_(threads) {}

  // Valid for as long as this object.
  ThreadPool pool() { return {&Helpers::Run, this}; }

 private:
  static void Run(void* self, int64_t count, ThreadPool::Task task, void* context);

  const int64_t threads_;
};

}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_CPU_HELPERS_H_
