// KerasNorms>Blend: its interface and shape function.
//
// T has a default because TensorFlow meets `u` first, and from an empty list it infers no type.

#include "ops/shape_functions.h"
#include "tensorflow/core/framework/op.h"

namespace keras_norms {
namespace {

absl::Status BlendShape(InferenceContext* context) {
  InferredShapes shapes;
  TF_RETURN_IF_ERROR(shapes.Infer(context, kBlend));
  context->set_output(0, shapes.activation);
  return absl::OkStatus();
}

REGISTER_OP("KerasNorms>Blend")
    .Input("u: num_u * T")
    .Input("v: num_v * T")
    .Input("a: num_a * V")
    .Input("b: num_v * V")
    .Input("c: num_c * V")
    .Input("center: num_center * V")
    .Input("weights: num_weights * W")
    .Output("y: T")
    .Attr("T: {float, double, half, bfloat16} = DT_FLOAT")
    .Attr("V: {float, double} = DT_DOUBLE")
    .Attr("W: {float, double} = DT_FLOAT")
    .Attr("num_u: int >= 0")
    .Attr("num_v: int >= 0")
    .Attr("num_a: int >= 0")
    .Attr("num_c: int >= 0")
    .Attr("num_center: int >= 0")
    .Attr("num_weights: int >= 0")
    .Attr("weighted: bool = false")
    .Attr("rectified: bool = false")
    .Attr("negative_slope: float = 0")
    .Attr("cap: float = 0")
    .Attr("axis: int >= 0")
    .Attr("segment_size: int >= 0 = 0")
    .SetShapeFn(BlendShape)
    .Doc(R"doc(
y = a u + w (b (v - center) + c), per channel. With `rectified`, y = min(z, cap) where that, z,
is above 0, and negative_slope z elsewhere.

u: None or one activation, rank 2 or more.
v: None or one activation. At least one of `u` and `v` is given, of the same shape.
a: None (1) or the factor of `u`. Vectors are `[channels]`, or `[segments, channels]` with a segment size.
b: The factor of `v - center`.
c: None (0) or one vector.
center: None (0) or one vector.
weights: None or one tensor of the shape of `y` with 1 on the channel axis; constants >= 0.
  Where they are 0, a `v - center` that is not finite is read as 0.
y: Like `u` and `v`, and in their memory where nobody else needs it.
weighted: Whether the weights also weigh.
rectified: Whether y is rectified.
negative_slope: At least 0.
cap: Above 0, or 0 for none.
axis: The channel axis.
segment_size: Positions along axis 0 that share vectors; 0 for no segments.
)doc");

}  // namespace
}  // namespace keras_norms
