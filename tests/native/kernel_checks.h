// What the kernels promise, checked against plain loops: one table of cases for every device.
//
// A program hands in the functions of its device. Outputs and scratch are NaN before a call,
// a NaN that should not be is a failure, and arrays end where their memory ends.

#ifndef KERAS_NORMS_TESTS_NATIVE_KERNEL_CHECKS_H_
#define KERAS_NORMS_TESTS_NATIVE_KERNEL_CHECKS_H_

#include <algorithm>
#include <cstdio>
#include <functional>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "add_at.h"
#include "arrays.h"
#include "blend.h"
#include "extremes.h"
#include "moments.h"
#include "sums.h"

namespace keras_norms::testing {

// Each returns null, or what went wrong.
struct Kernels {
  const char* (*moments)(const MomentsArguments&);
  const char* (*sums)(const SumsArguments&);
  const char* (*blend)(const BlendArguments&);
  const char* (*extremes)(const ExtremesArguments&);
  const char* (*add_at)(const AddAtArguments&);
};

enum class Weights { kNone, kMask, kFractions };

// Many equal values; so large that sums overflow in float; every second one infinite or NaN.
enum class Values { kTies, kLarge, kNotFinite };

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
    for (const int64_t chunks : {1, 3, 8}) CheckExtremes(inputs, Values::kTies, chunks);
    CheckExtremes(inputs, Values::kLarge, 3);
    CheckExtremes(inputs, Values::kNotFinite, 8);
    for (const bool in_place : {false, true}) CheckAddAt(in_place);
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

  Array ValuesOfExtremes(const Inputs& inputs, Values values) const {
    Array x(dtype_, layout_.size(), case_.misaligned);
    const double large = dtype_ == DataType::kFloat64   ? 1e300
                         : dtype_ == DataType::kFloat16 ? 65504
                                                        : 3.3e38;
    const double step = case_.deviation / 2;
    Random random(layout_.size() + 11);
    for (int64_t i = 0; i < x.size(); ++i) {
      const double v = inputs.v.Get(i), chance = random.Uniform();
      double value = step == 0 ? v : step * std::round(v / step);
      if (values == Values::kLarge) value = large * (chance < 0.3 ? -1 : 1 - chance / 8);
      if (values == Values::kNotFinite && chance < 0.5) {
        value = chance < 0.1 ? kNaN : std::numeric_limits<double>::infinity();
      }
      x.Set(i, std::isnan(v) ? v : value);
    }
    return x;
  }

  void CheckExtremes(Inputs& inputs, Values values, int64_t chunks) {
    Array x = ValuesOfExtremes(inputs, values);
    const int64_t vectors = layout_.vector_size() * chunks;
    Array count(DataType::kFloat64, layout_.segments * chunks), mean(DataType::kFloat64, vectors),
        low(DataType::kFloat64, vectors), high(DataType::kFloat64, vectors);
    std::vector<int64_t> low_at(vectors, -1), high_at(vectors, -1);
    ExtremesArguments arguments;
    arguments.dtype = dtype_;
    arguments.layout = layout_;
    arguments.chunks = chunks;
    arguments.x = x.data();
    arguments.weights = WeightsOf(inputs);
    arguments.count = static_cast<double*>(count.data());
    arguments.mean = static_cast<double*>(mean.data());
    arguments.low = static_cast<double*>(low.data());
    arguments.high = static_cast<double*>(high.data());
    arguments.low_at = low_at.data();
    arguments.high_at = high_at.data();
    if (!Ran("extremes", kernels_.extremes(arguments))) return;
    ForEachChunk(chunks, [&](int64_t run, int64_t begin, int64_t end) {
      double counted = 0;
      for (int64_t p = begin; p < end; ++p) counted += Weight(inputs, p) > 0;
      if (layout_.channels == 0) return;  // Then nobody counts on a GPU.
      Expect("extremes: count", run, count.Get(run), counted, 0);
      for (int64_t channel = 0; channel < layout_.channels; ++channel) {
        const int64_t i = run * layout_.channels + channel;
        long double sum = 0, squares = 0;
        double lowest = 0, highest = 0;
        int64_t lowest_at = 0, highest_at = 0;
        bool is_first = true;
        for (int64_t p = begin; p < end; ++p) {
          if (!(Weight(inputs, p) > 0)) continue;
          const int64_t at = PlaceOf(layout_, p, channel);
          const double value = x.Get(at);
          sum += value;
          if (is_first || value < lowest) lowest = value, lowest_at = at;
          if (is_first || value > highest) highest = value, highest_at = at;
          is_first = false;
        }
        const long double expected = counted > 0 ? sum / counted : 0;
        if (!std::isfinite(expected)) {  // Then the extremes may be anything in x.
          if (std::isfinite(mean.Get(i))) Fail("extremes: mean", "it is finite");
          ExpectEqual("extremes: place", i, low_at[i] >= 0 && low_at[i] < x.size(), true);
          ExpectEqual("extremes: place", i, high_at[i] >= 0 && high_at[i] < x.size(), true);
          continue;
        }
        for (int64_t p = begin; p < end; ++p) {
          if (!(Weight(inputs, p) > 0)) continue;
          const int64_t at = PlaceOf(layout_, p, channel);
          squares += (x.Get(at) - expected) * (x.Get(at) - expected);
        }
        const long double deviation = counted > 0 ? std::sqrt(squares / counted) : 0;
        Expect("extremes: mean", i, mean.Get(i), expected,
               SumTolerance() * deviation + 1e-15 * std::fabs(expected));
        Expect("extremes: low", i, low.Get(i), lowest, 0);
        Expect("extremes: high", i, high.Get(i), highest, 0);
        ExpectEqual("extremes: low_at", i, low_at[i], lowest_at);
        ExpectEqual("extremes: high_at", i, high_at[i], highest_at);
      }
    });
  }

  // Calls for each chunk: its number among all, and its positions from begin to end.
  template <typename Body>
  void ForEachChunk(int64_t chunks, const Body& body) const {
    for (int64_t segment = 0; segment < layout_.segments; ++segment) {
      int64_t begin = layout_.first_row(segment) * layout_.inner;
      const int64_t n = layout_.end_row(segment) * layout_.inner - begin;
      const int64_t used = std::max<int64_t>(1, std::min(chunks, n / 2));
      for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t size = chunk < used ? n / used + (chunk < n % used) : 0;
        body(segment * chunks + chunk, begin, begin + size);
        begin += size;
      }
    }
  }

  // Numbers of so few bits that every sum is exact. Each place but the first is met once.
  void CheckAddAt(bool in_place) {
    const int64_t size = layout_.size(), count = size / 2 + 3;
    Array x(dtype_, size, case_.misaligned), y(dtype_, size, case_.misaligned);
    Array values(DataType::kFloat64, count);
    std::vector<int64_t> high_at(count), low_at(count);
    std::vector<double> expected(size);
    for (int64_t i = 0; i < size; ++i) {
      expected[i] = static_cast<double>(i % 17 - 8);
      x.Set(i, expected[i]);
      if (in_place) y.Set(i, expected[i]);
    }
    for (int64_t i = 0; i < count; ++i) {
      const bool is_zero = i % 5 == 4, is_outside = i >= size / 2;
      values.Set(i, is_zero ? 0 : static_cast<double>(i % 13 + 1) / 4);
      high_at[i] = is_zero ? 0 : is_outside ? size + i : 2 * i;
      low_at[i] = is_zero ? 0 : is_outside ? -i - 1 : i % 3 == 0 ? 2 * i : 2 * i + 1;
      if (is_zero || is_outside) continue;
      expected[high_at[i]] += values.Get(i);
      expected[low_at[i]] -= values.Get(i);
    }
    AddAtArguments arguments;
    arguments.dtype = dtype_;
    arguments.size = size;
    arguments.count = count;
    arguments.x = in_place ? y.data() : x.data();
    arguments.y = y.data();
    arguments.values = static_cast<double*>(values.data());
    arguments.high_at = high_at.data();
    arguments.low_at = low_at.data();
    if (!Ran("add_at", kernels_.add_at(arguments))) return;
    for (int64_t i = 0; i < size; ++i) Expect("add_at", i, y.Get(i), expected[i], 0);
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

  void ExpectEqual(const char* what, int64_t index, int64_t actual, int64_t expected) {
    if (actual == expected) return;
    std::ostringstream text;
    text << "at " << index << ": " << actual << ", not " << expected;
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
