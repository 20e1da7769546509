// KerasNorms>Moments: its interface and shape function.

#include "ops/shape_functions.h"
#include "tensorflow/core/framework/op.h"

namespace keras_norms {
namespace {

absl::Status MomentsShape(InferenceContext* context) {
  InferredShapes shapes;
  TF_RETURN_IF_ERROR(shapes.Infer(context, kMoments));
  context->set_output(0, shapes.Count(context));
  context->set_output(1, shapes.vector);
  context->set_output(2, shapes.vector);
  return absl::OkStatus();
}

REGISTER_OP("KerasNorms>Moments")
    .Input("x: T")
    .Input("weights: num_weights * W")
    .Output("count: double")
    .Output("mean: double")
    .Output("m2: double")
    .Attr("T: {float, double, half, bfloat16}")
    .Attr("W: {float, double} = DT_FLOAT")
    .Attr("num_weights: int >= 0")
    .Attr("axis: int >= 0")
    .Attr("segment_size: int >= 0 = 0")
    .SetShapeFn(MomentsShape)
    .Doc(R"doc(
count = sum w, mean = sum w x / count, m2 = sum w (x - mean)^2, per channel.

x: The activation, rank 2 or more.
weights: None or one tensor of the shape of `x` with 1 on the channel axis; constants >= 0.
  A position of weight 0 is not looked at.
count: `[1]`, or `[segments, 1]` with a segment size.
mean: `[channels]`, or `[segments, channels]`; 0 where the count is 0.
m2: Like `mean`.
axis: The channel axis.
segment_size: Positions along axis 0 that share statistics, the last segment taking what is left;
  0 for no segments.
)doc");

}  // namespace
}  // namespace keras_norms
