// KerasNorms>Extremes: its interface and shape function.

#include "ops/shape_functions.h"
#include "tensorflow/core/framework/op.h"

namespace keras_norms {
namespace {

absl::Status ExtremesShape(InferenceContext* context) {
  InferredShapes shapes;
  TF_RETURN_IF_ERROR(shapes.Infer(context, kExtremes));
  context->set_output(0, shapes.OfChunks(context, context->MakeDim(1)));
  for (int i = 1; i < context->num_outputs(); ++i) {
    context->set_output(i, shapes.OfChunks(context, shapes.channels));
  }
  return absl::OkStatus();
}

REGISTER_OP("KerasNorms>Extremes")
    .Input("x: T")
    .Input("weights: num_weights * W")
    .Output("count: double")
    .Output("mean: double")
    .Output("low: double")
    .Output("high: double")
    .Output("low_at: int64")
    .Output("high_at: int64")
    .Attr("T: {float, double, half, bfloat16}")
    .Attr("W: {float, double} = DT_FLOAT")
    .Attr("num_weights: int >= 0")
    .Attr("axis: int >= 0")
    .Attr("segment_size: int >= 0 = 0")
    .Attr("chunks: int >= 1 = 1")
    .SetShapeFn(ExtremesShape)
    .Doc(R"doc(
Mean, smallest and largest value of each chunk of the batch, and the places of these two.

x: The activation, rank 2 or more.
weights: None or one tensor of the shape of `x` with 1 on the channel axis. A position counts where
  its weight is above 0.
count: `[chunks, 1]`, or `[segments, chunks, 1]` with a segment size: how many positions count.
mean: `[chunks, channels]`, or `[segments, chunks, channels]`; 0 where nothing counts, as in all.
low: Like `mean`.
high: Like `mean`.
low_at: Like `mean`; where in the flattened `x` the first of the smallest values is.
high_at: The same for the largest values.
axis: The channel axis.
segment_size: Positions along axis 0 that are cut into chunks of their own; 0: all are cut together.
chunks: How many runs of consecutive positions there are. The first have one position more than the
  others where they must; a batch of less than `2 * chunks` positions has fewer, and empty ones.
)doc");

}  // namespace
}  // namespace keras_norms
