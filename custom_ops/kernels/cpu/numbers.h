// Element types and how a run of them becomes numbers to compute with, and back.
//
// float16 and bfloat16 are computed in float32; they are converted on their way into a register and
// out of it. Compiled once per instruction set, in the namespace of that level.

#ifndef KERAS_NORMS_KERNELS_CPU_NUMBERS_H_
#define KERAS_NORMS_KERNELS_CPU_NUMBERS_H_

#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "../channel_layout.h"

#if defined(__SSE2__)
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

// A sum in two registers, two so that additions need not wait in line, and in one number for the
// values that fill no register.
template <typename F>
struct Lanes {
  static constexpr int kSize = 2 * kVectorSize<F>;
  Vector<F> vectors[2] = {};
  F rest = 0;

  // The part that adds values of type N, which is F or Vector<F>.
  template <typename N>
  N& part(int k) {
    if constexpr (std::is_same<N, F>::value) {
      return rest;
    } else {
      return vectors[k];
    }
  }

  double total() const {
    F lanes[kVectorSize<F>];
    const Vector<F> both = vectors[0] + vectors[1];
    memcpy(lanes, &both, sizeof lanes);
    for (int half = kVectorSize<F> / 2; half > 1; half /= 2) {
      for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    }
    return static_cast<double>(lanes[0]) + static_cast<double>(lanes[1]) +
           static_cast<double>(rest);
  }
};

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
  // Normal: rebias by 112 = 127 - 15. Below 2^-14 the bits are a fraction: they are put behind 2^-14,
  // which is then taken away. Threads may take subnormal numbers for 0, but this has none.
  const uint32_t least = 113u << 23;
  const uint32_t subnormal = FloatToBits(BitsToFloat(least + magnitude) - BitsToFloat(least));
  const uint32_t finite = magnitude < (1u << 23) ? subnormal : magnitude + (112u << 23);
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

inline float Load(const float* value) { return *value; }
inline double Load(const double* value) { return *value; }
inline float Load(const Half* value) { return ToFloat(*value); }
inline float Load(const BFloat16* value) { return ToFloat(*value); }

inline void Store(float result, float* value) { *value = result; }
inline void Store(double result, double* value) { *value = result; }
inline void Store(float result, Half* value) { *value = ToHalf(result); }
inline void Store(float result, BFloat16* value) { *value = ToBFloat16(result); }

typedef uint16_t Bits16 __attribute__((vector_size(kVectorBytes / 2), aligned(2), may_alias));
typedef uint32_t Bits32 __attribute__((vector_size(kVectorBytes)));

// In one instruction each with AVX-512, for which GCC takes five. With a mask of ones, here and
// below: the plain intrinsics make GCC 12 warn of a value that is not set.
inline Bits32 Widened(const Bits16& bits) {
#if defined(__AVX512F__)
  return (Bits32)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)bits);
#else
  return __builtin_convertvector(bits, Bits32);
#endif
}
inline Bits16 Narrowed(const Bits32& bits) {
#if defined(__AVX512F__)
  return (Bits16)_mm512_maskz_cvtepi32_epi16(0xffff, (__m512i)bits);
#else
  return __builtin_convertvector(bits, Bits16);
#endif
}

inline Vector<float> LoadVector(const float* values) {
  return *reinterpret_cast<const Vector<float>*>(values);
}
inline Vector<double> LoadVector(const double* values) {
  return *reinterpret_cast<const Vector<double>*>(values);
}
inline Vector<float> LoadVector(const BFloat16* values) {
  const Bits16 bits = *reinterpret_cast<const Bits16*>(values);
  return (Vector<float>)(Widened(bits) << 16);
}

// The register that goes to memory of type T.
inline Vector<float> Packed(const Vector<float>& results, const float*) { return results; }
inline Vector<double> Packed(const Vector<double>& results, const double*) { return results; }
inline Bits16 Packed(const Vector<float>& results, const BFloat16*) {
  const Bits32 bits = (Bits32)results;
  const Bits32 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Bits32 nan = (bits >> 16) | 0x40;
  return Narrowed(results != results ? nan : rounded);
}

#if defined(__AVX512F__)
inline Vector<float> LoadVector(const Half* values) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
  return (Vector<float>)_mm512_maskz_cvtph_ps(0xffff, bits);
}
inline Bits16 Packed(const Vector<float>& results, const Half*) {
  return (Bits16)_mm512_maskz_cvtps_ph(0xffff, (__m512)results, _MM_FROUND_TO_NEAREST_INT);
}
#elif defined(__F16C__)
inline Vector<float> LoadVector(const Half* values) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
  return (Vector<float>)_mm256_cvtph_ps(bits);
}
inline Bits16 Packed(const Vector<float>& results, const Half*) {
  return (Bits16)_mm256_cvtps_ph((__m256)results, _MM_FROUND_TO_NEAREST_INT);
}
#else
inline Vector<float> LoadVector(const Half* values) {
  Vector<float> results;
  for (int i = 0; i < kVectorSize<float>; ++i) results[i] = ToFloat(values[i]);
  return results;
}
inline Bits16 Packed(const Vector<float>& results, const Half*) {
  Bits16 bits;
  for (int i = 0; i < kVectorSize<float>; ++i) bits[i] = ToHalf(results[i]).bits;
  return bits;
}
#endif

// The smaller and the larger of two numbers, lane by lane; the second where one is NaN. In one
// instruction, for which GCC takes two.
inline float Smaller(float a, float b) { return a < b ? a : b; }
inline double Smaller(double a, double b) { return a < b ? a : b; }
inline float Larger(float a, float b) { return a > b ? a : b; }
inline double Larger(double a, double b) { return a > b ? a : b; }
#if defined(__AVX512F__)  // With a mask of ones, as above.
inline Vector<float> Smaller(Vector<float> a, Vector<float> b) {
  return _mm512_maskz_min_ps(0xffff, a, b);
}
inline Vector<double> Smaller(Vector<double> a, Vector<double> b) {
  return _mm512_maskz_min_pd(0xff, a, b);
}
inline Vector<float> Larger(Vector<float> a, Vector<float> b) {
  return _mm512_maskz_max_ps(0xffff, a, b);
}
inline Vector<double> Larger(Vector<double> a, Vector<double> b) {
  return _mm512_maskz_max_pd(0xff, a, b);
}
#elif defined(__AVX__)
inline Vector<float> Smaller(Vector<float> a, Vector<float> b) { return _mm256_min_ps(a, b); }
inline Vector<double> Smaller(Vector<double> a, Vector<double> b) { return _mm256_min_pd(a, b); }
inline Vector<float> Larger(Vector<float> a, Vector<float> b) { return _mm256_max_ps(a, b); }
inline Vector<double> Larger(Vector<double> a, Vector<double> b) { return _mm256_max_pd(a, b); }
#else
inline Vector<float> Smaller(Vector<float> a, Vector<float> b) { return a < b ? a : b; }
inline Vector<double> Smaller(Vector<double> a, Vector<double> b) { return a < b ? a : b; }
inline Vector<float> Larger(Vector<float> a, Vector<float> b) { return a > b ? a : b; }
inline Vector<double> Larger(Vector<double> a, Vector<double> b) { return a > b ? a : b; }
#endif

// Writes whole registers: through the caches or, where `stream` is set and the memory is aligned to
// the register, past them. Streamed stores want FinishStreams() before another thread reads.
template <typename V, typename T>
inline void StoreVector(const V& results, T* values, bool stream) {
  const auto packed = Packed(results, values);
  constexpr int kBytes = sizeof packed;
#if defined(__AVX512F__)
  if constexpr (kBytes == 64) {
    if (stream) return _mm512_stream_si512(reinterpret_cast<__m512i*>(values), (__m512i)packed);
  }
#endif
#if defined(__AVX__)
  if constexpr (kBytes == 32) {
    if (stream) return _mm256_stream_si256(reinterpret_cast<__m256i*>(values), (__m256i)packed);
  }
#endif
#if defined(__SSE2__)
  if constexpr (kBytes == 16) {
    if (stream) return _mm_stream_si128(reinterpret_cast<__m128i*>(values), (__m128i)packed);
  }
#endif
  memcpy(values, &packed, kBytes);
}

inline void FinishStreams() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// Vectors, or single numbers where less than a vector of columns is left over.
template <typename F, int kLanes>
struct Numbers {
  typedef Vector<F> Type;
};
template <typename F>
struct Numbers<F, 1> {
  typedef F Type;
};

// Neighbouring columns that a loop over rows keeps in kCount registers.
template <typename F, int kCount, int kLanes>
struct Group {
  typedef typename Numbers<F, kLanes>::Type Type;
  static constexpr int kSize = kCount;             // Registers.
  static constexpr int kColumns = kCount * kLanes;
  template <typename T>
  static Type At(const T* values, int k) {
    if constexpr (kLanes == 1) {
      return Load(values + k);
    } else {
      return LoadVector(values + k * kLanes);
    }
  }
  template <typename T>
  static void Put(const Type& results, T* values, int k, bool stream) {
    if constexpr (kLanes == 1) {
      Store(results, values + k);
    } else {
      StoreVector(results, values + k * kLanes, stream);
    }
  }
};

// Calls body(group, column) for n columns: kWide vectors at a time, then one, then single numbers.
template <typename F, int kWide, typename Body>
void ForEachGroup(int64_t n, const Body& body) {
  constexpr int kLanes = kVectorSize<F>;
  int64_t j = 0;
  for (; j + kWide * kLanes <= n; j += kWide * kLanes) body(Group<F, kWide, kLanes>(), j);
  for (; j + kLanes <= n; j += kLanes) body(Group<F, 1, kLanes>(), j);
  for (; j < n; ++j) body(Group<F, 1, 1>(), j);
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
