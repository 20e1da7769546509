// Runs a CPU kernel inside an op: scratch memory and threads are TensorFlow's.

#ifndef KERAS_NORMS_OPS_RUN_ON_CPU_H_
#define KERAS_NORMS_OPS_RUN_ON_CPU_H_

#include <cstdlib>
#include <utility>

#include "kernels/cpu/shared_work.h"
#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace keras_norms {

// The options of the session, or null: TensorFlow 2.15 does not hand them out.
template <typename Context>
auto SessionConfig(const Context& context, int) -> decltype(context.session_config()) {
  return context.session_config();
}
template <typename Context>
const tensorflow::ConfigProto* SessionConfig(const Context&, long) {
  return nullptr;
}

// Whether TensorFlow's pool for operations (inter-op) is as large as that for work within one.
inline bool HasOperationThreads(const tensorflow::OpKernelContext& context, int wanted) {
  const tensorflow::ConfigProto* config = SessionConfig(context, 0);
  if (config == nullptr || context.runner() == nullptr) return false;
  const int given = config->inter_op_parallelism_threads();  // 0: one a core, or as said there:
  return given == 0 ? std::getenv("TF_NUM_INTEROP_THREADS") == nullptr : given >= wanted;
}

// As many threads as TensorFlow grants an operation. Helpers come from the pool that runs operations
// where it is large enough: its threads have just finished one and are awake. Those of the intra-op
// pool have to be woken, and on a machine of few cores the system tends to put them on the core of the
// caller, where they wait until nothing is left to do.
inline SharedWork WorkOf(tensorflow::OpKernelContext* context) {
  const auto* threads = context->device()->tensorflow_cpu_worker_threads();
  SharedWork::Schedule schedule = [threads](std::function<void()> function) {
    threads->workers->Schedule(std::move(function));
  };
  if (HasOperationThreads(*context, threads->num_threads)) schedule = *context->runner();
  return SharedWork(threads->num_threads, std::move(schedule));
}

// Runs a kernel with these threads.
template <typename Arguments>
void RunOnCpu(tensorflow::OpKernelContext* context, const Arguments& arguments,
              int64_t (*scratch_size)(const Arguments&),
              void (*kernel)(const Arguments&, void*, const ThreadPool&)) {
  tensorflow::Tensor scratch;
  OP_REQUIRES_OK(context, context->allocate_temp(
                              tensorflow::DT_INT8,
                              tensorflow::TensorShape({scratch_size(arguments)}), &scratch));
  SharedWork work = WorkOf(context);
  kernel(arguments, scratch.data(), work.pool());
}

}  // namespace keras_norms

#endif  // KERAS_NORMS_OPS_RUN_ON_CPU_H_
