// The operations on the CPU.

#include "kernels/cpu/huge_pages.h"
#include "ops/add_at_kernel.h"
#include "ops/blend_kernel.h"
#include "ops/extremes_kernel.h"
#include "ops/moments_kernel.h"
#include "ops/normalize_kernel.h"
#include "ops/round_kernel.h"
#include "ops/run_on_cpu.h"
#include "ops/sums_kernel.h"

namespace keras_norms {
namespace {

// For a result like the activation of the call.
template <typename Arguments>
void AdviseFor(const Arguments& arguments, void* result) {
  const int64_t size = arguments.dtype == DataType::kFloat64   ? 8
                       : arguments.dtype == DataType::kFloat32 ? 4
                                                               : 2;
  if (result != nullptr) AdviseHugePages(result, arguments.layout.size() * size);
}

void RunMoments(tensorflow::OpKernelContext* context, const MomentsArguments& arguments) {
  RunOnCpu(context, arguments, MomentsScratchCpu, MomentsCpu);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>Moments")
                            .Device(tensorflow::DEVICE_CPU)
                            .TypeConstraint("T", kActivationTypes),
                        MomentsOp<RunMoments>);

void RunExtremes(tensorflow::OpKernelContext* context, const ExtremesArguments& arguments) {
  RunOnCpu(context, arguments, ExtremesScratchCpu, ExtremesCpu);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>Extremes")
                            .Device(tensorflow::DEVICE_CPU)
                            .TypeConstraint("T", kActivationTypes),
                        ExtremesOp<RunExtremes>);

void RunSums(tensorflow::OpKernelContext* context, const SumsArguments& arguments) {
  AdviseFor(arguments, arguments.y);
  RunOnCpu(context, arguments, SumsScratchCpu, SumsCpu);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>Sums")
                            .Device(tensorflow::DEVICE_CPU)
                            .TypeConstraint("T", kActivationTypes),
                        SumsOp<RunSums>);

void RunAddAt(tensorflow::OpKernelContext* context, const AddAtArguments& arguments) {
  Helpers helpers = HelpersOf(context);
  AddAtCpu(arguments, helpers.pool());
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>AddAt")
                            .Device(tensorflow::DEVICE_CPU)
                            .TypeConstraint("T", kActivationTypes),
                        AddAtOp<RunAddAt>);

void RunBlend(tensorflow::OpKernelContext* context, const BlendArguments& arguments) {
  AdviseFor(arguments, arguments.y);
  RunOnCpu(context, arguments, BlendScratchCpu, BlendCpu);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>Blend")
                            .Device(tensorflow::DEVICE_CPU)
                            .TypeConstraint("T", kActivationTypes),
                        BlendOp<RunBlend>);

void RunNormalize(tensorflow::OpKernelContext* context, const NormalizeArguments& arguments) {
  AdviseFor(arguments, arguments.y);
  RunOnCpu(context, arguments, NormalizeScratchCpu, NormalizeCpu);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>Normalize")
                            .Device(tensorflow::DEVICE_CPU)
                            .TypeConstraint("T", kActivationTypes),
                        NormalizeOp<RunNormalize>);

void RunNormalizeGrad(tensorflow::OpKernelContext* context,
                      const NormalizeGradArguments& arguments) {
  AdviseFor(arguments, arguments.dx);
  AdviseFor(arguments, arguments.dresidual);
  RunOnCpu(context, arguments, NormalizeGradScratchCpu, NormalizeGradCpu);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>NormalizeGrad")
                            .Device(tensorflow::DEVICE_CPU)
                            .TypeConstraint("T", kActivationTypes),
                        NormalizeGradOp<RunNormalizeGrad>);

void RunRound(tensorflow::OpKernelContext* context, const RoundArguments& arguments) {
  RunOnCpu(context, arguments, RoundScratchCpu, RoundCpu);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>Round")
                            .Device(tensorflow::DEVICE_CPU)
                            .TypeConstraint("T", kRoundTypes),
                        RoundOp<RunRound>);

}  // namespace
}  // namespace keras_norms
