// What the kernels promise, checked against plain loops: one table of cases for every device.
//
// A program hands in the three functions of its device. Outputs and scratch are NaN before a call,
// a NaN that should not be is a failure, and arrays end where their memory ends.

#ifndef KERAS_NORMS_TESTS_NATIVE_KERNEL_CHECKS_H_
#define KERAS_NORMS_TESTS_NATIVE_KERNEL_CHECKS_H_

#include <cstdio>
#include <functional>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "arrays.h"
#include "blend.h"
#include "moments.h"
#include "sums.h"

namespace keras_norms::testing {

// Each returns null, or what went wrong.
struct Kernels {
  const char* (*moments)(const MomentsArguments&);
  const char* (*sums)(const SumsArguments&);
  const char* (*blend)(const BlendArguments&);
};

enum class Weights { kNone, kMask, kFractions };

struct Case {
  int64_t rows, channels, inner;
  int64_t segment_rows = 0;  // 0: a single segment.
  Weights weights = Weights::kNone;
  double mean = 1, deviation = 2;
  bool nan_under_mask = false;  // In v, which the weights protect.
  bool nan_in_u = false;        // Which they do not.
  int64_t misaligned = 0;

  ChannelLayout layout() const {
    ChannelLayout layout = {rows, channels, inner, 1, rows};
    if (segment_rows > 0) {
      layout.segments = (rows + segment_rows - 1) / segment_rows;
      layout.segment_rows = segment_rows;
    }
    return layout;
  }
};

class Checker {
 public:
  explicit Checker(const Kernels& kernels) : kernels_(kernels) {}

  void Check(const Case& given, DataType dtype) {
    case_ = given;
    dtype_ = dtype;
    layout_ = given.layout();
    Inputs inputs(*this);
    CheckMoments(inputs);
    for (const bool weighted : {false, true}) {
      if (weighted && given.weights == Weights::kNone) continue;
      for (const int variant : {0, 1, 2}) {
        CheckSums(inputs, weighted, variant);
        CheckBlend(inputs, weighted, variant);
      }
    }
  }

  int failures() const { return failures_; }
  int checks() const { return checks_; }

 private:
  struct Inputs {
    explicit Inputs(const Checker& checker)
        : u(checker.dtype_, checker.layout_.size(), checker.case_.misaligned),
          v(checker.dtype_, checker.layout_.size(), checker.case_.misaligned),
          weights(ComputeTypeOf(checker.dtype_), checker.layout_.rows * checker.layout_.inner) {
      const ChannelLayout& layout = checker.layout_;
      Random random(layout.size() + 7);
      for (int64_t i = 0; i < weights.size(); ++i) {
        const double x = random.Uniform();
        weights.Set(i, checker.case_.weights == Weights::kMask ? x < 0.6 : x < 0.3 ? 0 : x);
      }
      for (int64_t i = 0; i < layout.size(); ++i) {
        u.Set(i, checker.case_.nan_in_u && i % 50 == 0 ? kNaN : 0.5 + random.Normal());
        v.Set(i, checker.case_.mean + checker.case_.deviation * random.Normal());
        const int64_t row = i / layout.inner / layout.channels;
        const int64_t position = row * layout.inner + i % layout.inner;
        if (checker.case_.nan_under_mask && weights.Get(position) == 0) {
          v.Set(i, i % 3 == 0 ? std::numeric_limits<double>::infinity() : kNaN);
        }
      }
    }
    Array u, v, weights;
  };

  using Visit = std::function<void(int64_t index, int64_t position)>;

  // Calls for each value of a channel in a segment: its index, and that of its weight.
  void ForEach(int64_t segment, int64_t channel, const Visit& visit) const {
    for (int64_t row = layout_.first_row(segment); row < layout_.end_row(segment); ++row) {
      for (int64_t k = 0; k < layout_.inner; ++k) {
        visit((row * layout_.channels + channel) * layout_.inner + k, row * layout_.inner + k);
      }
    }
  }

  double Weight(const Inputs& inputs, int64_t position) const {
    return case_.weights == Weights::kNone ? 1 : inputs.weights.Get(position);
  }
  const void* WeightsOf(Inputs& inputs) const {
    return case_.weights == Weights::kNone ? nullptr : inputs.weights.data();
  }
  // Of a sum of products in the compute type, relative to the sum of their magnitudes.
  double SumTolerance() const { return 64 * EpsilonOf(ComputeTypeOf(dtype_)); }

  void CheckMoments(Inputs& inputs) {
    const int64_t vectors = layout_.vector_size();
    Array count(DataType::kFloat64, layout_.segments), mean(DataType::kFloat64, vectors),
        m2(DataType::kFloat64, vectors);
    MomentsArguments arguments;
    arguments.dtype = dtype_;
    arguments.layout = layout_;
    arguments.x = inputs.v.data();
    arguments.weights = WeightsOf(inputs);
    arguments.count = static_cast<double*>(count.data());
    arguments.mean = static_cast<double*>(mean.data());
    arguments.m2 = static_cast<double*>(m2.data());
    if (!Ran("moments", kernels_.moments(arguments))) return;
    ForEachVector([&](int64_t segment, int64_t channel, int64_t i) {
      long double total = 0, sum = 0, squares = 0;
      ForEach(segment, channel, [&](int64_t index, int64_t position) {
        const double weight = Weight(inputs, position);
        total += weight;
        if (weight > 0) sum += weight * static_cast<long double>(inputs.v.Get(index));
      });
      const long double expected = total > 0 ? sum / total : 0;
      ForEach(segment, channel, [&](int64_t index, int64_t position) {
        const long double centred = inputs.v.Get(index) - expected;
        const double weight = Weight(inputs, position);
        if (weight > 0) squares += weight * centred * centred;
      });
      const double deviation = total > 0 ? std::sqrt(static_cast<double>(squares / total)) : 0;
      const double rounding = 1e-15 * std::fabs(static_cast<double>(expected));
      Expect("moments: count", i, count.Get(segment), total, SumTolerance() * total);
      Expect("moments: mean", i, mean.Get(i), expected, SumTolerance() * deviation + rounding);
      Expect("moments: m2", i, m2.Get(i), squares,
             8 * SumTolerance() * squares + total * rounding * (deviation + rounding));
    });
  }

  // v less the centre. What is not finite at weight 0 is read as the centre in the compute type.
  long double Centred(const Inputs& inputs, int64_t index, double weight, double center) const {
    const long double centred = inputs.v.Get(index) - static_cast<long double>(center);
    if (weight > 0 || std::isfinite(centred)) return centred;
    return dtype_ == DataType::kFloat64 ? 0 : static_cast<float>(center) - center;
  }

  // Variant 0: all operands, double vectors per segment; 1: float vectors per channel; 2: v absent.
  void CheckSums(Inputs& inputs, bool weighted, int variant) {
    Vector center(layout_, case_.mean, case_.deviation / 8, variant != 1, variant == 0);
    if (variant == 2) center.view.data = nullptr;
    SumsArguments arguments;
    arguments.u = inputs.u.data();
    arguments.v = variant == 2 ? nullptr : inputs.v.data();
    CheckSumsOf(inputs, weighted, center, arguments);
    if (variant == 2) return;
    // The same and y in one pass, over u; then without u, over v, and without y.
    Vector scale(layout_, 0.7, 0.2, true, variant == 0), shift(layout_, -1, 0.5, true, false);
    Array y(dtype_, layout_.size(), case_.misaligned);
    const auto start_with = [&](Array& source) {
      for (int64_t i = 0; i < y.size(); ++i) y.Set(i, source.Get(i));
    };
    start_with(inputs.u);
    arguments.u = y.data();
    CheckSumsOf(inputs, weighted, center, arguments, &y, &scale);
    Vector narrow(layout_, case_.mean, case_.deviation / 8, dtype_ == DataType::kFloat64,
                  variant == 0);
    arguments.u = nullptr;
    CheckSumsOf(inputs, weighted, narrow, arguments);
    start_with(inputs.v);
    arguments.v = y.data();
    CheckSumsOf(inputs, weighted, narrow, arguments, &y, &scale, &shift);
  }

  void CheckSumsOf(Inputs& inputs, bool weighted, const Vector& center, SumsArguments arguments,
                   Array* y = nullptr, const Vector* scale = nullptr,
                   const Vector* shift = nullptr) {
    const bool has_u = arguments.u != nullptr, has_v = arguments.v != nullptr;
    const int64_t vectors = layout_.vector_size();
    Array sum_u(DataType::kFloat64, vectors), sum_uv(DataType::kFloat64, vectors);
    arguments.dtype = dtype_;
    arguments.layout = layout_;
    arguments.center = center.view;
    if (scale != nullptr) arguments.scale = scale->view;
    if (shift != nullptr) arguments.shift = shift->view;
    arguments.weights = WeightsOf(inputs);
    arguments.weighted = weighted;
    arguments.sum_u = static_cast<double*>(sum_u.data());
    arguments.sum_uv = has_v ? static_cast<double*>(sum_uv.data()) : nullptr;
    arguments.y = y == nullptr ? nullptr : y->data();
    if (!Ran("sums", kernels_.sums(arguments))) return;
    ForEachVector([&](int64_t segment, int64_t channel, int64_t i) {
      long double sum = 0, size = 0, product_sum = 0, product_size = 0;
      ForEach(segment, channel, [&](int64_t index, int64_t position) {
        const double weight = Weight(inputs, position);
        const long double centred =
            Centred(inputs, index, weight, center.Get(segment, channel));
        const long double value = has_u ? inputs.u.Get(index) : centred;
        const long double u = (weighted ? weight : 1) * value;
        sum += u;
        size += std::fabs(u);
        product_sum += u * centred;
        product_size += std::fabs(u * centred);
        if (y == nullptr) return;
        const double scaled = scale->Get(segment, channel) * static_cast<double>(value);
        const double shifted = shift == nullptr ? 0 : shift->Get(segment, channel);
        ExpectActivation("sums: y", index, *y, scaled + shifted,
                         std::fabs(scaled) + std::fabs(shifted));
      });
      Expect("sums: u", i, sum_u.Get(i), sum, SumTolerance() * size);
      if (has_v) Expect("sums: uv", i, sum_uv.Get(i), product_sum, SumTolerance() * product_size);
    });
  }

  // Variant 0: all operands; 1: without v, over u; 2: without u, c absent, over v.
  void CheckBlend(Inputs& inputs, bool weighted, int variant) {
    const bool has_u = variant != 2, has_v = variant != 1;
    Vector a(layout_, 1, 0.2, true, variant == 0), b(layout_, 0.7, 0.2, variant != 2, variant == 0);
    Vector c(layout_, -1, 0.5, true, false);
    Vector center(layout_, case_.mean, case_.deviation / 8, variant != 2, variant == 0);
    if (!has_u) a.view.data = c.view.data = nullptr;
    if (!has_v) b.view.data = center.view.data = nullptr;
    Array y(dtype_, layout_.size(), case_.misaligned);
    Array* const source = variant == 1 ? &inputs.u : &inputs.v;
    if (variant != 0) {
      for (int64_t i = 0; i < y.size(); ++i) y.Set(i, source->Get(i));
    }
    BlendArguments arguments;
    arguments.dtype = dtype_;
    arguments.layout = layout_;
    arguments.u = variant == 0 ? inputs.u.data() : variant == 1 ? y.data() : nullptr;
    arguments.v = variant == 0 ? inputs.v.data() : variant == 2 ? y.data() : nullptr;
    arguments.a = a.view;
    arguments.b = b.view;
    arguments.c = c.view;
    arguments.center = center.view;
    arguments.weights = WeightsOf(inputs);
    arguments.weighted = weighted;
    arguments.y = y.data();
    if (!Ran("blend", kernels_.blend(arguments))) return;
    ForEachVector([&](int64_t segment, int64_t channel, int64_t) {
      ForEach(segment, channel, [&](int64_t index, int64_t position) {
        const double weight = Weight(inputs, position);
        const double centred =
            has_v ? Centred(inputs, index, weight, center.Get(segment, channel)) : 0;
        const double outer = weighted ? weight : 1;
        const double terms[] = {has_u ? a.Get(segment, channel) * inputs.u.Get(index) : 0,
                                outer * b.Get(segment, channel) * centred,
                                outer * c.Get(segment, channel)};
        double expected = 0, size = 0;
        for (const double term : terms) {
          expected += term;
          size += std::fabs(term);
        }
        ExpectActivation("blend", index, y, expected, size);
      });
    });
  }

  // `size` is the sum of the magnitudes of the terms.
  void ExpectActivation(const char* what, int64_t index, const Array& y, double expected,
                        double size) {
    const double low = EpsilonOf(ComputeTypeOf(dtype_)) * std::fabs(case_.mean);
    const double smallest = dtype_ == DataType::kFloat16 ? std::ldexp(1.0, -24) : 0;
    Expect(what, index, y.Get(index), expected,
           EpsilonOf(dtype_) * std::fabs(expected) + smallest +
               8 * EpsilonOf(ComputeTypeOf(dtype_)) * (size + low));
  }

  template <typename Body>
  void ForEachVector(const Body& body) const {
    for (int64_t segment = 0; segment < layout_.segments; ++segment) {
      for (int64_t channel = 0; channel < layout_.channels; ++channel) {
        body(segment, channel, segment * layout_.channels + channel);
      }
    }
  }

  bool Ran(const char* kernel, const char* error) {
    ++checks_;
    if (error != nullptr) Fail(kernel, error);
    return error == nullptr;
  }

  void Expect(const char* what, int64_t index, double actual, long double expected,
              long double tolerance) {
    const bool is_close = std::fabs(actual - expected) <= tolerance;  // False for NaN.
    if (std::isnan(expected) ? std::isnan(actual) : is_close) return;
    std::ostringstream text;
    text << std::setprecision(17) << "at " << index << ": " << actual << ", not " << expected;
    Fail(what, text.str());
  }

  void Fail(const char* what, const std::string& text) {
    if (++failures_ > 20) return;
    std::cout << what << ", " << NameOf(dtype_) << " (" << case_.rows << ", " << case_.channels
              << ", " << case_.inner << "), segment_rows " << case_.segment_rows << ", weights "
              << static_cast<int>(case_.weights) << ", mean " << case_.mean << ", " << text << "\n";
  }

  const Kernels kernels_;
  Case case_;
  DataType dtype_;
  ChannelLayout layout_;
  int failures_ = 0, checks_ = 0;
};

}  // namespace keras_norms::testing

#endif  // KERAS_NORMS_TESTS_NATIVE_KERNEL_CHECKS_H_
