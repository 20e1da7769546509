// Runs a CPU kernel inside an op: scratch memory is TensorFlow's, and so is the number of threads.

#ifndef KERAS_NORMS_OPS_RUN_ON_CPU_H_
#define KERAS_NORMS_OPS_RUN_ON_CPU_H_

#include "kernels/cpu/helpers.h"
#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace keras_norms {

// As many as TensorFlow grants an operation.
inline Helpers HelpersOf(tensorflow::OpKernelContext* context) {
  return Helpers(context->device()->tensorflow_cpu_worker_threads()->num_threads);
}

template <typename Arguments>
void RunOnCpu(tensorflow::OpKernelContext* context, const Arguments& arguments,
              int64_t (*scratch_size)(const Arguments&),
              void (*kernel)(const Arguments&, void*, const ThreadPool&)) {
  tensorflow::Tensor scratch;
  OP_REQUIRES_OK(context, context->allocate_temp(
                              tensorflow::DT_INT8,
                              tensorflow::TensorShape({scratch_size(arguments)}), &scratch));
  Helpers helpers = HelpersOf(context);
  kernel(arguments, scratch.data(), helpers.pool());
}

}  // namespace keras_norms

#endif  // KERAS_NORMS_OPS_RUN_ON_CPU_H_
