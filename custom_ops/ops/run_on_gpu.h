// Queues a CUDA kernel on the stream of an op. CUDA itself is not needed to compile this.

#ifndef KERAS_NORMS_OPS_RUN_ON_GPU_H_
#define KERAS_NORMS_OPS_RUN_ON_GPU_H_

#include "absl/status/status.h"
#include "tensorflow/core/framework/device_base.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "xla/stream_executor/stream.h"

typedef struct CUstream_st* cudaStream_t;

namespace keras_norms {

inline cudaStream_t StreamOf(tensorflow::OpKernelContext* context) {
  return static_cast<cudaStream_t>(
      context->op_device_context()->stream()->platform_specific_handle().stream);
}

template <typename Arguments>
void RunOnGpu(tensorflow::OpKernelContext* context, const Arguments& arguments,
              int64_t (*scratch_size)(const Arguments&),
              const char* (*kernel)(const Arguments&, void*, cudaStream_t)) {
  tensorflow::Tensor scratch;
  OP_REQUIRES_OK(context, context->allocate_temp(
                              tensorflow::DT_INT8,
                              tensorflow::TensorShape({scratch_size(arguments)}), &scratch));
  const char* problem = kernel(arguments, scratch.data(), StreamOf(context));
  OP_REQUIRES(context, problem == nullptr,
              absl::InternalError(context->op_kernel().type_string() + ": " + problem));
}

}  // namespace keras_norms

#endif  // KERAS_NORMS_OPS_RUN_ON_GPU_H_
