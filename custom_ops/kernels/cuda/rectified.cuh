// The formulas of rectifiers (../rectifier.h), those of ../cpu/rectified.h for single numbers.

#ifndef KERAS_NORMS_KERNELS_CUDA_RECTIFIED_CUH_
#define KERAS_NORMS_KERNELS_CUDA_RECTIFIED_CUH_

#include <limits>

#include "../rectifier.h"
#include "device.h"

namespace keras_norms::cuda {

// A rectifier in the compute type.
template <typename C>
struct RectifierOf {
  bool is_given;
  C slope, cap;
  C least;   // What z counts as at least.
  C closed;  // From where on the gate is closed; NaN, which no number is above, for nowhere.

  explicit RectifierOf(const Rectifier& rectifier)
      : is_given(rectifier.is_given),
        slope(static_cast<C>(rectifier.negative_slope)),
        cap(rectifier.cap > 0 ? static_cast<C>(rectifier.cap)
                              : std::numeric_limits<C>::infinity()),
        least(slope > 0 ? -std::numeric_limits<C>::infinity()
                        : std::numeric_limits<C>::lowest()),
        closed(rectifier.cap > 0 ? cap : std::numeric_limits<C>::quiet_NaN()) {}

  // NaN stays. Minus infinity times a slope of 0 would be NaN, and -0 is not what it is for.
  __device__ __forceinline__ C Rectified(C z) const {
    const C below = slope * (z < least ? least : z) + C(0);
    const C above = z < cap ? z : cap;
    return z > 0 ? above : below;
  }

  // The gradient of z from that of the result, u.
  __device__ __forceinline__ C Gated(C u, C z) const {
    const C above = z >= closed ? C(0) : u;
    return z > 0 ? above : u * slope;
  }
};

}  // namespace keras_norms::cuda

#endif  // KERAS_NORMS_KERNELS_CUDA_RECTIFIED_CUH_
