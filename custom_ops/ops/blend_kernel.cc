// KerasNorms>Blend on the CPU.

#include "ops/blend_kernel.h"
#include "ops/run_on_cpu.h"

namespace keras_norms {
namespace {

void Run(tensorflow::OpKernelContext* context, const BlendArguments& arguments) {
  RunOnCpu(context, arguments, BlendScratchCpu, BlendCpu);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>Blend")
                            .Device(tensorflow::DEVICE_CPU)
                            .TypeConstraint("T", kActivationTypes),
                        BlendOp<Run>);

}  // namespace
}  // namespace keras_norms
