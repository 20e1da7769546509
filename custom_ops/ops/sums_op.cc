// KerasNorms>Sums: its interface and shape function.

#include "ops/shape_functions.h"
#include "tensorflow/core/framework/op.h"

namespace keras_norms {
namespace {

absl::Status SumsShape(InferenceContext* context) {
  InferredShapes shapes;
  TF_RETURN_IF_ERROR(shapes.Infer(context, kSums));
  for (int i = 0; i < context->num_outputs(); ++i) context->set_output(i, shapes.vector);
  return absl::OkStatus();
}

REGISTER_OP("KerasNorms>Sums")
    .Input("u: T")
    .Input("v: num_v * T")
    .Input("center: num_center * V")
    .Input("weights: num_weights * W")
    .Output("sum_u: double")
    .Output("sum_uv: num_v * double")
    .Attr("T: {float, double, half, bfloat16}")
    .Attr("V: {float, double} = DT_DOUBLE")
    .Attr("W: {float, double} = DT_FLOAT")
    .Attr("num_v: int >= 0")
    .Attr("num_center: int >= 0")
    .Attr("num_weights: int >= 0")
    .Attr("weighted: bool = false")
    .Attr("axis: int >= 0")
    .Attr("segment_size: int >= 0 = 0")
    .SetShapeFn(SumsShape)
    .Doc(R"doc(
sum w u and, where v is given, sum w u (v - center), per channel.

u: An activation, rank 2 or more.
v: None or one tensor like `u`.
center: None (0) or one vector, `[channels]`, or `[segments, channels]` with a segment size.
weights: None or one tensor of the shape of `u` with 1 on the channel axis; constants >= 0.
  Where they are 0, a `v - center` that is not finite is read as 0.
sum_u: `[channels]`, or `[segments, channels]` with a segment size.
sum_uv: Like `sum_u`; there where `v` is.
weighted: Whether the weights also weigh `u`.
axis: The channel axis.
segment_size: Positions along axis 0 that share vectors; 0 for no segments.
)doc");

}  // namespace
}  // namespace keras_norms
