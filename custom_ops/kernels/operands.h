// The operands of the kernels by name, and the rules that their shapes obey.
//
// One copy of the rules for everyone who calls the kernels: shape functions, where sizes may still
// be unknown, op kernels, XLA kernels and FFI handlers. A kernel is called only with shapes that
// passed, so that it never reads or writes out of bounds.

#ifndef KERAS_NORMS_KERNELS_OPERANDS_H_
#define KERAS_NORMS_KERNELS_OPERANDS_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "channel_layout.h"
#include "rectifier.h"

namespace keras_norms {

// A parameter is a vector that all segments share.
enum class Role { kActivation, kVector, kParameter, kWeights, kCount, kScalar, kParts, kSums };

struct Operand {
  const char* name;
  Role role;
  const char* count;  // The attribute that says whether it is there, 0 or 1. Null: it always is.
};

inline constexpr Operand kMomentsOperands[] = {
    {"x", Role::kActivation, nullptr},
    {"weights", Role::kWeights, "num_weights"},
};
inline constexpr Operand kExtremesOperands[] = {
    {"x", Role::kActivation, nullptr},
    {"weights", Role::kWeights, "num_weights"},
};
inline constexpr Operand kSumsOperands[] = {
    {"u", Role::kActivation, "num_u"},       {"v", Role::kActivation, "num_v"},
    {"center", Role::kVector, "num_center"}, {"scale", Role::kVector, "num_scale"},
    {"shift", Role::kVector, "num_shift"},   {"weights", Role::kWeights, "num_weights"},
};
inline constexpr Operand kBlendOperands[] = {
    {"u", Role::kActivation, "num_u"},       {"v", Role::kActivation, "num_v"},
    {"a", Role::kVector, "num_a"},           {"b", Role::kVector, "num_v"},
    {"c", Role::kVector, "num_c"},           {"center", Role::kVector, "num_center"},
    {"weights", Role::kWeights, "num_weights"},
};

inline constexpr Operand kNormalizeOperands[] = {
    {"x", Role::kActivation, nullptr},
    {"residual", Role::kActivation, "num_residual"},
    {"gamma", Role::kParameter, "num_gamma"},
    {"beta", Role::kParameter, "num_beta"},
    {"parts", Role::kParts, "num_parts"},
    {"moving_mean", Role::kParameter, "num_moving"},
    {"moving_variance", Role::kParameter, "num_moving"},
    {"share", Role::kScalar, "num_moving"},
};
inline constexpr Operand kNormalizeGradOperands[] = {
    {"dy", Role::kActivation, nullptr},
    {"x", Role::kActivation, nullptr},
    {"y", Role::kActivation, "num_y"},
    {"gamma", Role::kParameter, "num_gamma"},
    {"beta", Role::kParameter, "num_beta"},
    {"count", Role::kCount, nullptr},
    {"mean", Role::kVector, nullptr},
    {"variance", Role::kVector, nullptr},
    {"of_mean", Role::kVector, "num_of"},
    {"of_variance", Role::kVector, "num_of"},
    {"own_sums", Role::kSums, "num_sums"},
    {"sums", Role::kSums, "num_sums"},
};

struct Signature {
  const char* op;
  const Operand* operands;
  int size;
  bool weighs;              // Has the attribute `weighted`.
  bool has_chunks = false;  // Has the attribute `chunks`.
  bool rectifies = false;   // Has the attributes `rectified`, `negative_slope` and `cap`.
  bool has_epsilon = false;  // Has the attribute `epsilon`.
};

inline constexpr Signature kMoments{"KerasNorms>Moments", kMomentsOperands, 2, false};
inline constexpr Signature kExtremes{"KerasNorms>Extremes", kExtremesOperands, 2, false, true};
inline constexpr Signature kSums{"KerasNorms>Sums", kSumsOperands, 6, true};
inline constexpr Signature kBlend{"KerasNorms>Blend", kBlendOperands, 7, true, false, true};
inline constexpr Signature kNormalize{
    "KerasNorms>Normalize", kNormalizeOperands, 8, false, false, true, true};
inline constexpr Signature kNormalizeGrad{
    "KerasNorms>NormalizeGrad", kNormalizeGradOperands, 12, false, false, true, true};

struct CallOptions {
  int64_t axis = 0;          // Where the channels of an activation are.
  int64_t segment_size = 0;  // Positions along axis 0 that share vectors; 0: all do.
  bool weighted = false;
  int64_t chunks = 1;  // Runs of positions that each segment is cut into.
  Rectifier rectifier = {};
  double epsilon = 0.0;  // Added to a variance.
};

// An array without values may have no memory, but a null pointer would say that it is absent.
inline const void* NotNull(const void* data) {
  static const double nothing = 0.0;
  return data == nullptr ? &nothing : data;
}

using Sizes = std::vector<int64_t>;  // -1 where unknown.

struct OperandShape {
  bool present = false;
  bool rank_known = true;
  Sizes sizes;
};

inline int64_t Product(const int64_t* begin, const int64_t* end) {
  int64_t product = 1;
  for (; begin != end; ++begin) product *= *begin;
  return product;
}

// How many segments a batch has; -1 where that is unknown.
inline int64_t SegmentCount(int64_t batch, const CallOptions& options) {
  if (options.segment_size == 0) return 1;
  return batch < 0 ? -1 : batch / options.segment_size + (batch % options.segment_size != 0);
}

// The layout of an activation whose shape passed the rules.
inline ChannelLayout LayoutOf(const Sizes& sizes, const CallOptions& options) {
  const int64_t* channels = sizes.data() + options.axis;
  const int64_t* end = sizes.data() + sizes.size();
  ChannelLayout layout;
  layout.rows = Product(sizes.data(), channels);
  layout.channels = *channels;
  layout.inner = Product(channels + 1, end);
  layout.segments = SegmentCount(sizes[0], options);
  layout.segment_rows = layout.rows;
  if (options.segment_size > 0) {
    const int64_t batch_rows = std::min(options.segment_size, sizes[0]);  // No overflow.
    layout.segment_rows = batch_rows * Product(sizes.data() + 1, channels);
  }
  return layout;
}

namespace internal {

inline bool MayEqual(int64_t m, int64_t n) { return m < 0 || n < 0 || m == n; }

inline std::string Text(const OperandShape& shape) {
  if (!shape.rank_known) return "<unknown>";
  std::string text = "[";
  for (size_t i = 0; i < shape.sizes.size(); ++i) {
    if (i > 0) text += ",";
    text += shape.sizes[i] < 0 ? "?" : std::to_string(shape.sizes[i]);
  }
  return text + "]";
}

inline bool IsActivation(const Sizes& sizes, const CallOptions& options) {
  return sizes.size() >= 2 && options.axis >= 0 &&
         options.axis < static_cast<int64_t>(sizes.size());
}

inline bool Fits(Role role, const Sizes& sizes, const Sizes& activation,
                 const CallOptions& options) {
  const int64_t channels = activation[options.axis];
  if (role == Role::kVector) {
    if (sizes.size() == 1) return MayEqual(sizes[0], channels);
    return sizes.size() == 2 && options.segment_size > 0 &&
           MayEqual(sizes[0], SegmentCount(activation[0], options)) &&
           MayEqual(sizes[1], channels);
  }
  if (role == Role::kParameter) return sizes.size() == 1 && MayEqual(sizes[0], channels);
  if (role == Role::kScalar) return sizes.empty();
  if (role == Role::kParts) {
    return sizes.size() == 2 && MayEqual(sizes[1], channels < 0 ? -1 : 2 * channels + 1);
  }
  if (role == Role::kSums) {
    return sizes.size() == 1 && MayEqual(sizes[0], channels < 0 ? -1 : 2 * channels);
  }
  if (role == Role::kCount) {
    if (options.segment_size == 0) return sizes.size() == 1 && MayEqual(sizes[0], 1);
    return sizes.size() == 2 && MayEqual(sizes[0], SegmentCount(activation[0], options)) &&
           MayEqual(sizes[1], 1);
  }
  if (sizes.size() != activation.size()) return false;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const bool on_channels = static_cast<int64_t>(i) == options.axis;
    const int64_t size = role == Role::kWeights && on_channels ? 1 : activation[i];
    if (!MayEqual(sizes[i], size)) return false;
  }
  return true;
}

inline const char* Rule(Role role) {
  switch (role) {
    case Role::kActivation:
      return "activations must have the same shape.";
    case Role::kVector:
      return "a vector must be [channels], or [segments, channels] with a segment_size.";
    case Role::kParameter:
      return "a parameter must be [channels].";
    case Role::kCount:
      return "a count must be [1], or [segments, 1] with a segment_size.";
    case Role::kScalar:
      return "a share must be one number.";
    case Role::kParts:
      return "parts must be [members, 1 + 2 channels].";
    case Role::kSums:
      return "sums must be [2 channels].";
    default:
      return "weights must have the shape of the activation, with 1 on the channel axis.";
  }
}

}  // namespace internal

// What is wrong with which operands are there, or an empty string.
inline std::string PresenceProblem(const Signature& signature, const OperandShape* shapes,
                                   const CallOptions& options) {
  const std::string op = std::string(signature.op) + ": ";
  bool any = false;
  for (int i = 0; i < signature.size; ++i) {
    const Operand& operand = signature.operands[i];
    if (operand.count == nullptr && !shapes[i].present) {
      return op + operand.name + " must be given. Received: none.";
    }
    any = any || (operand.role == Role::kActivation && shapes[i].present);
    for (int k = 0; k < i; ++k) {  // Operands with one count come together: v and b.
      const Operand& other = signature.operands[k];
      if (operand.count != nullptr && other.count != nullptr &&
          std::string(operand.count) == other.count && shapes[i].present != shapes[k].present) {
        return op + other.name + " and " + operand.name +
               " must be given together. Received: one of them.";
      }
    }
  }
  if (!any) return op + "at least one of u and v must be given. Received: neither.";
  if (options.weighted && !shapes[signature.size - 1].present) {
    return op + "weighted needs weights. Received: weighted=true and none.";
  }
  if (signature.operands == kBlendOperands && shapes[2].present && !shapes[0].present) {
    return op + "a needs u. Received: a and no u.";
  }
  if (signature.operands == kNormalizeOperands && options.segment_size > 0) {
    if (shapes[5].present) return op + "segments have no moving statistics. Received: both.";
    if (shapes[4].present) return op + "segments cannot be parts. Received: both.";
  }
  if (signature.operands == kNormalizeGradOperands) {
    const bool has_y = shapes[2].present, rectifies = options.rectifier.is_given;
    if (has_y && !rectifies) return op + "y needs rectified. Received: y and rectified=false.";
    if (shapes[4].present && (has_y || !rectifies)) {
      return op + "beta needs rectified, and no y. Received: beta" +
             (has_y ? " and y." : " and rectified=false.");
    }
    if (shapes[10].present && (rectifies || options.segment_size > 0)) {
      return op + "sums need rectified=false and no segments. Received: one of these.";
    }
  }
  if (signature.operands == kSumsOperands) {
    const bool u = shapes[0].present, v = shapes[1].present;
    const bool scale = shapes[3].present, shift = shapes[4].present;
    if (scale && !v) return op + "scale needs v. Received: scale and no v.";
    if (shift && (u || !scale)) {
      return op + "shift needs scale, and no u. Received: shift" +
             (u ? " and u." : " and no scale.");
    }
  }
  return "";
}

// What is wrong with the operands, one for each operand of the signature, or an empty string.
// Sizes that are unknown pass.
inline std::string ShapeProblem(const Signature& signature, const OperandShape* shapes,
                                const CallOptions& options) {
  using internal::Text;
  const std::string op = std::string(signature.op) + ": ";
  const std::string received = " Received: axis=" + std::to_string(options.axis) +
                               ", segment_size=" + std::to_string(options.segment_size);
  if (options.segment_size < 0 || (options.segment_size > 0 && options.axis == 0)) {
    return op + "segment_size must not be negative, and 0 where the channels are axis 0." +
           received + ".";
  }
  if (options.chunks < 1) {
    return op + "chunks must be above 0. Received: chunks=" + std::to_string(options.chunks) + ".";
  }
  const std::string missing = PresenceProblem(signature, shapes, options);
  if (!missing.empty()) return missing;
  for (int i = 0; i < signature.size; ++i) {
    if (signature.operands[i].role != Role::kActivation || !shapes[i].present) continue;
    const OperandShape& activation = shapes[i];
    if (!activation.rank_known) continue;
    const std::string activation_text =
        std::string(signature.operands[i].name) + ".shape=" + Text(activation);
    if (!internal::IsActivation(activation.sizes, options)) {
      return op + "an activation must have rank 2 or more, and `axis` must lie in it." + received +
             ", " + activation_text + ".";
    }
    for (int k = 0; k < signature.size; ++k) {
      if (k == i || !shapes[k].present || !shapes[k].rank_known) continue;
      const Operand& operand = signature.operands[k];
      if (!internal::Fits(operand.role, shapes[k].sizes, activation.sizes, options)) {
        return op + internal::Rule(operand.role) + received + ", " + activation_text + ", " +
               operand.name + ".shape=" + Text(shapes[k]) + ".";
      }
    }
  }
  return "";
}

}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_OPERANDS_H_
