// The arguments of each kernel from an XLA call. Returns what is wrong, or an empty string.

#ifndef KERAS_NORMS_XLA_FFI_ARGUMENTS_H_
#define KERAS_NORMS_XLA_FFI_ARGUMENTS_H_

#include <string>

#include "kernels/add_at.h"
#include "kernels/blend.h"
#include "kernels/extremes.h"
#include "kernels/moments.h"
#include "kernels/normalize.h"
#include "kernels/sums.h"
#include "xla_ffi/decode.h"
#include "xla_ffi/round_arguments.h"

namespace keras_norms {

inline std::string Decode(ffi::RemainingArgs args, ffi::RemainingRets rets,
                          ffi::Dictionary attributes, MomentsArguments* arguments,
                          PairedVectors* pairs = nullptr) {
  Decoder decoder(kMoments, args, rets, attributes, pairs);
  if (!decoder.problem().empty()) return decoder.problem();
  arguments->dtype = decoder.dtype();
  arguments->layout = decoder.layout();
  arguments->x = decoder.Data(0);
  arguments->weights = decoder.Data(1);
  arguments->count = decoder.VectorResult(0, arguments->layout.segments);
  arguments->mean = decoder.MeanResult(1, arguments->layout.vector_size());
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
                          ffi::Dictionary attributes, SumsArguments* arguments,
                          PairedVectors* pairs = nullptr) {
  Decoder decoder(kSums, args, rets, attributes, pairs);
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
                          ffi::Dictionary attributes, BlendArguments* arguments,
                          PairedVectors* pairs = nullptr) {
  Decoder decoder(kBlend, args, rets, attributes, pairs);
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
  arguments->rectifier = decoder.options().rectifier;
  arguments->y = decoder.ActivationResult(0);
  return decoder.problem();
}

inline std::string Decode(ffi::RemainingArgs args, ffi::RemainingRets rets,
                          ffi::Dictionary attributes, NormalizeArguments* arguments) {
  Decoder decoder(kNormalize, args, rets, attributes);
  if (!decoder.problem().empty()) return decoder.problem();
  arguments->dtype = decoder.dtype();
  arguments->layout = decoder.layout();
  arguments->x = decoder.Data(0);
  arguments->residual = decoder.Data(1);
  arguments->gamma = decoder.Vector(2);
  arguments->beta = decoder.Vector(3);
  arguments->parts = static_cast<const double*>(decoder.Data(4));
  arguments->members = decoder.FirstSize(4);
  arguments->epsilon = decoder.options().epsilon;
  arguments->rectifier = decoder.options().rectifier;
  arguments->y = decoder.ActivationResult(0);
  arguments->count = decoder.VectorResult(1, arguments->layout.segments);
  arguments->mean = decoder.VectorResult(2, arguments->layout.vector_size());
  arguments->variance = decoder.VectorResult(3, arguments->layout.vector_size());
  MovingAverage* moving = &arguments->moving;
  moving->mean = decoder.Vector(5);
  if (moving->mean.data == nullptr) return decoder.problem();
  moving->variance = decoder.Vector(6);
  moving->share = decoder.Data(7);
  moving->new_mean = decoder.VectorResultLike(5, 4, arguments->layout.channels);
  moving->new_variance = decoder.VectorResultLike(5, 5, arguments->layout.channels);
  return decoder.problem();
}

inline std::string Decode(ffi::RemainingArgs args, ffi::RemainingRets rets,
                          ffi::Dictionary attributes, NormalizeGradArguments* arguments) {
  Decoder decoder(kNormalizeGrad, args, rets, attributes);
  if (!decoder.problem().empty()) return decoder.problem();
  arguments->dtype = decoder.dtype();
  arguments->layout = decoder.layout();
  arguments->dy = decoder.Data(0);
  arguments->x = decoder.Data(1);
  arguments->y = decoder.Data(2);
  arguments->gamma = decoder.Vector(3);
  arguments->beta = decoder.Vector(4);
  arguments->epsilon = decoder.options().epsilon;
  arguments->rectifier = decoder.options().rectifier;
  arguments->count = static_cast<const double*>(decoder.Data(5));
  arguments->mean = decoder.Vector(6);
  arguments->variance = decoder.Vector(7);
  arguments->of_mean = decoder.Vector(8);
  arguments->of_variance = decoder.Vector(9);
  arguments->own_sums = static_cast<const double*>(decoder.Data(10));
  arguments->sums = static_cast<const double*>(decoder.Data(11));
  size_t result = 0;
  arguments->dx = decoder.ActivationResult(result++);
  if (arguments->y != nullptr) arguments->dresidual = decoder.ActivationResult(result++);
  arguments->vectors_are_double = decoder.IsDouble(result);
  const int64_t channels = arguments->layout.channels;
  const ffi::DataType type = arguments->vectors_are_double ? ffi::F64 : ffi::F32;
  arguments->dgamma = decoder.Result(result++, type, channels);
  arguments->dbeta = decoder.Result(result++, type, channels);
  return decoder.problem();
}

// Operands are x, values, high_at and low_at, in this order; without attributes.
inline std::string Decode(ffi::RemainingArgs args, ffi::RemainingRets rets,
                          AddAtArguments* arguments) {
  const std::string op = "KerasNorms>AddAt: ";
  const auto x = args.get<ffi::AnyBuffer>(0), values = args.get<ffi::AnyBuffer>(1);
  const auto high_at = args.get<ffi::AnyBuffer>(2), low_at = args.get<ffi::AnyBuffer>(3);
  auto y = rets.get<ffi::AnyBuffer>(0);
  if (!x.has_value() || !values.has_value() || !high_at.has_value() || !low_at.has_value() ||
      !y.has_value()) {
    return op + "it takes x, values, high_at and low_at. Received: others.";
  }
  const bool are_lists = values->element_type() == ffi::F64 && high_at->element_type() == ffi::S64 &&
                         low_at->element_type() == ffi::S64 &&
                         high_at->element_count() == values->element_count() &&
                         low_at->element_count() == values->element_count();
  if (!are_lists || (*y)->element_type() != x->element_type() ||
      (*y)->element_count() != x->element_count() ||
      !KernelType(x->element_type(), &arguments->dtype)) {
    return op + "values must be float64, places int64 and as many, and the result like x. "
                "Received: others.";
  }
  arguments->size = static_cast<int64_t>(x->element_count());
  arguments->count = static_cast<int64_t>(values->element_count());
  arguments->x = x->untyped_data();
  arguments->y = (*y)->untyped_data();
  arguments->values = static_cast<const double*>(values->untyped_data());
  arguments->high_at = static_cast<const int64_t*>(high_at->untyped_data());
  arguments->low_at = static_cast<const int64_t*>(low_at->untyped_data());
  return "";
}

}  // namespace keras_norms

#endif  // KERAS_NORMS_XLA_FFI_ARGUMENTS_H_
