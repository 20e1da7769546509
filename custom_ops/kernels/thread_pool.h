// How a CPU kernel uses the threads of whoever calls it: TensorFlow's, XLA's, or none.

#ifndef KERAS_NORMS_KERNELS_THREAD_POOL_H_
#define KERAS_NORMS_KERNELS_THREAD_POOL_H_

#include <cstdint>

namespace keras_norms {

// Runs tasks 0..count-1, in any order and on any threads, and returns when all are done. What a task
// computes must not depend on the thread or the order.
struct ThreadPool {
  using Task = void (*)(void* context, int64_t index);
  // Null: one after the other on the calling thread.
  void (*run)(void* pool, int64_t count, Task task, void* context) = nullptr;
  void* pool = nullptr;

  template <typename Body>  // Body: void(int64_t index)
  void ForEach(int64_t count, const Body& body) const {
    if (run == nullptr || count < 2) {
      for (int64_t i = 0; i < count; ++i) body(i);
      return;
    }
    run(pool, count, [](void* context, int64_t i) { (*static_cast<const Body*>(context))(i); },
        const_cast<Body*>(&body));
  }
};

}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_THREAD_POOL_H_
