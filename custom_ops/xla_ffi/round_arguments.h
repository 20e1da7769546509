// The arguments of round from an XLA call: x, a scalar seed where the mode is stochastic, and as
// attributes axis, exponent_bits, mantissa_bits, mode (0 nearest even, 1 truncate, 2 stochastic),
// block_size and block_mantissa_bits (int64), subnormals and second_largest (bool).

#ifndef KERAS_NORMS_XLA_FFI_ROUND_ARGUMENTS_H_
#define KERAS_NORMS_XLA_FFI_ROUND_ARGUMENTS_H_

#include <string>

#include "kernels/round.h"
#include "xla/ffi/api/ffi.h"

namespace keras_norms {

namespace ffi = xla::ffi;

inline bool Decode(const ffi::Dictionary& attributes, RoundOptions* options) {
  bool complete = true;
  const auto read = [&](const char* name, auto* value) {
    const auto found = attributes.get<std::remove_pointer_t<decltype(value)>>(name);
    complete = complete && found.has_value();
    if (found.has_value()) *value = *found;
  };
  int64_t mode = -1;
  read("axis", &options->axis);
  read("exponent_bits", &options->exponent_bits);
  read("mantissa_bits", &options->mantissa_bits);
  read("mode", &mode);
  read("subnormals", &options->subnormals);
  read("block_size", &options->block_size);
  read("block_mantissa_bits", &options->block_mantissa_bits);
  read("second_largest", &options->second_largest);
  options->mode = static_cast<RoundingMode>(mode);
  return complete && 0 <= mode && mode <= static_cast<int64_t>(RoundingMode::kStochastic);
}

inline std::string Decode(ffi::RemainingArgs args, ffi::RemainingRets rets,
                          ffi::Dictionary attributes, RoundArguments* arguments) {
  const std::string op = "KerasNorms>Round: ";
  if (!Decode(attributes, &arguments->options)) {
    return op + "the attributes are axis, exponent_bits, mantissa_bits, mode (0 to 2), block_size, "
                "block_mantissa_bits (int64), subnormals and second_largest (bool). Received: "
                "others.";
  }
  const auto x = args.get<ffi::AnyBuffer>(0), seed = args.get<ffi::AnyBuffer>(1);
  auto y = rets.get<ffi::AnyBuffer>(0);
  if (!x.has_value() || !y.has_value() || args.size() > 2 ||
      (*y)->element_type() != x->element_type() || (*y)->element_count() != x->element_count() ||
      (seed.has_value() && seed->element_type() != ffi::S64)) {
    return op + "it takes x and an int64 seed, and gives a result like x. Received: others.";
  }
  switch (x->element_type()) {
    case ffi::F32:
      arguments->dtype = DataType::kFloat32;
      break;
    case ffi::F16:
      arguments->dtype = DataType::kFloat16;
      break;
    case ffi::BF16:
      arguments->dtype = DataType::kBFloat16;
      break;
    default:
      return op + "x must be float16, bfloat16 or float32. Received: another dtype.";
  }
  const Sizes sizes(x->dimensions().begin(), x->dimensions().end());
  OperandShape seed_shape;
  if (seed.has_value()) {
    seed_shape = {true, true, Sizes(seed->dimensions().begin(), seed->dimensions().end())};
    arguments->seed = seed->untyped_data();
  }
  const std::string problem = RoundProblem(arguments->options, {true, true, sizes}, seed_shape);
  if (!problem.empty()) return problem;
  arguments->layout = LayoutOf(sizes, {arguments->options.axis, 0, false});
  arguments->x = NotNull(x->untyped_data());
  arguments->y = (*y)->untyped_data();
  return "";
}

}  // namespace keras_norms

#endif  // KERAS_NORMS_XLA_FFI_ROUND_ARGUMENTS_H_
