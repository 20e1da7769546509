// What rectifiers, normalize and its gradient promise, checked against plain loops: for every device.

#ifndef KERAS_NORMS_TESTS_NATIVE_NORMALIZE_CHECKS_H_
#define KERAS_NORMS_TESTS_NATIVE_NORMALIZE_CHECKS_H_

#include "kernel_checks.h"
#include "normalize.h"

namespace keras_norms::testing {

// Each returns null, or what went wrong.
struct NormalizeKernels {
  const char* (*sums)(const SumsArguments&);
  const char* (*blend)(const BlendArguments&);
  const char* (*normalize)(const NormalizeArguments&);
  const char* (*normalize_grad)(const NormalizeGradArguments&);
};

class NormalizeChecker {
 public:
  explicit NormalizeChecker(const NormalizeKernels& kernels) : kernels_(kernels) {}

  // The weights of the case are not used.
  void Check(const Case& given, DataType dtype) {
    Begin(given, dtype);
    CheckValuesOfRectifiers();
    for (const Rectifier& rectifier : {kRelu, kLeaky, kCapped}) {
      for (const bool has_v : {false, true}) CheckRectifiedBlend(rectifier, has_v);
      CheckGatedBlend(rectifier);
      for (const bool by_y : {false, true}) CheckGatedSums(rectifier, by_y);
    }
    int variant = 0;
    for (const Rectifier& rectifier : {Rectifier{}, kRelu, kLeaky, kCapped}) {
      for (const bool has_residual : {false, true}) {
        CheckNormalize(rectifier, has_residual, variant++);
      }
    }
    if (given.segment_rows == 0) CheckSplitBatch();
  }

  // For a large activation: one call each way.
  void CheckOnce(const Case& given, DataType dtype, bool has_residual) {
    Begin(given, dtype);
    CheckNormalize(kRelu, has_residual, has_residual);
  }

  // Where NaN must not get, with vectors of F.
  template <typename F>
  void CheckMovingAverages(DataType vectors) {
    const F infinity = std::numeric_limits<F>::infinity(), nan = static_cast<F>(kNaN);
    Begin({4, 3, 1}, DataType::kFloat64);
    CheckMoving<F>(vectors, 0, {2, nan, infinity}, nan, {2, nan, infinity});
    CheckMoving<F>(vectors, 1, {nan, nan, nan}, 5, {5, 5, 5});
    CheckMoving<F>(vectors, F{0.25}, {1, 2, nan}, 5, {2, F{2.75}, nan});
    Begin({0, 3, 1}, DataType::kFloat64);  // No values: they stay.
    CheckMoving<F>(vectors, 1, {7, nan, 9}, 5, {7, nan, 9});
  }

  int failures() const { return failures_; }
  int checks() const { return checks_; }

 private:
  using Number = long double;
  static constexpr Rectifier kRelu{true, 0.0f, 0.0f}, kLeaky{true, 0.25f, 0.0f},
      kCapped{true, 0.0f, 1.5f};

  void Begin(const Case& given, DataType dtype) {
    case_ = given;
    dtype_ = dtype;
    layout_ = given.layout();
    precision_ = EpsilonOf(ComputeTypeOf(dtype));
    smallest_ = dtype == DataType::kFloat16 ? std::ldexp(1.0, -24) : 0;
  }

  Array Filled(double mean, double deviation, uint64_t seed) const {
    Array values(dtype_, layout_.size(), case_.misaligned);
    Random random(layout_.size() + seed);
    for (int64_t i = 0; i < values.size(); ++i) values.Set(i, mean + deviation * random.Normal());
    return values;
  }
  Array Input() const { return Filled(case_.mean, case_.deviation, 7); }
  Array CopyOf(const Array& other) const {
    Array copy(dtype_, other.size(), case_.misaligned);
    for (int64_t i = 0; i < copy.size(); ++i) copy.Set(i, other.Get(i));
    return copy;
  }

  template <typename Body>  // Calls body(index) for each value of a channel in a segment.
  void ForEach(int64_t segment, int64_t channel, const Body& body) const {
    for (int64_t row = layout_.first_row(segment); row < layout_.end_row(segment); ++row) {
      const int64_t first = (row * layout_.channels + channel) * layout_.inner;
      for (int64_t k = 0; k < layout_.inner; ++k) body(first + k);
    }
  }
  template <typename Body>
  void ForEachVector(const Body& body) const {
    for (int64_t i = 0; i < layout_.vector_size(); ++i) {
      body(i / layout_.channels, i % layout_.channels, i);
    }
  }

  static Number Rectified(const Rectifier& rectifier, Number z) {
    if (!rectifier.is_given) return z;
    if (z > 0) return rectifier.cap > 0 && z > rectifier.cap ? rectifier.cap : z;
    return rectifier.negative_slope * z;
  }
  static Number Slope(const Rectifier& rectifier, Number z) {
    if (!rectifier.is_given) return 1;
    if (z > 0) return rectifier.cap > 0 && z >= rectifier.cap ? 0 : 1;
    return rectifier.negative_slope;
  }
  // A gate: the slope at z, which rounding may have moved by `tolerance`, past where the slope jumps.
  struct Gated {
    Number slope;
    bool is_sure;
    Gated(const Rectifier& rectifier, Number z, Number tolerance)
        : slope(Slope(rectifier, z)),
          is_sure(slope == Slope(rectifier, z - tolerance) &&
                  slope == Slope(rectifier, z + tolerance)) {}
  };
  // How far rounding moves scale (v - center) + shift.
  Number Rounding(Number scaled, Number shift, Number scale) const {
    const Number low = precision_ * std::fabs(case_.mean) * std::fabs(scale);
    return 16 * precision_ * (std::fabs(scaled) + std::fabs(shift) + low);
  }
  // And what a result loses that is stored.
  Number Stored(Number expected) const {
    return EpsilonOf(dtype_) * std::fabs(expected) + smallest_;
  }

  // NaN and infinities, and no -0.
  void CheckValuesOfRectifiers() {
    const double infinity = std::numeric_limits<double>::infinity();
    const double given[] = {kNaN, -infinity, -0.0, 0.0, infinity, -2.0, 1.0, 4.0};
    const int64_t size = 8;
    for (const Rectifier& rectifier : {kRelu, kLeaky, kCapped}) {
      Array y(dtype_, size);
      for (int64_t i = 0; i < size; ++i) y.Set(i, given[i]);
      BlendArguments blend;
      blend.dtype = dtype_;
      blend.layout = {size, 1, 1, 1, size};
      blend.u = blend.y = y.data();
      blend.rectifier = rectifier;
      if (!Ran("rectified", kernels_.blend(blend))) return;
      for (int64_t i = 0; i < size; ++i) {
        const double z = given[i], slope = rectifier.negative_slope;
        if (std::isinf(z) && z < 0 && slope > 0) {  // The lowest number, times the slope, or less.
          if (!(y.Get(i) < -1e4)) Fail("rectified", "minus infinity is lost");
          continue;
        }
        const Number expected =
            std::isinf(z) && z < 0 ? 0 : std::isnan(z) ? kNaN : Rectified(rectifier, z);
        Expect("rectified", i, y.Get(i), expected, std::isinf(expected) ? infinity : 0);
        if (z <= 0 && slope == 0 && std::signbit(y.Get(i))) Fail("rectified", "there is a -0");
      }
    }
  }

  // Over u, which has no factor.
  void CheckRectifiedBlend(const Rectifier& rectifier, bool has_v) {
    const Array u = Filled(0.5, 1, 3);
    Array v = Input(), y = CopyOf(u);
    const Vector b(layout_, 0.7, 0.2, true, true), c(layout_, -1, 0.5, true, false);
    const Vector center(layout_, case_.mean, case_.deviation / 8, true, false);
    BlendArguments blend;
    blend.dtype = dtype_;
    blend.layout = layout_;
    blend.u = blend.y = y.data();
    blend.c = c.view;
    blend.rectifier = rectifier;
    if (has_v) {
      blend.v = v.data();
      blend.b = b.view;
      blend.center = center.view;
    }
    if (!Ran("rectified blend", kernels_.blend(blend))) return;
    ForEachVector([&](int64_t s, int64_t channel, int64_t) {
      const Number scale = has_v ? b.Get(s, channel) : 0, shift = c.Get(s, channel);
      ForEach(s, channel, [&](int64_t i) {
        const Number scaled = scale * (v.Get(i) - static_cast<Number>(center.Get(s, channel)));
        const Number z = u.Get(i) + scaled + shift, expected = Rectified(rectifier, z);
        Expect("rectified blend", i, y.Get(i), expected,
               Stored(expected) + Rounding(scaled, std::fabs(shift) + std::fabs(u.Get(i)), scale));
      });
    });
  }

  struct GateVectors {
    explicit GateVectors(const NormalizeChecker& checker)
        : scale(checker.layout_, 0.6, 0.2, true, true),
          shift(checker.layout_, 0.3, 0.5, false, false),
          center(checker.layout_, checker.case_.mean, checker.case_.deviation / 8, true, true) {}
    Gate gate(const Rectifier& rectifier) const {
      return {rectifier, nullptr, scale.view, shift.view};
    }
    Vector scale, shift, center;
  };

  void CheckGatedBlend(const Rectifier& rectifier) {
    const Array u = Filled(0.5, 1, 3);
    Array v = Input(), y = CopyOf(u);
    const GateVectors vectors(*this);
    const Vector a(layout_, 1, 0.2, true, true), b(layout_, 0.7, 0.2, true, true),
        c(layout_, -1, 0.5, true, true);
    BlendArguments blend;
    blend.dtype = dtype_;
    blend.layout = layout_;
    blend.u = blend.y = y.data();
    blend.v = v.data();
    blend.a = a.view;
    blend.b = b.view;
    blend.c = c.view;
    blend.center = vectors.center.view;
    blend.gate = vectors.gate(rectifier);
    if (!Ran("gated blend", kernels_.blend(blend))) return;
    ForEachVector([&](int64_t s, int64_t channel, int64_t) {
      const Number scale = vectors.scale.Get(s, channel), shift = vectors.shift.Get(s, channel);
      ForEach(s, channel, [&](int64_t i) {
        const Number centred = v.Get(i) - static_cast<Number>(vectors.center.Get(s, channel));
        const Gated gate(rectifier, scale * centred + shift,
                         Rounding(scale * centred, shift, scale));
        const Number first = a.Get(s, channel) * u.Get(i), second = b.Get(s, channel) * centred;
        const Number expected = gate.slope * first + second + c.Get(s, channel);
        Expect("gated blend", i, y.Get(i), expected,
               Stored(expected) + (gate.is_sure ? 0 : std::fabs(first)) +
                   Rounding(second, std::fabs(first) + std::fabs(c.Get(s, channel)), 1));
      });
    });
  }

  void CheckGatedSums(const Rectifier& rectifier, bool by_y) {
    const Array u = Filled(0.5, 1, 3);
    Array v = Input(), told = Filled(0.5, 2, 5), y = CopyOf(u);
    const GateVectors vectors(*this);
    Array sum_u(DataType::kFloat64, layout_.vector_size()),
        sum_uv(DataType::kFloat64, layout_.vector_size());
    SumsArguments sums;
    sums.dtype = dtype_;
    sums.layout = layout_;
    sums.u = y.data();
    sums.v = v.data();
    sums.center = vectors.center.view;
    sums.gate = vectors.gate(rectifier);
    if (by_y) {
      sums.gate = {rectifier, told.data(), {}, {}};
      sums.y = y.data();
    }
    sums.sum_u = static_cast<double*>(sum_u.data());
    sums.sum_uv = static_cast<double*>(sum_uv.data());
    if (!Ran("gated sums", kernels_.sums(sums))) return;
    ForEachVector([&](int64_t s, int64_t channel, int64_t i) {
      const Number scale = vectors.scale.Get(s, channel), shift = vectors.shift.Get(s, channel);
      Number sum = 0, tolerance = 0, products = 0, products_tolerance = 0;
      ForEach(s, channel, [&](int64_t k) {
        const Number centred = v.Get(k) - static_cast<Number>(vectors.center.Get(s, channel));
        const Gated of_v(rectifier, scale * centred + shift,
                         Rounding(scale * centred, shift, scale));
        const Gated gate = by_y ? Gated(rectifier, told.Get(k), 0) : of_v;
        const Number value = gate.slope * u.Get(k);
        const Number doubt = gate.is_sure ? 64 * precision_ * std::fabs(value)
                                          : std::fabs(static_cast<Number>(u.Get(k)));
        sum += value;
        tolerance += doubt;
        products += value * centred;
        products_tolerance += doubt * std::fabs(centred);
        if (by_y) Expect("gated sums: y", k, y.Get(k), value, Stored(value));
      });
      Expect("gated sums: u", i, sum_u.Get(i), sum, tolerance);
      Expect("gated sums: uv", i, sum_uv.Get(i), products, products_tolerance);
    });
  }

  static constexpr double kVarianceEpsilon = 1e-3;

  // Odd variants have vectors of double, no gamma where 4 is added, and gradients of the moments.
  // Where there is a residual, y is in its memory, and dx in that of dy always.
  void CheckNormalize(const Rectifier& rectifier, bool has_residual, int variant) {
    const bool is_double = variant % 2 == 1, has_gamma = variant < 4 || !has_residual;
    const int64_t vectors = layout_.vector_size();
    Array x = Input(), y = Filled(0.2, 1, 9);
    const Array residual = CopyOf(y);
    Vector gamma(layout_, 1, 0.2, is_double, false), beta(layout_, 0.3, 0.5, is_double, false);
    if (!has_gamma) gamma.view.data = nullptr;
    const DataType f64 = DataType::kFloat64;
    Array count(f64, layout_.segments), mean(f64, vectors), variance(f64, vectors);
    NormalizeArguments arguments;
    arguments.dtype = dtype_;
    arguments.layout = layout_;
    arguments.x = x.data();
    arguments.residual = has_residual ? y.data() : nullptr;
    arguments.gamma = gamma.view;
    arguments.beta = beta.view;
    arguments.epsilon = kVarianceEpsilon;
    arguments.rectifier = rectifier;
    arguments.y = y.data();
    arguments.count = static_cast<double*>(count.data());
    arguments.mean = static_cast<double*>(mean.data());
    arguments.variance = static_cast<double*>(variance.data());
    if (!Ran("normalize", kernels_.normalize(arguments))) return;
    ForEachVector([&](int64_t s, int64_t channel, int64_t i) {
      Number total = 0, sum = 0, squares = 0;
      ForEach(s, channel, [&](int64_t k) {
        total += 1;
        sum += x.Get(k);
      });
      const Number exact = total > 0 ? sum / total : 0;
      ForEach(s, channel, [&](int64_t k) { squares += (x.Get(k) - exact) * (x.Get(k) - exact); });
      const Number exact_variance = total > 0 ? squares / total : 0;
      const Number deviation = std::sqrt(exact_variance), rounding = 1e-15 * std::fabs(exact);
      const Number of_mean = 64 * precision_ * deviation + rounding;
      Expect("normalize: count", s, count.Get(s), total, 0);
      Expect("normalize: mean", i, mean.Get(i), exact, of_mean);
      Expect("normalize: variance", i, variance.Get(i), exact_variance,
             512 * precision_ * exact_variance + rounding * (deviation + rounding));
      const Number factor = has_gamma ? gamma.Get(s, channel) : 1, shift = beta.Get(s, channel);
      const Number scale = factor / std::sqrt(exact_variance + kVarianceEpsilon);
      ForEach(s, channel, [&](int64_t k) {
        const Number scaled = scale * (x.Get(k) - exact);
        const Number added = has_residual ? residual.Get(k) : 0;
        const Number expected = Rectified(rectifier, scaled + shift + added);
        Expect("normalize: y", k, y.Get(k), expected,
               Stored(expected) + Rounding(scaled, std::fabs(shift) + std::fabs(added), scale) +
                   512 * precision_ * std::fabs(scaled) + std::fabs(scale) * of_mean);
      });
    });
    CheckNormalizeGrad(arguments, y, x, is_double);
  }

  // After a call of normalize, whose moments and result are taken as they are.
  void CheckNormalizeGrad(const NormalizeArguments& forward, Array& y, const Array& x,
                          bool is_double) {
    const bool by_y = forward.rectifier.is_given && forward.residual != nullptr;
    const Array dy = Filled(0.5, 1, 3);
    Array dx = CopyOf(dy), dresidual(dtype_, layout_.size(), case_.misaligned);
    const DataType type = is_double ? DataType::kFloat64 : DataType::kFloat32;
    Array dgamma(type, layout_.channels), dbeta(type, layout_.channels);
    const Vector of_mean(layout_, 0.1, 0.2, true, true), of_variance(layout_, -0.2, 0.1, true, true);
    NormalizeGradArguments arguments;
    arguments.dtype = dtype_;
    arguments.layout = layout_;
    arguments.dy = arguments.dx = dx.data();
    arguments.x = forward.x;
    arguments.gamma = forward.gamma;
    arguments.epsilon = forward.epsilon;
    arguments.rectifier = forward.rectifier;
    if (by_y) {
      arguments.y = y.data();
      arguments.dresidual = dresidual.data();
    } else if (forward.rectifier.is_given) {
      arguments.beta = forward.beta;
    }
    arguments.count = forward.count;
    arguments.mean = {forward.mean, true, true};
    arguments.variance = {forward.variance, true, true};
    if (is_double) {
      arguments.of_mean = of_mean.view;
      arguments.of_variance = of_variance.view;
    }
    arguments.dgamma = dgamma.data();
    arguments.dbeta = dbeta.data();
    arguments.vectors_are_double = is_double;
    if (!Ran("normalize_grad", kernels_.normalize_grad(arguments))) return;
    for (int64_t channel = 0; channel < layout_.channels; ++channel) {
      Number of_gamma = 0, of_beta = 0, gamma_tolerance = 0, beta_tolerance = 0;
      for (int64_t s = 0; s < layout_.segments; ++s) {
        const int64_t i = s * layout_.channels + channel;
        const Number mean = forward.mean[i], count = forward.count[s];
        const Number inverse = 1 / std::sqrt(forward.variance[i] + static_cast<Number>(
                                                                       forward.epsilon));
        const Number gamma =
            forward.gamma.data == nullptr ? 1 : forward.gamma.at(layout_, s, channel);
        const Number scale = gamma * inverse, shift = arguments.beta.at(layout_, s, channel);
        const auto gate_at = [&](int64_t k) {
          if (by_y) return Gated(forward.rectifier, y.Get(k), 0);
          const Number scaled = scale * (x.Get(k) - mean);
          return Gated(forward.rectifier, scaled + shift, Rounding(scaled, shift, scale));
        };
        Number sum = 0, products = 0, tolerance = 0, products_tolerance = 0;
        ForEach(s, channel, [&](int64_t k) {
          const Gated gate = gate_at(k);
          const Number value = gate.slope * dy.Get(k), centred = x.Get(k) - mean;
          const Number doubt = gate.is_sure ? 64 * precision_ * std::fabs(value)
                                            : std::fabs(static_cast<Number>(dy.Get(k)));
          sum += value;
          products += value * centred;
          tolerance += doubt;
          products_tolerance += doubt * std::fabs(centred);
        });
        of_gamma += products * inverse;
        of_beta += sum;
        gamma_tolerance += products_tolerance * inverse;
        beta_tolerance += tolerance;
        const Number cubed = gamma * inverse * inverse * inverse;
        const Number b = (-cubed * products + 2 * arguments.of_variance.at(layout_, s, channel)) /
                         count;
        const Number c = (-scale * sum + arguments.of_mean.at(layout_, s, channel)) / count;
        ForEach(s, channel, [&](int64_t k) {
          const Gated gate = gate_at(k);
          const Number centred = x.Get(k) - mean, value = gate.slope * dy.Get(k);
          const Number expected = scale * value + b * centred + c;
          const Number doubt =
              (gate.is_sure ? Stored(value) : std::fabs(static_cast<Number>(dy.Get(k)))) *
                  std::fabs(scale) +
              std::fabs(cubed * centred) * products_tolerance / count +
              std::fabs(scale) * tolerance / count;
          Expect("normalize_grad: dx", k, dx.Get(k), expected,
                 Stored(expected) + doubt +
                     Rounding(b * centred, std::fabs(c) + std::fabs(scale * value), b));
          if (by_y) Expect("normalize_grad: dresidual", k, dresidual.Get(k), value, Stored(value));
        });
      }
      const Number stored = EpsilonOf(type);
      Expect("normalize_grad: dgamma", channel, dgamma.Get(channel), of_gamma,
             gamma_tolerance + stored * std::fabs(of_gamma));
      Expect("normalize_grad: dbeta", channel, dbeta.Get(channel), of_beta,
             beta_tolerance + stored * std::fabs(of_beta));
    }
  }

  // All of x is `value`; the variance, then 0, is mixed with what `old` is, too.
  template <typename F>
  void CheckMoving(DataType vectors, F share, const std::vector<F>& old, double value,
                   const std::vector<F>& expected) {
    Array x(dtype_, layout_.size()), y(dtype_, layout_.size());
    for (int64_t i = 0; i < x.size(); ++i) x.Set(i, value);
    Array before(vectors, 3), new_mean(vectors, 3), new_variance(vectors, 3), shares(vectors, 1);
    for (int64_t i = 0; i < 3; ++i) before.Set(i, old[i]);
    shares.Set(0, share);
    double count[1], mean[3], variance[3];
    NormalizeArguments arguments;
    arguments.dtype = dtype_;
    arguments.layout = layout_;
    arguments.x = x.data();
    arguments.epsilon = kVarianceEpsilon;
    arguments.y = y.data();
    arguments.count = count;
    arguments.mean = mean;
    arguments.variance = variance;
    const ChannelVector view = {before.data(), vectors == DataType::kFloat64, false};
    arguments.moving = {view, view, shares.data(), new_mean.data(), new_variance.data()};
    if (!Ran("moving averages", kernels_.normalize(arguments))) return;
    const F kept = layout_.rows == 0 ? F{1} : 1 - share;
    for (int64_t i = 0; i < 3; ++i) {
      Expect("moving mean", i, new_mean.Get(i), expected[i], 0);
      // The batch has none, or that of NaN with a share of 0.
      Expect("moving variance", i, new_variance.Get(i), kept == 0 ? F{0} : kept * old[i], 0);
    }
  }

  // A batch whose first rows are on one device and the others on another: as on one device.
  void CheckSplitBatch() {
    const DataType f64 = DataType::kFloat64;
    const int64_t channels = layout_.channels, row = channels * layout_.inner;
    Array x = Input(), y = Filled(0, 1, 9), dx = Filled(0.5, 1, 3);
    Vector gamma(layout_, 1, 0.2, true, false);
    double count = 0;
    Array mean(f64, channels), variance(f64, channels), dgamma(f64, channels), dbeta(f64, channels);
    NormalizeArguments forward;
    forward.dtype = dtype_;
    forward.layout = layout_;
    forward.x = x.data();
    forward.gamma = gamma.view;
    forward.epsilon = kVarianceEpsilon;
    forward.y = y.data();
    forward.count = &count;
    forward.mean = static_cast<double*>(mean.data());
    forward.variance = static_cast<double*>(variance.data());
    NormalizeGradArguments backward;
    backward.dtype = dtype_;
    backward.layout = layout_;
    backward.dy = backward.dx = dx.data();
    backward.x = x.data();
    backward.gamma = gamma.view;
    backward.epsilon = kVarianceEpsilon;
    backward.count = &count;
    backward.mean = {mean.data(), true, false};
    backward.variance = {variance.data(), true, false};
    backward.dgamma = dgamma.data();
    backward.dbeta = dbeta.data();
    backward.vectors_are_double = true;

    // The moments of both parts, in plain loops, and then the sums of each.
    const int64_t bounds[] = {0, layout_.rows / 3, layout_.rows}, stride = 2 * channels + 1;
    Array parts(f64, 2 * stride);
    std::vector<std::vector<Number>> sums(3, std::vector<Number>(2 * channels));
    const auto for_each = [&](int member, int64_t channel, const auto& body) {
      for (int64_t r = bounds[member]; r < bounds[member + 1]; ++r) {
        for (int64_t k = 0; k < layout_.inner; ++k) body(r * row + channel * layout_.inner + k);
      }
    };
    for (int member = 0; member < 2; ++member) {
      const int64_t n = (bounds[member + 1] - bounds[member]) * layout_.inner;
      parts.Set(member * stride, static_cast<double>(n));
      for (int64_t channel = 0; channel < channels; ++channel) {
        Number sum = 0, m2 = 0;
        for_each(member, channel, [&](int64_t i) { sum += x.Get(i); });
        const Number own = n == 0 ? 0 : sum / n;
        for_each(member, channel, [&](int64_t i) { m2 += (x.Get(i) - own) * (x.Get(i) - own); });
        parts.Set(member * stride + 1 + channel, static_cast<double>(own));
        parts.Set(member * stride + 1 + channels + channel, static_cast<double>(m2));
      }
    }
    const Array dy = CopyOf(dx);
    if (!Ran("normalize alone", kernels_.normalize(forward))) return;
    const Array expected_y = CopyOf(y);
    Array expected_mean(f64, channels), expected_variance(f64, channels);
    for (int64_t i = 0; i < channels; ++i) {
      expected_mean.Set(i, mean.Get(i));
      expected_variance.Set(i, variance.Get(i));
    }
    forward.parts = static_cast<const double*>(parts.data());
    forward.members = 2;
    count = kNaN;
    if (!Ran("normalize of parts", kernels_.normalize(forward))) return;
    if (channels > 0) Expect("parts: count", 0, count, layout_.rows * layout_.inner, 0);
    Number largest = 0;
    for (int64_t i = 0; i < channels; ++i) {
      const Number spread = std::sqrt(static_cast<Number>(variance.Get(i)));
      const Number rounding = 1e-14 * std::fabs(static_cast<Number>(mean.Get(i)));
      Expect("parts: mean", i, mean.Get(i), expected_mean.Get(i),
             128 * precision_ * spread + rounding);
      Expect("parts: variance", i, variance.Get(i), expected_variance.Get(i),
             1024 * precision_ * variance.Get(i) + rounding * (spread + rounding));
      largest = std::max(largest, rounding * 64);
    }
    for (int64_t i = 0; i < y.size(); ++i) {
      Expect("parts: y", i, y.Get(i), expected_y.Get(i),
             2 * Stored(expected_y.Get(i)) + 2048 * precision_ * (1 + std::fabs(expected_y.Get(i))) +
                 largest);
    }
    // As much as the first pass would find, and the part of the first device.
    for (int member = 0; member < 2; ++member) {
      for (int64_t channel = 0; channel < channels; ++channel) {
        for_each(member, channel, [&](int64_t i) {
          const Number product = dy.Get(i) * (x.Get(i) - static_cast<Number>(mean.Get(channel)));
          sums[member][channel] += dy.Get(i);
          sums[member][channels + channel] += product;
        });
      }
    }
    if (!Ran("normalize_grad alone", kernels_.normalize_grad(backward))) return;
    const Array expected_dx = CopyOf(dx);
    for (int64_t i = 0; i < dx.size(); ++i) dx.Set(i, dy.Get(i));
    Array own(f64, 2 * channels), all(f64, 2 * channels);
    for (int64_t i = 0; i < own.size(); ++i) {
      own.Set(i, static_cast<double>(sums[0][i]));
      all.Set(i, static_cast<double>(sums[0][i] + sums[1][i]));
    }
    backward.own_sums = static_cast<const double*>(own.data());
    backward.sums = static_cast<const double*>(all.data());
    if (!Ran("normalize_grad of sums", kernels_.normalize_grad(backward))) return;
    for (int64_t i = 0; i < dx.size(); ++i) {
      const Number expected = expected_dx.Get(i);
      Expect("sums: dx", i, dx.Get(i), expected,
             2 * Stored(expected) + 4096 * precision_ * (1 + std::fabs(expected)));
    }
    for (int64_t i = 0; i < channels; ++i) {
      const Number inverse = 1 / std::sqrt(static_cast<Number>(variance.Get(i)) + kVarianceEpsilon);
      const Number expected = sums[0][channels + i] * inverse;
      Expect("sums: dgamma", i, dgamma.Get(i), expected, 1e-13 * std::fabs(expected));
      Expect("sums: dbeta", i, dbeta.Get(i), sums[0][i], 1e-15 * std::fabs(sums[0][i]));
    }
  }

  bool Ran(const char* kernel, const char* error) {
    ++checks_;
    if (error != nullptr) Fail(kernel, error);
    return error == nullptr;
  }

  void Expect(const char* what, int64_t index, double actual, Number expected, Number tolerance) {
    if (actual == expected) return;  // Infinities, too.
    const bool is_close = std::fabs(actual - expected) <= tolerance;  // False for NaN.
    if (std::isnan(expected) ? std::isnan(actual) : is_close) return;
    std::ostringstream text;
    text << std::setprecision(17) << "at " << index << ": " << actual << ", not " << expected;
    Fail(what, text.str());
  }

  void Fail(const char* what, const std::string& text) {
    if (++failures_ > 20) return;
    std::cout << what << ", " << NameOf(dtype_) << " (" << case_.rows << ", " << case_.channels
              << ", " << case_.inner << "), segment_rows " << case_.segment_rows << ", mean "
              << case_.mean << ", " << text << "\n";
  }

  const NormalizeKernels kernels_;
  Case case_;
  DataType dtype_;
  ChannelLayout layout_;
  double precision_, smallest_;
  int failures_ = 0, checks_ = 0;
};

}  // namespace keras_norms::testing

#endif  // KERAS_NORMS_TESTS_NATIVE_NORMALIZE_CHECKS_H_
