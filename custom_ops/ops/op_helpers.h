// What the ops share: TensorFlow's attributes, inputs and shapes, seen as the kernels' operands.
//
// Optional operands are lists of no or one tensor. Shape functions, op kernels and XLA kernels read
// their inputs by the same signature and check them by the same rules (kernels/operands.h).

#ifndef KERAS_NORMS_OPS_OP_HELPERS_H_
#define KERAS_NORMS_OPS_OP_HELPERS_H_

#include <array>
#include <cmath>
#include <cstdio>
#include <locale>
#include <sstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/channel_layout.h"
#include "kernels/operands.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/tensor_shape.h"
#include "tensorflow/core/framework/types.h"

namespace keras_norms {

// The dtypes of activations, which all kernels are registered for.
inline constexpr std::array<tensorflow::DataType, 4> kActivationTypes = {
    tensorflow::DT_FLOAT, tensorflow::DT_DOUBLE, tensorflow::DT_HALF, tensorflow::DT_BFLOAT16};

template <size_t n>
constexpr int SizeOf(const Operand (&)[n]) {
  return n;
}

// Reads and checks the attributes. Context: InferenceContext or OpKernelConstruction.
template <typename Context>
absl::Status ReadOptions(Context* context, const Signature& signature, CallOptions* options) {
  const std::string op = std::string(signature.op) + ": ";
  for (int i = 0; i < signature.size; ++i) {
    const Operand& operand = signature.operands[i];
    if (operand.count == nullptr) continue;
    int64_t count = 0;
    TF_RETURN_IF_ERROR(context->GetAttr(operand.count, &count));
    if (count > 1) {
      return absl::InvalidArgumentError(op + operand.name + " must be one tensor or none." +
                                        " Received: " + operand.count + "=" +
                                        std::to_string(count) + ".");
    }
    if (operand.role == Role::kWeights && count == 1) {
      tensorflow::DataType activation, weights;
      TF_RETURN_IF_ERROR(context->GetAttr("T", &activation));
      TF_RETURN_IF_ERROR(context->GetAttr("W", &weights));
      if ((activation == tensorflow::DT_DOUBLE) != (weights == tensorflow::DT_DOUBLE)) {
        return absl::InvalidArgumentError(
            op + "weights must be float, and double for double activations. Received: T=" +
            tensorflow::DataTypeString(activation) +
            ", W=" + tensorflow::DataTypeString(weights) + ".");
      }
    }
  }
  TF_RETURN_IF_ERROR(context->GetAttr("axis", &options->axis));
  TF_RETURN_IF_ERROR(context->GetAttr("segment_size", &options->segment_size));
  if (signature.has_chunks) TF_RETURN_IF_ERROR(context->GetAttr("chunks", &options->chunks));
  if (signature.weighs) TF_RETURN_IF_ERROR(context->GetAttr("weighted", &options->weighted));
  if (signature.rectifies) {
    Rectifier* rectifier = &options->rectifier;
    TF_RETURN_IF_ERROR(context->GetAttr("rectified", &rectifier->is_given));
    TF_RETURN_IF_ERROR(context->GetAttr("negative_slope", &rectifier->negative_slope));
    TF_RETURN_IF_ERROR(context->GetAttr("cap", &rectifier->cap));
    const bool is_valid = std::isfinite(rectifier->negative_slope) &&
                          rectifier->negative_slope >= 0 && std::isfinite(rectifier->cap) &&
                          rectifier->cap >= 0;
    if (!is_valid) {
      return absl::InvalidArgumentError(
          op + "negative_slope and cap must be finite and at least 0. Received: negative_slope=" +
          std::to_string(rectifier->negative_slope) + ", cap=" + std::to_string(rectifier->cap) +
          ".");
    }
  }
  if (signature.has_epsilon) {
    std::string epsilon;
    TF_RETURN_IF_ERROR(context->GetAttr("epsilon", &epsilon));
    std::istringstream text(epsilon);
    text.imbue(std::locale::classic());  // Not that of the process, which may want a comma.
    text >> options->epsilon;
    if (text.fail() || text.peek() != EOF || !(options->epsilon >= 0)) {
      return absl::InvalidArgumentError(op + "epsilon must be a number, at least 0, as text." +
                                        " Received: epsilon=" + epsilon + ".");
    }
  }
  return absl::OkStatus();
}

inline absl::Status CheckShapes(const Signature& signature, const OperandShape* shapes,
                                const CallOptions& options) {
  const std::string problem = ShapeProblem(signature, shapes, options);
  return problem.empty() ? absl::OkStatus() : absl::InvalidArgumentError(problem);
}

inline Sizes SizesOf(const tensorflow::TensorShape& shape) {
  const auto sizes = shape.dim_sizes();
  return Sizes(sizes.begin(), sizes.end());
}

inline DataType KernelType(tensorflow::DataType dtype) {
  switch (dtype) {
    case tensorflow::DT_DOUBLE:
      return DataType::kFloat64;
    case tensorflow::DT_HALF:
      return DataType::kFloat16;
    case tensorflow::DT_BFLOAT16:
      return DataType::kBFloat16;
    default:
      return DataType::kFloat32;
  }
}

// The tensors of a signature in its order, null where absent, once they passed the rules.
template <size_t n>
absl::Status ReadInputs(tensorflow::OpKernelContext* context, const Signature& signature,
                        const CallOptions& options,
                        std::array<const tensorflow::Tensor*, n>* inputs) {
  OperandShape shapes[n];
  for (size_t i = 0; i < n; ++i) {
    tensorflow::OpInputList list;
    TF_RETURN_IF_ERROR(context->input_list(signature.operands[i].name, &list));
    (*inputs)[i] = list.size() > 0 ? &list[0] : nullptr;
    if (list.size() > 0) shapes[i] = {true, true, SizesOf(list[0].shape())};
  }
  return CheckShapes(signature, shapes, options);
}

inline const void* DataOf(const tensorflow::Tensor* tensor) {
  return tensor == nullptr ? nullptr : NotNull(tensor->data());
}

// The inputs that u and v are, where they come first. One that nobody else needs holds the result.
inline std::vector<int> ActivationInputs(const tensorflow::Tensor* u,
                                         const tensorflow::Tensor* v) {
  return u != nullptr && v != nullptr ? std::vector<int>{0, 1} : std::vector<int>{0};
}

inline ChannelVector VectorOf(const tensorflow::Tensor* tensor) {
  if (tensor == nullptr) return {};
  return {tensor->data(), tensor->dtype() == tensorflow::DT_DOUBLE, tensor->dims() == 2};
}

// The shape of a result that every segment and channel has a value of.
inline tensorflow::TensorShape VectorShape(const ChannelLayout& layout,
                                           const CallOptions& options) {
  if (options.segment_size == 0) return tensorflow::TensorShape({layout.channels});
  return tensorflow::TensorShape({layout.segments, layout.channels});
}

}  // namespace keras_norms

#endif  // KERAS_NORMS_OPS_OP_HELPERS_H_
