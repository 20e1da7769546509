// A piecewise linear activation: min(z, cap) where z is above 0, and negative_slope * z elsewhere.
//
// Its gradient is told from z, which is computed again, or from the result, which is above 0 and
// below the cap exactly where z is. With a cap the slope is 0.

#ifndef KERAS_NORMS_KERNELS_RECTIFIER_H_
#define KERAS_NORMS_KERNELS_RECTIFIER_H_

#include "channel_layout.h"

namespace keras_norms {

struct Rectifier {
  bool is_given = false;
  float negative_slope = 0.0f;
  float cap = 0.0f;  // 0 for none.
};

// Takes the gradient of a rectifier's result to that of z: where a kernel has a gate, it reads u as
// u times the slope at z. It is told from y, an activation, or with y null from
// z = scale (v - center) + shift.
struct Gate {
  Rectifier rectifier;  // Not given: no gate.
  const void* y = nullptr;
  ChannelVector scale, shift;
};

}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_RECTIFIER_H_
