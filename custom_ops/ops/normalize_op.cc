// KerasNorms>Normalize and KerasNorms>NormalizeGrad: their interfaces and shape functions.

#include "ops/shape_functions.h"
#include "tensorflow/core/framework/op.h"

namespace keras_norms {
namespace {

absl::Status NormalizeShape(InferenceContext* context) {
  InferredShapes shapes;
  TF_RETURN_IF_ERROR(shapes.Infer(context, kNormalize));
  context->set_output(0, shapes.activation);
  context->set_output(1, shapes.Count(context));
  for (int i = 2; i < context->num_outputs(); ++i) context->set_output(i, shapes.vector);
  return absl::OkStatus();
}

absl::Status NormalizeGradShape(InferenceContext* context) {
  InferredShapes shapes;
  TF_RETURN_IF_ERROR(shapes.Infer(context, kNormalizeGrad));
  int64_t num_y = 0;
  TF_RETURN_IF_ERROR(context->GetAttr("num_y", &num_y));
  for (int i = 0; i < context->num_outputs(); ++i) {
    context->set_output(i, i <= num_y ? shapes.activation : context->Vector(shapes.channels));
  }
  return absl::OkStatus();
}

REGISTER_OP("KerasNorms>Normalize")
    .Input("x: T")
    .Input("residual: num_residual * T")
    .Input("gamma: num_gamma * V")
    .Input("beta: num_beta * V")
    .Input("parts: num_parts * double")
    .Input("moving_mean: num_moving * M")
    .Input("moving_variance: num_moving * M")
    .Input("share: num_moving * M")
    .Output("y: T")
    .Output("count: double")
    .Output("mean: double")
    .Output("variance: double")
    .Output("new_mean: num_moving * M")
    .Output("new_variance: num_moving * M")
    .Attr("T: {float, double, half, bfloat16}")
    .Attr("V: {float, double} = DT_FLOAT")
    .Attr("M: {float, double} = DT_FLOAT")
    .Attr("num_residual: int >= 0")
    .Attr("num_gamma: int >= 0")
    .Attr("num_beta: int >= 0")
    .Attr("num_parts: int >= 0")
    .Attr("num_moving: int >= 0")
    .Attr("epsilon: string")
    .Attr("rectified: bool = false")
    .Attr("negative_slope: float = 0")
    .Attr("cap: float = 0")
    .Attr("has_statistics_gradient: bool = false")
    .Attr("axis: int >= 0")
    .Attr("segment_size: int >= 0 = 0")
    .SetShapeFn(NormalizeShape)
    .Doc(R"doc(
y = gamma (x - mean) / sqrt(variance + epsilon) + beta + residual, per channel, rectified like
that of Blend, with the moments of x. And where there are moving statistics,
new = (1 - share) moving + share batch; without values in x, they stay.

x: The activation, rank 2 or more.
residual: None (0) or one tensor like `x`.
gamma: None (1) or one vector, `[channels]`.
beta: None (0) or one vector.
parts: None, or the moments of batches that are taken together, `x` among them: a row
  `[count, mean, m2]` of each.
moving_mean: None or one vector. With all of the next two, and without segments.
moving_variance: Like `moving_mean`.
share: A number in [0, 1].
y: Like `x`, and in the memory of `residual` where nobody else needs that.
count: `[1]`, or `[segments, 1]` with a segment size.
mean: `[channels]`, or `[segments, channels]`; 0 where the count is 0.
variance: Like `mean`.
new_mean: Like `moving_mean`.
new_variance: Like `moving_mean`. Bounded by what its type can hold.
epsilon: A number as text, since attributes hold numbers in single precision only.
has_statistics_gradient: Whether gradients of mean and variance count.
rectified: Whether y is rectified.
negative_slope: At least 0.
cap: Above 0, or 0 for none.
axis: The channel axis.
segment_size: Positions along axis 0 that share statistics; 0 for no segments.
)doc");

REGISTER_OP("KerasNorms>NormalizeGrad")
    .Input("dy: T")
    .Input("x: T")
    .Input("y: num_y * T")
    .Input("gamma: num_gamma * V")
    .Input("beta: num_beta * V")
    .Input("count: double")
    .Input("mean: double")
    .Input("variance: double")
    .Input("of_mean: num_of * double")
    .Input("of_variance: num_of * double")
    .Input("own_sums: num_sums * double")
    .Input("sums: num_sums * double")
    .Output("dx: T")
    .Output("dresidual: num_y * T")
    .Output("dgamma: P")
    .Output("dbeta: P")
    .Attr("T: {float, double, half, bfloat16}")
    .Attr("V: {float, double} = DT_FLOAT")
    .Attr("P: {float, double} = DT_FLOAT")
    .Attr("num_y: int >= 0")
    .Attr("num_gamma: int >= 0")
    .Attr("num_beta: int >= 0")
    .Attr("num_of: int >= 0")
    .Attr("num_sums: int >= 0")
    .Attr("epsilon: string")
    .Attr("rectified: bool = false")
    .Attr("negative_slope: float = 0")
    .Attr("cap: float = 0")
    .Attr("axis: int >= 0")
    .Attr("segment_size: int >= 0 = 0")
    .SetShapeFn(NormalizeGradShape)
    .Doc(R"doc(
The gradients of Normalize, from those of y, mean and variance.

dy: The gradient of y, rank 2 or more.
x: The input of Normalize.
y: Its result, with a rectifier and a residual; otherwise none.
gamma: None (1) or one vector.
beta: With a rectifier and without y: None (0) or one vector. Otherwise none.
count: What Normalize returned.
mean: What Normalize returned.
variance: What Normalize returned.
of_mean: None (0) or the gradient of the mean.
of_variance: None (0) or the gradient of the variance.
own_sums: None, or the sums of dy and of dy (x - mean) of this batch, one after the other.
sums: None, or those of all batches that were taken together.
dx: Like `x`, and in the memory of `dy` where nobody else needs that.
dresidual: Like `x`; there where `y` is.
dgamma: `[channels]`, also where there is no `gamma`.
dbeta: `[channels]`.
P: The type of these two, which may be there without `gamma` and `beta`.
epsilon: That of Normalize.
rectified: Whether y was rectified.
negative_slope: At least 0.
cap: Above 0, or 0 for none.
axis: The channel axis.
segment_size: Positions along axis 0 that share statistics; 0 for no segments.
)doc");

}  // namespace
}  // namespace keras_norms
