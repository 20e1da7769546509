// The CPU kernels as XLA FFI handlers, on as many threads as the program that calls them has.
//
// Symbols only: TensorFlow registers them in ops/ffi_registration.cc, JAX through jax.ffi.

#include <memory>
#include <new>

#include "kernels/cpu/helpers.h"
#include "kernels/cpu/huge_pages.h"
#include "xla_ffi/arguments.h"

namespace keras_norms {
namespace {

struct FreeAligned {
  void operator()(void* memory) const { ::operator delete(memory, kAlignment); }
  static constexpr std::align_val_t kAlignment{64};
};

void AdviseHugePagesFor(const ffi::RemainingRets& rets) {
  for (size_t i = 0; i < rets.size(); ++i) {
    auto result = rets.get<ffi::AnyBuffer>(i);
    if (result.has_value()) {
      AdviseHugePages((*result)->untyped_data(), static_cast<int64_t>((*result)->size_bytes()));
    }
  }
}

template <typename Arguments, int64_t (*ScratchSize)(const Arguments&),
          void (*Kernel)(const Arguments&, void*, const ThreadPool&)>
void Run(const Arguments& arguments, const ffi::RemainingRets& rets,
         const ffi::ThreadPool& threads) {
  AdviseHugePagesFor(rets);
  const std::unique_ptr<void, FreeAligned> scratch(
      ::operator new(ScratchSize(arguments), FreeAligned::kAlignment));
  Helpers helpers(threads.num_threads());
  Kernel(arguments, scratch.get(), helpers.pool());
}

template <typename Arguments, int64_t (*ScratchSize)(const Arguments&),
          void (*Kernel)(const Arguments&, void*, const ThreadPool&)>
ffi::Error Handle(ffi::ThreadPool threads, ffi::RemainingArgs args, ffi::RemainingRets rets,
                  ffi::Dictionary attributes) {
  Arguments arguments;
  const std::string problem = Decode(args, rets, attributes, &arguments);
  if (!problem.empty()) return ffi::Error::InvalidArgument(problem);
  Run<Arguments, ScratchSize, Kernel>(arguments, rets, threads);
  return ffi::Error::Success();
}

// The same for a program without float64.
template <typename Arguments, int64_t (*ScratchSize)(const Arguments&),
          void (*Kernel)(const Arguments&, void*, const ThreadPool&)>
ffi::Error HandlePairs(ffi::ThreadPool threads, ffi::RemainingArgs args, ffi::RemainingRets rets,
                       ffi::Dictionary attributes) {
  Arguments arguments;
  PairedVectors pairs;
  const std::string problem = Decode(args, rets, attributes, &arguments, &pairs);
  if (!problem.empty()) return ffi::Error::InvalidArgument(problem);
  Run<Arguments, ScratchSize, Kernel>(arguments, rets, threads);
  pairs.Write();
  return ffi::Error::Success();
}

ffi::Error HandleAddAt(ffi::ThreadPool threads, ffi::RemainingArgs args, ffi::RemainingRets rets) {
  AddAtArguments arguments;
  const std::string problem = Decode(args, rets, &arguments);
  if (!problem.empty()) return ffi::Error::InvalidArgument(problem);
  Helpers helpers(threads.num_threads());
  AddAtCpu(arguments, helpers.pool());
  return ffi::Error::Success();
}

auto Binding() {
  return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets().Attrs();
}

}  // namespace
}  // namespace keras_norms

using namespace keras_norms;  // NOLINT: the macros below define C symbols outside of it.

XLA_FFI_DEFINE_HANDLER_SYMBOL(KerasNormsMomentsHost,
                              (Handle<MomentsArguments, MomentsScratchCpu, MomentsCpu>), Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(KerasNormsExtremesHost,
                              (Handle<ExtremesArguments, ExtremesScratchCpu, ExtremesCpu>),
                              Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(KerasNormsAddAtHost, HandleAddAt,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().RemainingArgs().RemainingRets());
XLA_FFI_DEFINE_HANDLER_SYMBOL(KerasNormsSumsHost,
                              (Handle<SumsArguments, SumsScratchCpu, SumsCpu>), Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(KerasNormsBlendHost,
                              (Handle<BlendArguments, BlendScratchCpu, BlendCpu>), Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(KerasNormsRoundHost,
                              (Handle<RoundArguments, RoundScratchCpu, RoundCpu>), Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(KerasNormsNormalizeHost,
                              (Handle<NormalizeArguments, NormalizeScratchCpu, NormalizeCpu>),
                              Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    KerasNormsNormalizeGradHost,
    (Handle<NormalizeGradArguments, NormalizeGradScratchCpu, NormalizeGradCpu>), Binding());

// For JAX, in programs without float64.
XLA_FFI_DEFINE_HANDLER_SYMBOL(KerasNormsMomentsPairsHost,
                              (HandlePairs<MomentsArguments, MomentsScratchCpu, MomentsCpu>),
                              Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(KerasNormsSumsPairsHost,
                              (HandlePairs<SumsArguments, SumsScratchCpu, SumsCpu>), Binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(KerasNormsBlendPairsHost,
                              (HandlePairs<BlendArguments, BlendScratchCpu, BlendCpu>), Binding());
