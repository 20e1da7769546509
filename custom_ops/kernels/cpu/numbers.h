// Element types and how a run of them becomes numbers to compute with, and back.
//
// float16 and bfloat16 are computed in float32: a tile of a few hundred values is unpacked into a
// buffer in the first-level cache, so every loop of the kernels exists for float and double only.
// Compiled once per instruction set, in the namespace of that level.

#ifndef KERAS_NORMS_KERNELS_CPU_NUMBERS_H_
#define KERAS_NORMS_KERNELS_CPU_NUMBERS_H_

#include <stdint.h>
#include <string.h>

#include "../channel_layout.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

#ifndef KERAS_NORMS_LEVEL
#define KERAS_NORMS_LEVEL baseline
#endif

namespace keras_norms {
namespace KERAS_NORMS_LEVEL {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// What a type is computed in.
template <typename T>
struct ComputeType {
  using type = float;
};
template <>
struct ComputeType<double> {
  using type = double;
};
template <typename T>
using Compute = typename ComputeType<T>::type;

// One register of numbers.
#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
template <typename F>
struct VectorOf {
  typedef F Type __attribute__((vector_size(kVectorBytes), aligned(sizeof(F)), may_alias));
};
template <typename F>
using Vector = typename VectorOf<F>::Type;
template <typename F>
constexpr int kVectorSize = kVectorBytes / sizeof(F);

// Sums of as many columns as two registers hold: two, so that an addition need not wait for the last.
template <typename F>
struct Lanes {
  static constexpr int kSize = 2 * kVectorSize<F>;
  Vector<F> vectors[2] = {};

  double total() const {
    F lanes[kVectorSize<F>];
    const Vector<F> both = vectors[0] + vectors[1];
    memcpy(lanes, &both, sizeof lanes);
    for (int half = kVectorSize<F> / 2; half > 1; half /= 2) {
      for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    }
    return static_cast<double>(lanes[0]) + static_cast<double>(lanes[1]);
  }
};

template <typename F>
inline Vector<F> LoadVector(const F* values) {
  return *reinterpret_cast<const Vector<F>*>(values);
}

inline float BitsToFloat(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t FloatToBits(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float ToFloat(BFloat16 value) { return BitsToFloat(uint32_t{value.bits} << 16); }

inline BFloat16 ToBFloat16(float value) {
  const uint32_t bits = FloatToBits(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // To nearest even.
  const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
  return {static_cast<uint16_t>(is_nan ? (bits >> 16) | 0x40 : rounded)};
}

inline float ToFloat(Half value) {
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16;
  const uint32_t magnitude = uint32_t{value.bits & 0x7fffu} << 13;
  // The product puts the exponent right, for subnormal values too; 2^112 = 2^(127 - 15).
  const uint32_t finite = FloatToBits(BitsToFloat(magnitude) * BitsToFloat(0x77800000));
  const bool is_special = magnitude >= (0x7c00u << 13);
  return BitsToFloat(sign | (is_special ? magnitude | 0x7f800000 : finite));
}

inline Half ToHalf(float value) {
  const uint32_t bits = FloatToBits(value);
  const uint32_t magnitude = bits & 0x7fffffff;
  const uint32_t sign = (bits >> 16) & 0x8000;
  // Normal: rebias by 112, round to nearest even; what overflows becomes infinity by the carry.
  const uint32_t normal = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  // Below 2^-14: adding 0.5 aligns the last place of a subnormal half with that of the sum.
  const uint32_t subnormal = FloatToBits(BitsToFloat(magnitude) + 0.5f) - FloatToBits(0.5f);
  uint32_t half = magnitude < (113u << 23) ? subnormal : normal;
  half = magnitude >= 0x477ff000 ? 0x7c00 : half;  // 65520 and more round to infinity.
  half = magnitude > 0x7f800000 ? 0x7e00 : half;
  return {static_cast<uint16_t>(sign | half)};
}

// The n values at `values` as numbers: where they are, or unpacked into `buffer`.
inline const float* Unpack(const float* values, int64_t, float*) { return values; }
inline const double* Unpack(const double* values, int64_t, double*) { return values; }

inline const float* Unpack(const BFloat16* values, int64_t n, float* buffer) {
  for (int64_t i = 0; i < n; ++i) buffer[i] = ToFloat(values[i]);
  return buffer;
}

inline const float* Unpack(const Half* values, int64_t n, float* buffer) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values + i));
    _mm256_storeu_ps(buffer + i, _mm256_cvtph_ps(bits));
  }
#endif
  for (; i < n; ++i) buffer[i] = ToFloat(values[i]);
  return buffer;
}

// Where to compute n results that belong at `values`, and how they get there.
inline float* Target(float* values, float*) { return values; }
inline double* Target(double* values, double*) { return values; }
template <typename T>
float* Target(T*, float* buffer) {
  return buffer;
}

inline void Pack(const float*, int64_t, float*) {}
inline void Pack(const double*, int64_t, double*) {}

inline void Pack(const float* results, int64_t n, BFloat16* values) {
  for (int64_t i = 0; i < n; ++i) values[i] = ToBFloat16(results[i]);
}

inline void Pack(const float* results, int64_t n, Half* values) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8) {
    const __m128i bits = _mm256_cvtps_ph(_mm256_loadu_ps(results + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(values + i), bits);
  }
#endif
  for (; i < n; ++i) values[i] = ToHalf(results[i]);
}

// Calls function(T{}) with the element type that `dtype` names.
template <typename Function>
void Dispatch(DataType dtype, const Function& function) {
  switch (dtype) {
    case DataType::kFloat32:
      return function(float{});
    case DataType::kFloat64:
      return function(double{});
    case DataType::kFloat16:
      return function(Half{});
    case DataType::kBFloat16:
      return function(BFloat16{});
  }
}

}  // namespace KERAS_NORMS_LEVEL
}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_CPU_NUMBERS_H_
