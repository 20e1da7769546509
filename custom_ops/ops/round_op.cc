// KerasNorms>Round: its interface and shape function.

#include "ops/round_kernel.h"
#include "ops/shape_functions.h"
#include "tensorflow/core/framework/op.h"

namespace keras_norms {
namespace {

absl::Status RoundShape(InferenceContext* context) {
  RoundOptions options;
  TF_RETURN_IF_ERROR(ReadRoundOptions(context, &options));
  std::vector<ShapeHandle> seed;
  TF_RETURN_IF_ERROR(context->input("seed", &seed));
  const OperandShape seed_shape = seed.empty() ? OperandShape() : PartialShape(context, seed[0]);
  TF_RETURN_IF_ERROR(CheckRound(options, PartialShape(context, context->input(0)), seed_shape));
  context->set_output(0, context->input(0));
  return absl::OkStatus();
}

REGISTER_OP("KerasNorms>Round")
    .Input("x: T")
    .Input("seed: num_seed * int64")
    .Output("y: T")
    .Attr("T: {float, half, bfloat16}")
    .Attr("num_seed: int >= 0")
    .Attr("exponent_bits: int >= 0 = 0")
    .Attr("mantissa_bits: int >= 0 = 0")
    .Attr("rounding: {'nearest_even', 'truncate', 'stochastic'} = 'nearest_even'")
    .Attr("subnormals: bool = true")
    .Attr("axis: int >= 0")
    .Attr("block_size: int >= 0 = 0")
    .Attr("block_mantissa_bits: int >= 0 = 0")
    .Attr("alignment: {'largest', 'second_largest'} = 'largest'")
    .SetShapeFn(RoundShape)
    .Doc(R"doc(
Rounds values to a floating-point format, then blocks of them to a shared exponent.

x: Rank 2 or more.
seed: For stochastic rounding, and only then: one scalar.
y: Like `x`, and in its memory where nobody else needs it.
exponent_bits: Of the format, 2 to 8; 0: there is no format, and values keep theirs.
mantissa_bits: Of the format, 1 to 23, without the leading 1.
rounding: To the format.
subnormals: Whether the format has values below its smallest normal one; otherwise they become 0.
axis: The channel axis.
block_size: Neighbouring channels that share an exponent, 0 for none; the last block may be smaller.
block_mantissa_bits: Of a value with the shared exponent, 2 to 24, with the leading 1.
alignment: Which exponent of a block is shared. Values with a larger one stay as they are.
)doc");

}  // namespace
}  // namespace keras_norms
