// What round promises, checked against arithmetic in double, for every device.

#ifndef KERAS_NORMS_TESTS_NATIVE_ROUND_CHECKS_H_
#define KERAS_NORMS_TESTS_NATIVE_ROUND_CHECKS_H_

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <vector>

#include "arrays.h"
#include "round.h"

namespace keras_norms::testing {

class RoundChecker {
 public:
  using Kernel = const char* (*)(const RoundArguments&);

  explicit RoundChecker(Kernel kernel) : kernel_(kernel) {}

  int failures() const { return failures_; }

  // A few formats and blocks on one layout, in place as well.
  void CheckAll(DataType dtype, ChannelLayout layout, int64_t misaligned = 0) {
    for (const RoundingMode mode :
         {RoundingMode::kNearestEven, RoundingMode::kTruncate, RoundingMode::kStochastic}) {
      RoundOptions options;
      options.exponent_bits = mode == RoundingMode::kTruncate ? 8 : 5;
      options.mantissa_bits = 4;
      options.mode = mode;
      options.subnormals = mode != RoundingMode::kTruncate;
      Check(dtype, layout, options, misaligned);
    }
    for (const int64_t size : {1, 3, 4, 16, 32}) {
      RoundOptions options;
      options.block_size = size;
      options.block_mantissa_bits = 5;
      options.second_largest = size == 3 || size == 16;
      Check(dtype, layout, options, misaligned);
      if (size > 4) continue;
      options.exponent_bits = 6;
      options.mantissa_bits = 3;
      Check(dtype, layout, options, misaligned);
    }
  }

 private:
  void Check(DataType dtype, ChannelLayout layout, const RoundOptions& options,
             int64_t misaligned) {
    Array x(dtype, layout.size(), misaligned), y(dtype, layout.size(), misaligned);
    Random random(layout.size() + 11);
    const double special[] = {0, -0.0, INFINITY, -INFINITY, kNaN, 1e-45, -1e-39, 3e38};
    for (int64_t i = 0; i < x.size(); ++i) {
      const int exponent = static_cast<int>(random.Uniform() * 12) - (i % 5 == 0 ? 140 : 6);
      x.Set(i, i % 17 == 0 ? special[i / 17 % 8] : std::ldexp(random.Normal(), exponent));
    }
    const int64_t seed = 12345678901;
    RoundArguments arguments;
    arguments.dtype = dtype;
    arguments.layout = layout;
    arguments.options = options;
    arguments.x = x.data();
    arguments.seed = options.is_stochastic() ? &seed : nullptr;
    arguments.y = y.data();
    int wrong = kernel_(arguments) != nullptr;
    Compare(dtype, layout, options, x, y, &wrong);
    arguments.y = x.data();
    wrong += kernel_(arguments) != nullptr;
    wrong += std::memcmp(x.data(), y.data(), x.size() * SizeOf(dtype)) != 0;
    if (wrong == 0) return;
    ++failures_;
    std::printf("round: %d wrong of %lld x %lld x %lld, %s, format %lld.%lld mode %d, block %lld\n",
                wrong, static_cast<long long>(layout.rows), static_cast<long long>(layout.channels),
                static_cast<long long>(layout.inner), NameOf(dtype),
                static_cast<long long>(options.exponent_bits),
                static_cast<long long>(options.mantissa_bits), static_cast<int>(options.mode),
                static_cast<long long>(options.block_size));
  }

  static void Compare(DataType dtype, ChannelLayout layout, const RoundOptions& options, Array& x,
                      Array& y, int* wrong) {
    const int64_t size = options.block_size > 0 ? options.block_size : 1;
    for (int64_t row = 0; row < layout.rows; ++row) {
      for (int64_t first = 0; first < layout.channels; first += size) {
        for (int64_t k = 0; k < layout.inner; ++k) {
          std::vector<double> lower, upper, found;
          for (int64_t c = first; c < std::min(first + size, layout.channels); ++c) {
            const int64_t i = (row * layout.channels + c) * layout.inner + k;
            lower.push_back(ToFormat(x.Get(i), dtype, options, false));
            upper.push_back(ToFormat(x.Get(i), dtype, options, true));
            found.push_back(y.Get(i));
          }
          if (options.block_size > 0) {
            Align(options, &lower);
            upper = lower;
          }
          for (size_t i = 0; i < found.size(); ++i) {
            *wrong += !Same(found[i], lower[i]) && !Same(found[i], upper[i]);
          }
        }
      }
    }
  }

  static bool Same(double a, double b) {
    return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
  }

  // `up`: the larger of two results that stochastic rounding may have.
  static double ToFormat(double x, DataType dtype, const RoundOptions& options, bool up) {
    if (!options.has_format() || !std::isfinite(x) || x == 0) return x;
    const int emax = (1 << (options.exponent_bits - 1)) - 1;
    const int mantissa_bits = static_cast<int>(options.mantissa_bits);
    int exponent = std::ilogb(x);
    if (options.subnormals) exponent = std::max(exponent, 1 - emax);
    const double scaled = std::ldexp(std::fabs(x), mantissa_bits - exponent);
    const double integer = options.mode == RoundingMode::kNearestEven ? std::nearbyint(scaled)
                           : up && options.is_stochastic()            ? std::ceil(scaled)
                                                                      : std::floor(scaled);
    double result = std::ldexp(integer, exponent - mantissa_bits);
    const int highest = dtype == DataType::kFloat16 ? std::min(emax, 15) : emax;
    result = std::min(result, std::ldexp(2 - std::ldexp(1.0, -mantissa_bits), highest));
    if (!options.subnormals && result < std::ldexp(1.0, 1 - emax)) result = 0;
    return std::copysign(result, x);
  }

  static void Align(const RoundOptions& options, std::vector<double>* block) {
    std::vector<int> exponents;
    for (const double x : *block) {
      if (x != 0 && std::isfinite(x)) exponents.push_back(std::ilogb(x));
    }
    std::sort(exponents.rbegin(), exponents.rend());
    if (exponents.size() < (options.second_largest ? 2 : 1)) return;
    const int shared = exponents[options.second_largest ? 1 : 0];
    const int last_place = shared - static_cast<int>(options.block_mantissa_bits) + 1;
    for (double& x : *block) {
      if (x == 0 || !std::isfinite(x)) continue;
      if (options.second_largest && std::ilogb(x) == exponents[0]) continue;
      x = std::copysign(std::ldexp(std::floor(std::ldexp(std::fabs(x), -last_place)), last_place),
                        x);
    }
  }

  const Kernel kernel_;
  int failures_ = 0;
};

}  // namespace keras_norms::testing

#endif  // KERAS_NORMS_TESTS_NATIVE_ROUND_CHECKS_H_
