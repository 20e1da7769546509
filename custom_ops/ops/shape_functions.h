// The part of a shape function that is the same for all ops: read, check, merge.

#ifndef KERAS_NORMS_OPS_SHAPE_FUNCTIONS_H_
#define KERAS_NORMS_OPS_SHAPE_FUNCTIONS_H_

#include <vector>

#include "ops/op_helpers.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace keras_norms {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

inline OperandShape PartialShape(InferenceContext* context, ShapeHandle handle) {
  OperandShape shape{true, context->RankKnown(handle), {}};
  for (int i = 0; shape.rank_known && i < context->Rank(handle); ++i) {
    shape.sizes.push_back(context->Value(context->Dim(handle, i)));
  }
  return shape;
}

// Checks a call and finds the shapes of an activation and of a vector among its results.
struct InferredShapes {
  CallOptions options;
  ShapeHandle activation;
  ShapeHandle vector;
  DimensionHandle channels;

  absl::Status Infer(InferenceContext* context, const Signature& signature) {
    TF_RETURN_IF_ERROR(ReadOptions(context, signature, &options));
    std::vector<OperandShape> shapes(signature.size);
    std::vector<ShapeHandle> activations;
    for (int i = 0; i < signature.size; ++i) {
      std::vector<ShapeHandle> list;
      TF_RETURN_IF_ERROR(context->input(signature.operands[i].name, &list));
      if (list.empty()) continue;
      shapes[i] = PartialShape(context, list[0]);
      if (signature.operands[i].role == Role::kActivation) activations.push_back(list[0]);
    }
    TF_RETURN_IF_ERROR(CheckShapes(signature, shapes.data(), options));
    activation = activations[0];
    for (ShapeHandle other : activations) {
      TF_RETURN_IF_ERROR(context->Merge(activation, other, &activation));
    }
    const bool known = context->RankKnown(activation);
    channels =
        known ? context->Dim(activation, options.axis) : context->UnknownDim();
    vector = options.segment_size == 0 ? context->Vector(channels)
                                       : context->Matrix(Segments(context), channels);
    return absl::OkStatus();
  }

  // Of the count: like a vector, with one value for all channels.
  ShapeHandle Count(InferenceContext* context) const {
    return options.segment_size == 0 ? context->Vector(1)
                                     : context->Matrix(Segments(context), 1);
  }

  // Of what each chunk has `values` of.
  ShapeHandle OfChunks(InferenceContext* context, DimensionHandle values) const {
    const DimensionHandle chunks = context->MakeDim(options.chunks);
    return options.segment_size == 0 ? context->Matrix(chunks, values)
                                     : context->MakeShape({Segments(context), chunks, values});
  }

 private:
  DimensionHandle Segments(InferenceContext* context) const {
    if (!context->RankKnown(activation)) return context->UnknownDim();
    const int64_t segments = SegmentCount(context->Value(context->Dim(activation, 0)), options);
    return segments < 0 ? context->UnknownDim() : context->MakeDim(segments);
  }
};

}  // namespace keras_norms

#endif  // KERAS_NORMS_OPS_SHAPE_FUNCTIONS_H_
