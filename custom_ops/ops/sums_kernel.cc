// KerasNorms>Sums on the CPU.

#include "ops/sums_kernel.h"
#include "ops/run_on_cpu.h"

namespace keras_norms {
namespace {

void Run(tensorflow::OpKernelContext* context, const SumsArguments& arguments) {
  RunOnCpu(context, arguments, SumsScratchCpu, SumsCpu);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>Sums")
                            .Device(tensorflow::DEVICE_CPU)
                            .TypeConstraint("T", kActivationTypes),
                        SumsOp<Run>);

}  // namespace
}  // namespace keras_norms
