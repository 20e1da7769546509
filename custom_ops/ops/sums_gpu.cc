// KerasNorms>Sums on an NVIDIA GPU.

#include "ops/sums_kernel.h"
#include "ops/run_on_gpu.h"

namespace keras_norms {
namespace {

void Run(tensorflow::OpKernelContext* context, const SumsArguments& arguments) {
  RunOnGpu(context, arguments, SumsScratchCuda, SumsCuda);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>Sums")
                            .Device(tensorflow::DEVICE_GPU)
                            .TypeConstraint("T", kActivationTypes),
                        SumsOp<Run>);

}  // namespace
}  // namespace keras_norms
