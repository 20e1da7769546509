// The formulas of rectifiers (../rectifier.h); N is a number or a vector of them.

#ifndef KERAS_NORMS_KERNELS_CPU_RECTIFIED_H_
#define KERAS_NORMS_KERNELS_CPU_RECTIFIED_H_

#include <limits>

#include "../rectifier.h"
#include "numbers.h"

namespace keras_norms {
namespace KERAS_NORMS_LEVEL {

// A rectifier in the compute type.
template <typename F>
struct RectifierOf {
  F slope, cap;
  F least;   // What z counts as at least.
  F closed;  // From where on the gate is closed; NaN, which no number is above, for nowhere.

  explicit RectifierOf(const Rectifier& rectifier)
      : slope(static_cast<F>(rectifier.negative_slope)),
        cap(rectifier.cap > 0 ? static_cast<F>(rectifier.cap)
                              : std::numeric_limits<F>::infinity()),
        least(slope > 0 ? -std::numeric_limits<F>::infinity()
                        : std::numeric_limits<F>::lowest()),
        closed(rectifier.cap > 0 ? cap : std::numeric_limits<F>::quiet_NaN()) {}

  // NaN stays. Minus infinity times a slope of 0 would be NaN, and -0 is not what it is for.
  template <typename N>
  N Rectified(const N& z) const {
    const N below = slope * Larger(N{} + least, z) + F{0};
    const N above = Smaller(N{} + cap, z);
    return z > 0 ? above : below;
  }

  // The gradient of z from that of the result, u.
  template <typename N>
  N Gated(const N& u, const N& z) const {
    const N above = z >= closed ? N{} : u;
    return z > 0 ? above : u * slope;
  }
};

}  // namespace KERAS_NORMS_LEVEL
}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_CPU_RECTIFIED_H_
