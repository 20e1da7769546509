// Tells TensorFlow's XLA the handlers of the compiled kernels. XLA looks them up by name.
//
// Apart from xla_kernels.cc, which includes XLA's internal headers: the two do not go together.

#ifdef KERAS_NORMS_XLA_FFI

#include "xla/ffi/api/ffi.h"

XLA_FFI_DECLARE_HANDLER_SYMBOL(KerasNormsMomentsHost);
XLA_FFI_DECLARE_HANDLER_SYMBOL(KerasNormsExtremesHost);
XLA_FFI_DECLARE_HANDLER_SYMBOL(KerasNormsAddAtHost);
XLA_FFI_DECLARE_HANDLER_SYMBOL(KerasNormsSumsHost);
XLA_FFI_DECLARE_HANDLER_SYMBOL(KerasNormsBlendHost);
XLA_FFI_DECLARE_HANDLER_SYMBOL(KerasNormsRoundHost);
XLA_FFI_DECLARE_HANDLER_SYMBOL(KerasNormsNormalizeHost);
XLA_FFI_DECLARE_HANDLER_SYMBOL(KerasNormsNormalizeGradHost);

XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), "keras_norms_moments", "Host", KerasNormsMomentsHost);
XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), "keras_norms_extremes", "Host",
                         KerasNormsExtremesHost);
XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), "keras_norms_add_at", "Host", KerasNormsAddAtHost);
XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), "keras_norms_sums", "Host", KerasNormsSumsHost);
XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), "keras_norms_blend", "Host", KerasNormsBlendHost);
XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), "keras_norms_round", "Host", KerasNormsRoundHost);
XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), "keras_norms_normalize", "Host",
                         KerasNormsNormalizeHost);
XLA_FFI_REGISTER_HANDLER(XLA_FFI_GetApi(), "keras_norms_normalize_grad", "Host",
                         KerasNormsNormalizeGradHost);

#endif  // KERAS_NORMS_XLA_FFI
