// The arguments of each kernel from an XLA call. Returns what is wrong, or an empty string.

#ifndef KERAS_NORMS_XLA_FFI_ARGUMENTS_H_
#define KERAS_NORMS_XLA_FFI_ARGUMENTS_H_

#include <string>

#include "kernels/blend.h"
#include "kernels/extremes.h"
#include "kernels/moments.h"
#include "kernels/sums.h"
#include "xla_ffi/decode.h"

namespace keras_norms {

inline std::string Decode(ffi::RemainingArgs args, ffi::RemainingRets rets,
                          ffi::Dictionary attributes, MomentsArguments* arguments) {
  Decoder decoder(kMoments, args, rets, attributes);
  if (!decoder.problem().empty()) return decoder.problem();
  arguments->dtype = decoder.dtype();
  arguments->layout = decoder.layout();
  arguments->x = decoder.Data(0);
  arguments->weights = decoder.Data(1);
  arguments->count = decoder.VectorResult(0, arguments->layout.segments);
  arguments->mean = decoder.VectorResult(1, arguments->layout.vector_size());
  arguments->m2 = decoder.VectorResult(2, arguments->layout.vector_size());
  return decoder.problem();
}

inline std::string Decode(ffi::RemainingArgs args, ffi::RemainingRets rets,
                          ffi::Dictionary attributes, ExtremesArguments* arguments) {
  Decoder decoder(kExtremes, args, rets, attributes);
  if (!decoder.problem().empty()) return decoder.problem();
  arguments->dtype = decoder.dtype();
  arguments->layout = decoder.layout();
  arguments->chunks = decoder.chunks();
  arguments->x = decoder.Data(0);
  arguments->weights = decoder.Data(1);
  const int64_t vectors = arguments->layout.vector_size() * arguments->chunks;
  arguments->count = decoder.VectorResult(0, arguments->layout.segments * arguments->chunks);
  arguments->mean = decoder.VectorResult(1, vectors);
  arguments->low = decoder.VectorResult(2, vectors);
  arguments->high = decoder.VectorResult(3, vectors);
  arguments->low_at = decoder.PlaceResult(4, vectors);
  arguments->high_at = decoder.PlaceResult(5, vectors);
  return decoder.problem();
}

inline std::string Decode(ffi::RemainingArgs args, ffi::RemainingRets rets,
                          ffi::Dictionary attributes, SumsArguments* arguments) {
  Decoder decoder(kSums, args, rets, attributes);
  if (!decoder.problem().empty()) return decoder.problem();
  arguments->dtype = decoder.dtype();
  arguments->layout = decoder.layout();
  arguments->weighted = decoder.weighted();
  arguments->u = decoder.Data(0);
  arguments->v = decoder.Data(1);
  arguments->center = decoder.Vector(2);
  arguments->scale = decoder.Vector(3);
  arguments->shift = decoder.Vector(4);
  arguments->weights = decoder.Data(5);
  arguments->sum_u = decoder.VectorResult(0, arguments->layout.vector_size());
  if (arguments->v != nullptr) {
    arguments->sum_uv = decoder.VectorResult(1, arguments->layout.vector_size());
  }
  if (arguments->scale.data != nullptr) arguments->y = decoder.ActivationResult(2);
  return decoder.problem();
}

inline std::string Decode(ffi::RemainingArgs args, ffi::RemainingRets rets,
                          ffi::Dictionary attributes, BlendArguments* arguments) {
  Decoder decoder(kBlend, args, rets, attributes);
  if (!decoder.problem().empty()) return decoder.problem();
  arguments->dtype = decoder.dtype();
  arguments->layout = decoder.layout();
  arguments->weighted = decoder.weighted();
  arguments->u = decoder.Data(0);
  arguments->v = decoder.Data(1);
  arguments->a = decoder.Vector(2);
  arguments->b = decoder.Vector(3);
  arguments->c = decoder.Vector(4);
  arguments->center = decoder.Vector(5);
  arguments->weights = decoder.Data(6);
  arguments->y = decoder.ActivationResult(0);
  return decoder.problem();
}

}  // namespace keras_norms

#endif  // KERAS_NORMS_XLA_FFI_ARGUMENTS_H_
