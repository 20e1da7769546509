// The operations on an NVIDIA GPU.

#include "ops/add_at_kernel.h"
#include "ops/blend_kernel.h"
#include "ops/extremes_kernel.h"
#include "ops/moments_kernel.h"
#include "ops/normalize_kernel.h"
#include "ops/round_kernel.h"
#include "ops/run_on_gpu.h"
#include "ops/sums_kernel.h"

namespace keras_norms {
namespace {

void RunMoments(tensorflow::OpKernelContext* context, const MomentsArguments& arguments) {
  RunOnGpu(context, arguments, MomentsScratchCuda, MomentsCuda);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>Moments")
                            .Device(tensorflow::DEVICE_GPU)
                            .TypeConstraint("T", kActivationTypes),
                        MomentsOp<RunMoments>);

void RunExtremes(tensorflow::OpKernelContext* context, const ExtremesArguments& arguments) {
  RunOnGpu(context, arguments, ExtremesScratchCuda, ExtremesCuda);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>Extremes")
                            .Device(tensorflow::DEVICE_GPU)
                            .TypeConstraint("T", kActivationTypes),
                        ExtremesOp<RunExtremes>);

void RunSums(tensorflow::OpKernelContext* context, const SumsArguments& arguments) {
  RunOnGpu(context, arguments, SumsScratchCuda, SumsCuda);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>Sums")
                            .Device(tensorflow::DEVICE_GPU)
                            .TypeConstraint("T", kActivationTypes),
                        SumsOp<RunSums>);

void RunAddAt(tensorflow::OpKernelContext* context, const AddAtArguments& arguments) {
  const char* problem = AddAtCuda(arguments, StreamOf(context));
  OP_REQUIRES(context, problem == nullptr, absl::InternalError(problem));
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>AddAt")
                            .Device(tensorflow::DEVICE_GPU)
                            .TypeConstraint("T", kActivationTypes),
                        AddAtOp<RunAddAt>);

void RunBlend(tensorflow::OpKernelContext* context, const BlendArguments& arguments) {
  RunOnGpu(context, arguments, BlendScratchCuda, BlendCuda);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>Blend")
                            .Device(tensorflow::DEVICE_GPU)
                            .TypeConstraint("T", kActivationTypes),
                        BlendOp<RunBlend>);

void RunNormalize(tensorflow::OpKernelContext* context, const NormalizeArguments& arguments) {
  RunOnGpu(context, arguments, NormalizeScratchCuda, NormalizeCuda);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>Normalize")
                            .Device(tensorflow::DEVICE_GPU)
                            .TypeConstraint("T", kActivationTypes),
                        NormalizeOp<RunNormalize>);

void RunNormalizeGrad(tensorflow::OpKernelContext* context,
                      const NormalizeGradArguments& arguments) {
  RunOnGpu(context, arguments, NormalizeGradScratchCuda, NormalizeGradCuda);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>NormalizeGrad")
                            .Device(tensorflow::DEVICE_GPU)
                            .TypeConstraint("T", kActivationTypes),
                        NormalizeGradOp<RunNormalizeGrad>);

void RunRound(tensorflow::OpKernelContext* context, const RoundArguments& arguments) {
  RunOnGpu(context, arguments, RoundScratchCuda, RoundCuda);
}

REGISTER_KERNEL_BUILDER(Name("KerasNorms>Round")
                            .Device(tensorflow::DEVICE_GPU)
                            .TypeConstraint("T", kRoundTypes),
                        RoundOp<RunRound>);

}  // namespace
}  // namespace keras_norms
