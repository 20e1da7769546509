// Reads groups of values, rounds them to a format, aligns them to the exponents of their blocks.

#ifndef KERAS_NORMS_KERNELS_CPU_ROUNDER_H_
#define KERAS_NORMS_KERNELS_CPU_ROUNDER_H_

#include "../rounding_math.h"
#include "numbers.h"
#include "stores.h"

namespace keras_norms {
namespace KERAS_NORMS_LEVEL {
namespace {

typedef int32_t Integers __attribute__((vector_size(kVectorBytes)));
constexpr int kLanes = kVectorSize<float>;

// The integers that go with the numbers of a group.
inline Integers BitsOf(const Vector<float>& values) { return (Integers)values; }
inline int32_t BitsOf(float value) { return static_cast<int32_t>(FloatToBits(value)); }
inline Vector<float> NumbersOf(const Integers& bits) { return (Vector<float>)bits; }
inline float NumbersOf(int32_t bits) { return BitsToFloat(static_cast<uint32_t>(bits)); }

// The patterns of integers as float32.
inline Integers BitsOfFloat(const Integers& values) {
  return (Integers)__builtin_convertvector(values, Vector<float>);
}
inline int32_t BitsOfFloat(int32_t value) { return BitsOf(static_cast<float>(value)); }

// Whether a condition holds in all lanes.
inline bool HoldsInAll(bool condition) { return condition; }
inline bool HoldsInAll(const Integers& condition) {
#if defined(__AVX512F__)
  return _mm512_movepi32_mask((__m512i)condition) == 0xffff;
#elif defined(__AVX2__)
  return _mm256_movemask_epi8((__m256i)condition) == -1;
#elif defined(__SSE2__)
  return _mm_movemask_epi8((__m128i)condition) == 0xffff;
#else
  bool holds = true;
  for (int i = 0; i < kLanes; ++i) holds &= condition[i] != 0;
  return holds;
#endif
}

// Random bits for the values from a position on. The keys of the first 2^32 positions are at hand.
struct RandomSource {
  int64_t seed;
  RandomBits keys;

  explicit RandomSource(int64_t seed) : seed(seed), keys(seed, 0) {}

  uint32_t From(int32_t, int64_t position) const {
    const RandomBits own = position >> 32 == 0 ? keys : RandomBits(seed, position);
    return own.at(static_cast<uint32_t>(position));
  }
  Bits32 From(const Integers&, int64_t position) const {
    Bits32 positions;
    for (int i = 0; i < kLanes; ++i) positions[i] = i;
    if (position + kLanes <= int64_t{1} << 32) {
      return keys.at(Bits32(positions + static_cast<uint32_t>(position)));
    }
    for (int i = 0; i < kLanes; ++i) positions[i] = From(int32_t{}, position + i);
    return positions;
  }
};

enum class Step { kNone, kNearestEven, kTruncate, kStochastic };  // To the format.

constexpr RoundingMode ModeOf(Step step) {
  return step == Step::kTruncate     ? RoundingMode::kTruncate
         : step == Step::kStochastic ? RoundingMode::kStochastic
                                     : RoundingMode::kNearestEven;
}

// The arithmetic for values that are not all plain, out of the way of that for those that are. By
// value, so that nothing has to be in memory unless they are called.
#define KERAS_NORMS_RARE __attribute__((noinline, cold))
template <RoundingMode kMode, typename I, typename U>
KERAS_NORMS_RARE I AnyToFormat(I magnitude, const FormatPatterns& format, U random) {
  return ToFormat<kMode>(magnitude, format, random);
}

// The largest magnitude of a block and, where kTwo is set, the second largest: their exponents are
// the largest and the second largest ones. What is not finite takes no part.
template <typename I, bool kTwo>
struct LargestMagnitudes {
  I first = {}, second = {};

  KERAS_NORMS_INLINE void Add(const I& magnitude) {
    if (kTwo) second = Larger(second, Smaller(first, magnitude));
    first = Larger(first, magnitude);
  }
  KERAS_NORMS_INLINE void Add(const LargestMagnitudes& other) {
    if (kTwo) second = Larger(Larger(second, other.second), Smaller(first, other.first));
    first = Larger(first, other.first);
  }
};

template <typename I, bool kTwo>
KERAS_NORMS_RARE I AnyAligned(I magnitude, LargestMagnitudes<I, kTwo> block, int32_t places) {
  const auto exponent = [](const I& of) { return Exponent(of, BitsOfFloat(Significand(of))); };
  const I zero = {}, nothing = zero + kNoExponent;
  LargestExponents<I, kTwo> exponents;
  exponents.first = Select(block.first > zero, exponent(block.first), nothing);
  exponents.second = Select(block.second > zero, exponent(block.second), nothing);
  return Aligned(magnitude, exponent(magnitude), exponents, places);
}

#if defined(__AVX__)
constexpr bool kHasTruncation = true;
inline float Truncated(float value) { return __builtin_truncf(value); }
inline Vector<float> Truncated(const Vector<float>& values) {
#if defined(__AVX512F__)
  return _mm512_maskz_roundscale_ps(0xffff, values, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
#else
  return _mm256_round_ps(values, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
#endif
}
#else
constexpr bool kHasTruncation = false;
template <typename N>
N Truncated(const N& values) {
  return values;
}
#endif

// How the values of a block are cut off: to multiples of a power of two, if that and its inverse
// are normal numbers. Those from `kept` on stay.
template <typename I, bool kTwo>
struct Alignment {
  LargestMagnitudes<I, kTwo> block;
  I quantum, inverse, kept;
  bool is_plain;

  KERAS_NORMS_INLINE Alignment(const LargestMagnitudes<I, kTwo>& block, int32_t places)
      : block(block) {
    const I& shared = kTwo ? block.second : block.first;
    const I exponent = Larger(I((shared >> kFractionBits) - places), I(I{} + 1));
    quantum = exponent << kFractionBits;
    inverse = (254 - exponent) << kFractionBits;
    kept = block.first & kInfinityBits;
    // Without a shared exponent the other values are 0.
    is_plain = kHasTruncation &&
               HoldsInAll((shared >= (places + 1) << kFractionBits) | (shared == 0));
  }
};

// What one call does to values of type T; kTwo aligns blocks to their second largest exponent.
template <typename T_, Step kStep, bool kTwo_>
struct Rounder {
  using T = T_;
  static constexpr bool kTwo = kTwo_;
  template <typename I>
  using Largest = LargestMagnitudes<I, kTwo>;

  const T* x;
  T* y;
  FormatPatterns format;
  RandomSource random;
  int32_t places;
  bool stream;

  // Sign and magnitude of values, the latter rounded to the format.
  template <typename I>
  struct Values {
    I sign, magnitude;
    bool is_plain;

    KERAS_NORMS_INLINE I in_block() const {
      return is_plain ? magnitude : Select(magnitude < kInfinityBits, magnitude, I{});
    }
  };

  // A group of values that belong at a position, and may lie elsewhere.
  template <typename Group>
  KERAS_NORMS_INLINE auto Read(Group, const T* from, int64_t position) const {
    const auto bits = BitsOf(Group::At(from, 0));
    using I = std::decay_t<decltype(bits)>;
    I magnitude = bits & kMagnitudeBits;
    const I sign = bits - magnitude;
    if constexpr (kStep != Step::kNone) {
      constexpr RoundingMode kMode = ModeOf(kStep);
      const auto random_bits = [&] {
        if constexpr (kStep == Step::kStochastic) {
          return random.From(bits, position);
        } else {
          return magnitude;  // Not read.
        }
      }();
      if (HoldsInAll(IsPlain(magnitude, format.normal))) {
        magnitude = PlainToFormat<kMode>(magnitude, format, random_bits);
        return Values<I>{sign, magnitude, true};  // No smaller than normal, or 0.
      } else {
        magnitude = AnyToFormat<kMode>(magnitude, format, random_bits);
      }
    }
    return Values<I>{sign, magnitude, false};
  }
  template <typename Group>
  KERAS_NORMS_INLINE auto ReadForBlock(Group group, const T* from, int64_t position,
                                       bool known_plain = false) const {
    const auto values = Read(group, from, position);
    const bool is_plain = values.is_plain || known_plain ||
                          HoldsInAll(IsPlain(values.magnitude, kImplicitOne));
    return decltype(Read(group, from, position)){values.sign, values.magnitude, is_plain};
  }
  template <typename Group, typename I>
  KERAS_NORMS_INLINE void WriteAligned(Group, const Values<I>& values,
                                       const Alignment<I, kTwo>& alignment, T* to,
                                       bool streams) const {
    if (values.is_plain && alignment.is_plain) {
      const auto number = NumbersOf(I(values.sign + values.magnitude));
      const auto result =
          Truncated(number * NumbersOf(alignment.inverse)) * NumbersOf(alignment.quantum);
      if constexpr (kTwo) {
        const I bits = Select(values.magnitude >= alignment.kept, BitsOf(number), BitsOf(result));
        Group::Put(NumbersOf(bits), to, 0, streams);
      } else {
        Group::Put(result, to, 0, streams);
      }
      return;
    }
    const I aligned = AnyAligned(values.magnitude, alignment.block, places);
    Group::Put(NumbersOf(I(values.sign + aligned)), to, 0, streams);
  }

  // n values without blocks.
  void Run(int64_t position, int64_t n) const {
    const bool streams = stream && StartsLines(y + position, 0);
    ForEachGroup<float, 1>(n, [&](auto group, int64_t i) {
      const auto values = Read(group, x + position + i, position + i);
      const std::decay_t<decltype(values.sign)> bits = values.sign + values.magnitude;
      decltype(group)::Put(NumbersOf(bits), y + position + i, 0, streams);
    });
  }
};

}  // namespace
}  // namespace KERAS_NORMS_LEVEL
}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_CPU_ROUNDER_H_
