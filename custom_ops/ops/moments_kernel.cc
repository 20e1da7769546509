// KerasNorms>Moments on the CPU.

#include "ops/moments_kernel.h"
#include "ops/run_on_cpu.h"

namespace keras_norms {
namespace {

void Run(tensorflow::OpKernelContext* context, const MomentsArguments& arguments) {
  RunOnCpu(context, arguments, MomentsScratchCpu, MomentsCpu);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>Moments")
                            .Device(tensorflow::DEVICE_CPU)
                            .TypeConstraint("T", kActivationTypes),
                        MomentsOp<Run>);

}  // namespace
}  // namespace keras_norms
