// Runs a CPU kernel inside an op: scratch memory from TensorFlow, threads from its intra-op pool.

#ifndef KERAS_NORMS_OPS_RUN_ON_CPU_H_
#define KERAS_NORMS_OPS_RUN_ON_CPU_H_

#include <utility>

#include "kernels/cpu/shared_work.h"
#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace keras_norms {

template <typename Arguments>
void RunOnCpu(tensorflow::OpKernelContext* context, const Arguments& arguments,
              int64_t (*scratch_size)(const Arguments&),
              void (*kernel)(const Arguments&, void*, const ThreadPool&)) {
  tensorflow::Tensor scratch;
  OP_REQUIRES_OK(context, context->allocate_temp(
                              tensorflow::DT_INT8,
                              tensorflow::TensorShape({scratch_size(arguments)}), &scratch));
  const auto* threads = context->device()->tensorflow_cpu_worker_threads();
  SharedWork work(threads->num_threads, [threads](std::function<void()> function) {
    threads->workers->Schedule(std::move(function));
  });
  kernel(arguments, scratch.data(), work.pool());
}

}  // namespace keras_norms

#endif  // KERAS_NORMS_OPS_RUN_ON_CPU_H_
