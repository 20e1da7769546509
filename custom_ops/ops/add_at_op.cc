// KerasNorms>AddAt: its interface and shape function.

#include "kernels/add_at.h"
#include "ops/shape_functions.h"
#include "tensorflow/core/framework/op.h"

namespace keras_norms {
namespace {

absl::Status AddAtShape(InferenceContext* context) {
  ShapeHandle values = context->input(1);
  for (int i : {2, 3}) {
    if (context->Merge(values, context->input(i), &values).ok()) continue;
    return absl::InvalidArgumentError(PlacesProblem(context->DebugString(context->input(i)),
                                                    context->DebugString(context->input(1))));
  }
  context->set_output(0, context->input(0));
  return absl::OkStatus();
}

REGISTER_OP("KerasNorms>AddAt")
    .Input("x: T")
    .Input("values: double")
    .Input("high_at: int64")
    .Input("low_at: int64")
    .Output("y: T")
    .Attr("T: {float, double, half, bfloat16}")
    .SetShapeFn(AddAtShape)
    .Doc(R"doc(
A copy of `x` with `values` added at the places `high_at` and subtracted at the places `low_at`.

x: An activation. Its memory holds the result where nobody else needs it.
values: Where several share a place, all but one are 0.
high_at: Of the shape of `values`: places in the flattened `x`.
low_at: Like `high_at`.
)doc");

}  // namespace
}  // namespace keras_norms
