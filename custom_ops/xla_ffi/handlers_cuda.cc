// The CUDA kernels as XLA FFI handlers, queued on the stream of the program that calls them.
//
// Symbols only, for jax.ffi with platform="CUDA". CUDA itself is not needed to compile this.

#include "xla_ffi/arguments.h"

namespace keras_norms {
namespace {

template <typename Arguments, int64_t (*ScratchSize)(const Arguments&),
          const char* (*Kernel)(const Arguments&, void*, cudaStream_t)>
ffi::Error Handle(cudaStream_t stream, ffi::ScratchAllocator allocator, ffi::RemainingArgs args,
                  ffi::RemainingRets rets, ffi::Dictionary attributes) {
  Arguments arguments;
  std::string problem = Decode(args, rets, attributes, &arguments);
  if (!problem.empty()) return ffi::Error::InvalidArgument(problem);
  // Given back when this returns; XLA hands it out again in the order of the stream.
  const int64_t size = ScratchSize(arguments);
  // XLA gives 256 bytes of alignment and refuses a request for more than 16.
  const auto scratch = size > 0 ? allocator.Allocate(size, 16) : nullptr;
  if (!scratch.has_value()) return ffi::Error::Internal("no scratch memory on the device");
  const char* failure = Kernel(arguments, *scratch, stream);
  return failure == nullptr ? ffi::Error::Success() : ffi::Error::Internal(failure);
}

auto Binding() {
  return ffi::Ffi::Bind()
      .Ctx<ffi::PlatformStream<cudaStream_t>>()
      .Ctx<ffi::ScratchAllocator>()
      .RemainingArgs()
      .RemainingRets()
      .Attrs();
}

}  // namespace
}  // namespace keras_norms

using namespace keras_norms;  // NOLINT: the macros below define C symbols outside of it.

XLA_FFI_DEFINE_HANDLER_SYMBOL(KerasNormsMomentsCuda,
                              (Handle<MomentsArguments, MomentsScratchCuda, MomentsCuda>),
                              Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(KerasNormsExtremesCuda,
                              (Handle<ExtremesArguments, ExtremesScratchCuda, ExtremesCuda>),
                              Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(KerasNormsSumsCuda,
                              (Handle<SumsArguments, SumsScratchCuda, SumsCuda>), Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(KerasNormsBlendCuda,
                              (Handle<BlendArguments, BlendScratchCuda, BlendCuda>), Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(KerasNormsRoundCuda,
                              (Handle<RoundArguments, RoundScratchCuda, RoundCuda>), Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(KerasNormsNormalizeCuda,
                              (Handle<NormalizeArguments, NormalizeScratchCuda, NormalizeCuda>),
                              Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    KerasNormsNormalizeGradCuda,
    (Handle<NormalizeGradArguments, NormalizeGradScratchCuda, NormalizeGradCuda>), Binding());
