// What normalize and its gradient are made of (normalize.h): the calls of the other kernels, and the
// vectors in between, one channel at a time. The only copy, for every device.

#ifndef KERAS_NORMS_KERNELS_NORMALIZE_STEPS_H_
#define KERAS_NORMS_KERNELS_NORMALIZE_STEPS_H_

#include <cmath>
#include <limits>

#include "blend.h"
#include "moments.h"
#include "normalize.h"
#include "sums.h"

namespace keras_norms {

// Scratch memory of a call, handed out from front to back.
class Memory {
 public:
  Memory(void* begin, int64_t alignment)
      : begin_(static_cast<char*>(begin)), next_(begin_), alignment_(alignment) {}
  double* Vector(int64_t size) {
    return reinterpret_cast<double*>(Bytes(size * static_cast<int64_t>(sizeof(double))));
  }
  void* Bytes(int64_t size) {
    char* bytes = next_;
    next_ += (size + alignment_ - 1) / alignment_ * alignment_;
    return bytes;
  }
  int64_t size() const { return next_ - begin_; }

 private:
  char* const begin_;
  char* next_;
  const int64_t alignment_;
};

KERAS_NORMS_HD inline double InverseStddev(double variance, double epsilon) {
  return 1.0 / std::sqrt(variance + epsilon);
}

KERAS_NORMS_HD inline double GammaAt(const ChannelVector& gamma, const ChannelLayout& layout,
                                     int64_t channel) {
  return gamma.data == nullptr ? 1.0 : gamma.at(layout, 0, channel);
}

// The first pass. It leaves the centred sum of squares where the variance is to be.
inline MomentsArguments MomentsOf(const NormalizeArguments& arguments) {
  MomentsArguments moments;
  moments.dtype = arguments.dtype;
  moments.layout = arguments.layout;
  moments.x = arguments.x;
  moments.count = arguments.count;
  moments.mean = arguments.mean;
  moments.m2 = arguments.variance;
  return moments;
}

// In place of the first pass, where there are parts: their count, and mean and centred sum of squares
// of a channel. Exactly, since means are merged and not sums.
KERAS_NORMS_HD inline double MergedCount(const NormalizeArguments& arguments) {
  const int64_t stride = 2 * arguments.layout.channels + 1;
  double count = 0.0;
  for (int64_t member = 0; member < arguments.members; ++member) {
    count += arguments.parts[member * stride];
  }
  return count;
}

KERAS_NORMS_HD inline void MergeParts(const NormalizeArguments& arguments, double count,
                                      int64_t channel) {
  const int64_t channels = arguments.layout.channels, stride = 2 * channels + 1;
  double mean = 0.0, m2 = 0.0;
  for (int64_t member = 0; member < arguments.members; ++member) {
    const double* part = arguments.parts + member * stride;
    mean += part[0] * part[1 + channel];
  }
  mean = count == 0 ? 0.0 : mean / count;
  for (int64_t member = 0; member < arguments.members; ++member) {
    const double* part = arguments.parts + member * stride;
    const double distance = part[1 + channel] - mean;
    m2 += part[1 + channels + channel] + part[0] * distance * distance;
  }
  arguments.mean[channel] = mean;
  arguments.variance[channel] = m2;
}

// Between the passes: the variance, and the scale of the second pass.
KERAS_NORMS_HD inline void FinishVariance(const NormalizeArguments& arguments, double count,
                                          int64_t segment, int64_t channel, double* scale) {
  const int64_t i = segment * arguments.layout.channels + channel;
  const double variance = count == 0 ? 0.0 : arguments.variance[i] / count;
  arguments.variance[i] = variance;
  scale[i] = GammaAt(arguments.gamma, arguments.layout, channel) *
             InverseStddev(variance, arguments.epsilon);
}

// The second pass. The moments are where the arguments say.
inline BlendArguments BlendOf(const NormalizeArguments& arguments, const double* scale) {
  BlendArguments blend;
  blend.dtype = arguments.dtype;
  blend.layout = arguments.layout;
  blend.u = arguments.residual;
  blend.v = arguments.x;
  blend.b = {scale, true, true};
  blend.c = arguments.beta;
  blend.center = {arguments.mean, true, true};
  blend.rectifier = arguments.rectifier;
  blend.y = arguments.y;
  blend.backwards = true;
  return blend;
}

// (1 - share) old + share batch. A share of 0 or 1 lets no NaN of the other pass.
template <typename F>
KERAS_NORMS_HD inline F Mixed(F share, F old, double batch) {
  const F kept = 1 - share;
  const F of_old = kept == 0 ? F{0} : old * kept;
  return of_old + (share == 0 ? F{0} : static_cast<F>(batch) * share);
}

// The most that is stored, a share of what the type can hold.
template <typename F>
inline constexpr double kLargest = 0.99 * static_cast<double>(std::numeric_limits<F>::max());

// One channel of the moving averages, whose vectors are of type F.
template <typename F>
KERAS_NORMS_HD inline void Move(const MovingAverage& moving, int64_t channel, double mean,
                                double variance, double count) {
  const F share = count > 0 ? *static_cast<const F*>(moving.share) : F{0};
  const double bounded = variance > kLargest<F> ? kLargest<F> : variance;
  static_cast<F*>(moving.new_mean)[channel] =
      Mixed(share, static_cast<const F*>(moving.mean.data)[channel], mean);
  static_cast<F*>(moving.new_variance)[channel] =
      Mixed(share, static_cast<const F*>(moving.variance.data)[channel], bounded);
}

// The first pass of the gradient. `scale`: that of normalize, as ScaleAt.
inline SumsArguments SumsOf(const NormalizeGradArguments& arguments, const double* scale) {
  SumsArguments sums;
  sums.dtype = arguments.dtype;
  sums.layout = arguments.layout;
  sums.u = arguments.dy;
  sums.v = arguments.x;
  sums.center = arguments.mean;
  sums.gate.rectifier = arguments.rectifier;
  sums.gate.y = arguments.y;
  sums.gate.scale = {scale, true, true};
  sums.gate.shift = arguments.beta;
  sums.y = arguments.dresidual;
  return sums;
}

// Vectors of the gradient, (segments, channels) each. The sums are those of the first pass.
struct GradVectors {
  double *scale, *b, *c, *center, *sum_dy, *sum_dy_centred;

  GradVectors(Memory* memory, int64_t size)
      : scale(memory->Vector(size)),
        b(memory->Vector(size)),
        c(memory->Vector(size)),
        center(memory->Vector(size)),
        sum_dy(memory->Vector(size)),
        sum_dy_centred(memory->Vector(size)) {}
};

KERAS_NORMS_HD inline double ScaleAt(const NormalizeGradArguments& arguments, int64_t segment,
                                     int64_t channel) {
  const double variance = arguments.variance.at(arguments.layout, segment, channel);
  return GammaAt(arguments.gamma, arguments.layout, channel) *
         InverseStddev(variance, arguments.epsilon);
}

KERAS_NORMS_HD inline void Put(void* vector, bool is_double, int64_t i, double value) {
  if (vector == nullptr) return;
  if (is_double) {
    static_cast<double*>(vector)[i] = value;
  } else {
    static_cast<float*>(vector)[i] = static_cast<float>(value);
  }
}

// Between the passes: the vectors of dx, and the gradients of the parameters of one channel, of
// which segments add up. Sums that are given take the place of those of the first pass.
KERAS_NORMS_HD inline void Differentiate(const NormalizeGradArguments& arguments,
                                         const GradVectors& at, int64_t channel) {
  const ChannelLayout& layout = arguments.layout;
  const double gamma = GammaAt(arguments.gamma, layout, channel);
  double dgamma = 0.0, dbeta = 0.0;
  for (int64_t segment = 0; segment < layout.segments; ++segment) {
    const int64_t i = segment * layout.channels + channel;
    const double mean = arguments.mean.at(layout, segment, channel);
    const double variance = arguments.variance.at(layout, segment, channel);
    const double inverse = InverseStddev(variance, arguments.epsilon);
    const double *given = arguments.sums, *own = arguments.own_sums;
    const double sum = given == nullptr ? at.sum_dy[i] : given[channel];
    const double product =
        given == nullptr ? at.sum_dy_centred[i] : given[layout.channels + channel];
    const double of_variance = -0.5 * gamma * product * inverse * inverse * inverse +
                               arguments.of_variance.at(layout, segment, channel);
    const double of_mean =
        -gamma * inverse * sum + arguments.of_mean.at(layout, segment, channel);
    const double count = arguments.count[segment];
    at.b[i] = count == 0 ? 0.0 : 2.0 * of_variance / count;
    at.c[i] = count == 0 ? 0.0 : of_mean / count;
    at.center[i] = mean - mean == 0.0 ? mean : 0.0;
    dgamma += (own == nullptr ? product : own[layout.channels + channel]) * inverse;
    dbeta += own == nullptr ? sum : own[channel];
  }
  Put(arguments.dgamma, arguments.vectors_are_double, channel, dgamma);
  Put(arguments.dbeta, arguments.vectors_are_double, channel, dbeta);
}

// The second pass of the gradient. `gate`: that of the first pass.
inline BlendArguments BlendOf(const NormalizeGradArguments& arguments, const GradVectors& at,
                              const Gate& gate) {
  BlendArguments blend;
  blend.dtype = arguments.dtype;
  blend.layout = arguments.layout;
  blend.u = arguments.dresidual == nullptr ? arguments.dy : arguments.dresidual;
  blend.v = arguments.x;
  blend.a = {at.scale, true, true};
  blend.b = {at.b, true, true};
  blend.c = {at.c, true, true};
  blend.center = {at.center, true, true};
  if (arguments.dresidual == nullptr) blend.gate = gate;
  blend.y = arguments.dx;
  blend.backwards = true;
  return blend;
}

}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_NORMALIZE_STEPS_H_
