// The attributes of Round, and its op kernel; Run computes it on a device.

#ifndef KERAS_NORMS_OPS_ROUND_KERNEL_H_
#define KERAS_NORMS_OPS_ROUND_KERNEL_H_

#include "kernels/round.h"
#include "ops/op_helpers.h"

namespace keras_norms {

inline constexpr std::array<tensorflow::DataType, 3> kRoundTypes = {
    tensorflow::DT_FLOAT, tensorflow::DT_HALF, tensorflow::DT_BFLOAT16};

// Context: InferenceContext or OpKernelConstruction.
template <typename Context>
absl::Status ReadRoundOptions(Context* context, RoundOptions* options) {
  std::string rounding, alignment;
  int64_t seeds;
  TF_RETURN_IF_ERROR(context->GetAttr("num_seed", &seeds));
  if (seeds > 1) {
    return absl::InvalidArgumentError(
        "KerasNorms>Round: seed must be one tensor or none. Received: num_seed=" +
        std::to_string(seeds) + ".");
  }
  TF_RETURN_IF_ERROR(context->GetAttr("exponent_bits", &options->exponent_bits));
  TF_RETURN_IF_ERROR(context->GetAttr("mantissa_bits", &options->mantissa_bits));
  TF_RETURN_IF_ERROR(context->GetAttr("rounding", &rounding));
  TF_RETURN_IF_ERROR(context->GetAttr("subnormals", &options->subnormals));
  TF_RETURN_IF_ERROR(context->GetAttr("axis", &options->axis));
  TF_RETURN_IF_ERROR(context->GetAttr("block_size", &options->block_size));
  TF_RETURN_IF_ERROR(context->GetAttr("block_mantissa_bits", &options->block_mantissa_bits));
  TF_RETURN_IF_ERROR(context->GetAttr("alignment", &alignment));
  options->mode = rounding == "truncate"     ? RoundingMode::kTruncate
                  : rounding == "stochastic" ? RoundingMode::kStochastic
                                             : RoundingMode::kNearestEven;
  options->second_largest = alignment == "second_largest";
  return absl::OkStatus();
}

inline absl::Status CheckRound(const RoundOptions& options, const OperandShape& x,
                               const OperandShape& seed) {
  const std::string problem = RoundProblem(options, x, seed);
  return problem.empty() ? absl::OkStatus() : absl::InvalidArgumentError(problem);
}

template <void (*Run)(tensorflow::OpKernelContext*, const RoundArguments&)>
class RoundOp : public tensorflow::OpKernel {
 public:
  explicit RoundOp(tensorflow::OpKernelConstruction* construction) : OpKernel(construction) {
    OP_REQUIRES_OK(construction, ReadRoundOptions(construction, &options_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor& x = context->input(0);
    tensorflow::OpInputList seeds;
    OP_REQUIRES_OK(context, context->input_list("seed", &seeds));
    const tensorflow::Tensor* seed = seeds.size() > 0 ? &seeds[0] : nullptr;
    OperandShape seed_shape;
    if (seed != nullptr) seed_shape = {true, true, SizesOf(seed->shape())};
    OP_REQUIRES_OK(context, CheckRound(options_, {true, true, SizesOf(x.shape())}, seed_shape));

    RoundArguments arguments;
    arguments.dtype = KernelType(x.dtype());
    arguments.layout = LayoutOf(SizesOf(x.shape()), {options_.axis, 0, false});
    arguments.options = options_;
    arguments.x = DataOf(&x);
    arguments.seed = DataOf(seed);

    tensorflow::Tensor* y;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output({0}, 0, x.shape(), &y));
    arguments.y = y->data();
    Run(context, arguments);
  }

 private:
  RoundOptions options_;
};

}  // namespace keras_norms

#endif  // KERAS_NORMS_OPS_ROUND_KERNEL_H_
