// KerasNorms>Moments on an NVIDIA GPU.

#include "ops/moments_kernel.h"
#include "ops/run_on_gpu.h"

namespace keras_norms {
namespace {

void Run(tensorflow::OpKernelContext* context, const MomentsArguments& arguments) {
  RunOnGpu(context, arguments, MomentsScratchCuda, MomentsCuda);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>Moments")
                            .Device(tensorflow::DEVICE_GPU)
                            .TypeConstraint("T", kActivationTypes),
                        MomentsOp<Run>);

}  // namespace
}  // namespace keras_norms
