// What a kernel is compiled for, and the choice among that.

#ifndef KERAS_NORMS_KERNELS_CUDA_VARIANT_H_
#define KERAS_NORMS_KERNELS_CUDA_VARIANT_H_

#include <type_traits>

#include "../channel_layout.h"
#include "device.h"

namespace keras_norms::cuda {

constexpr int kVectorBytes = 16;

template <typename T_, bool kIsVector, bool kChannelsLast_, bool kHasWeights_>
struct Variant {
  using T = T_;
  using C = Compute<T>;
  static constexpr bool kChannelsLast = kChannelsLast_;
  static constexpr bool kHasWeights = kHasWeights_;
  static constexpr int kWidth = kIsVector ? kVectorBytes / sizeof(T) : 1;  // Values of a step.
  static constexpr int kLanes = kChannelsLast ? kWidth : 1;                // Channels of a step.
  static constexpr int kWeights = kWidth / kLanes;                         // Positions of a step.
};

// The values of a step of 16 bytes, or 1 where such steps do not fit the layout.
inline int VectorWidth(DataType dtype, const ChannelLayout& layout) {
  const int width = dtype == DataType::kFloat64 ? 2 : dtype == DataType::kFloat32 ? 4 : 8;
  return (layout.inner == 1 ? layout.channels : layout.inner) % width == 0 ? width : 1;
}

// Whether they do, and the pointers are null or aligned.
template <typename... Pointers>
bool IsVector(DataType dtype, const ChannelLayout& layout, Pointers... pointers) {
  return VectorWidth(dtype, layout) > 1 &&
         ((reinterpret_cast<uintptr_t>(pointers) % kVectorBytes == 0) && ...);
}

// Returns what `call` does for the variant.
template <typename Call>
const char* WithVariant(DataType dtype, bool is_vector, bool channels_last, bool has_weights,
                        const Call& call) {
  const auto with_type = [&](auto value) {
    using T = decltype(value);
    if (is_vector && channels_last) {
      return has_weights ? call(Variant<T, true, true, true>())
                         : call(Variant<T, true, true, false>());
    }
    if (is_vector) {
      return has_weights ? call(Variant<T, true, false, true>())
                         : call(Variant<T, true, false, false>());
    }
    if (channels_last) {
      return has_weights ? call(Variant<T, false, true, true>())
                         : call(Variant<T, false, true, false>());
    }
    return has_weights ? call(Variant<T, false, false, true>())
                       : call(Variant<T, false, false, false>());
  };
  switch (dtype) {
    case DataType::kFloat32: return with_type(float());
    case DataType::kFloat64: return with_type(double());
    case DataType::kFloat16: return with_type(Half());
    case DataType::kBFloat16: return with_type(BFloat16());
  }
  return "The dtype is none that the kernels know.";
}

}  // namespace keras_norms::cuda

#endif  // KERAS_NORMS_KERNELS_CUDA_VARIANT_H_
