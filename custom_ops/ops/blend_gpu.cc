// KerasNorms>Blend on an NVIDIA GPU.

#include "ops/blend_kernel.h"
#include "ops/run_on_gpu.h"

namespace keras_norms {
namespace {

void Run(tensorflow::OpKernelContext* context, const BlendArguments& arguments) {
  RunOnGpu(context, arguments, BlendScratchCuda, BlendCuda);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>Blend")
                            .Device(tensorflow::DEVICE_GPU)
                            .TypeConstraint("T", kActivationTypes),
                        BlendOp<Run>);

}  // namespace
}  // namespace keras_norms
