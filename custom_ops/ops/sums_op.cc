// KerasNorms>Sums: its interface and shape function.
//
// T has a default because TensorFlow meets `u` first, and from an empty list it infers no type.

#include "ops/shape_functions.h"
#include "tensorflow/core/framework/op.h"

namespace keras_norms {
namespace {

absl::Status SumsShape(InferenceContext* context) {
  InferredShapes shapes;
  TF_RETURN_IF_ERROR(shapes.Infer(context, kSums));
  int64_t num_y = 0;
  TF_RETURN_IF_ERROR(context->GetAttr("num_scale", &num_y));
  const int num_sums = context->num_outputs() - static_cast<int>(num_y);
  for (int i = 0; i < num_sums; ++i) context->set_output(i, shapes.vector);
  if (num_y == 1) context->set_output(num_sums, shapes.activation);
  return absl::OkStatus();
}

REGISTER_OP("KerasNorms>Sums")
    .Input("u: num_u * T")
    .Input("v: num_v * T")
    .Input("center: num_center * V")
    .Input("scale: num_scale * V")
    .Input("shift: num_shift * V")
    .Input("weights: num_weights * W")
    .Output("sum_u: double")
    .Output("sum_uv: num_v * double")
    .Output("y: num_scale * T")
    .Attr("T: {float, double, half, bfloat16} = DT_FLOAT")
    .Attr("V: {float, double} = DT_DOUBLE")
    .Attr("W: {float, double} = DT_FLOAT")
    .Attr("num_u: int >= 0")
    .Attr("num_v: int >= 0")
    .Attr("num_center: int >= 0")
    .Attr("num_scale: int >= 0")
    .Attr("num_shift: int >= 0")
    .Attr("num_weights: int >= 0")
    .Attr("weighted: bool = false")
    .Attr("axis: int >= 0")
    .Attr("segment_size: int >= 0 = 0")
    .SetShapeFn(SumsShape)
    .Doc(R"doc(
sum w u and, where v is given, sum w u (v - center), per channel. Without u, u is v - center.
With scale, in the same pass, y = scale u; without u, y = scale (v - center) + shift.

u: None or one activation, rank 2 or more.
v: None or one activation. At least one of `u` and `v` is given, of the same shape.
center: None (0) or one vector, `[channels]`, or `[segments, channels]` with a segment size.
  Without `u` it is rounded to the type that activations are computed in.
scale: None or one vector; needs `v`.
shift: None (0) or one vector; needs `scale`, and no `u`.
weights: None or one tensor of the shape of `u` with 1 on the channel axis; constants >= 0.
  Where they are 0, a `v - center` that is not finite is read as 0.
sum_u: `[channels]`, or `[segments, channels]` with a segment size.
sum_uv: Like `sum_u`; there where `v` is.
y: Like `u` and `v`, and in their memory where nobody else needs it; there where `scale` is.
weighted: Whether the weights also weigh the sums. They never weigh `y`.
axis: The channel axis.
segment_size: Positions along axis 0 that share vectors; 0 for no segments.
)doc");

}  // namespace
}  // namespace keras_norms
