// The arithmetic of rounding, its only copy in C++: integers on the bit patterns of float32.
//
// A pattern without its sign, read as an integer, grows with the value, and adding a unit in the
// last place carries into the exponent as it should. Nothing is computed with the values
// themselves, which threads may take for 0 where they are subnormal. I is int32_t or a vector of
// them, U the same unsigned; a condition is a bool, or a vector of 0 and -1.

#ifndef KERAS_NORMS_KERNELS_ROUNDING_MATH_H_
#define KERAS_NORMS_KERNELS_ROUNDING_MATH_H_

#include <cstdint>
#include <cstring>

#include "round.h"

#ifndef KERAS_NORMS_LEVEL
#define KERAS_NORMS_LEVEL baseline
#endif

// Always: these are a few instructions each, which registers should pass between.
#ifdef __CUDACC__
#define KERAS_NORMS_INLINE __host__ __device__ __forceinline__
#else
#define KERAS_NORMS_INLINE inline __attribute__((always_inline))
#endif

namespace keras_norms {
namespace KERAS_NORMS_LEVEL {

constexpr int32_t kFractionBits = 23;
constexpr int32_t kImplicitOne = 1 << kFractionBits;
constexpr int32_t kMagnitudeBits = 0x7fffffff;
constexpr int32_t kInfinityBits = 0x7f800000;
// The biased exponent of zero, infinity and NaN in a block: below all others, and far enough.
constexpr int32_t kNoExponent = -149;

template <typename C, typename I>
KERAS_NORMS_INLINE I Select(const C& condition, const I& a, const I& b) {
  return condition ? a : b;
}
template <typename I>
KERAS_NORMS_INLINE I Smaller(const I& a, const I& b) {
  return a < b ? a : b;
}
template <typename I>
KERAS_NORMS_INLINE I Larger(const I& a, const I& b) {
  return a > b ? a : b;
}

// A permutation of the 32-bit numbers in which every bit depends on every other one.
template <typename U>
KERAS_NORMS_INLINE U Mixed(U x) {
  x = x ^ (x >> 16);
  x = x * 0x7feb352du;
  x = x ^ (x >> 15);
  x = x * 0x846ca68bu;
  return x ^ (x >> 16);
}

// 32 random bits for each position: a hash of the seed and the position.
struct RandomBits {
  uint32_t first, second;  // Keys, of the seed and the upper half of the position.

  KERAS_NORMS_INLINE RandomBits(int64_t seed, int64_t position) {
    const uint32_t upper = static_cast<uint32_t>(static_cast<uint64_t>(position) >> 32);
    const uint32_t seed_upper = static_cast<uint32_t>(static_cast<uint64_t>(seed) >> 32);
    first = Mixed(static_cast<uint32_t>(seed) ^ Mixed(seed_upper ^ Mixed(upper + 0x3c6ef372u)));
    second = Mixed(first + 0x9e3779b9u);
  }
  // `position`: its lower half.
  template <typename U>
  KERAS_NORMS_INLINE U at(const U& position) const {
    return Mixed(Mixed(position ^ first) + second);
  }
};

// A format, as the patterns that its values have in float32.
struct FormatPatterns {
  int32_t lowest;        // The least exponent whose last place counts, biased as in float32.
  int32_t dropped;       // Bits of a significand that a normal value loses.
  int32_t normal;        // The smallest normal value.
  int32_t tiny;          // The last place of values far below `lowest`.
  int32_t smallest;      // Smaller results become 0.
  int32_t largest;       // Larger ones become this.

  FormatPatterns(const RoundOptions& options, DataType dtype) {
    const int32_t mantissa_bits = static_cast<int32_t>(options.mantissa_bits);
    const int32_t emax = (1 << (options.has_format() ? options.exponent_bits - 1 : 7)) - 1;
    const int32_t emin = 1 - emax;
    // Without subnormals, values one binade below the smallest normal one may still reach it.
    lowest = emin - (options.subnormals ? 0 : 1) + 127;
    dropped = kFractionBits - mantissa_bits;
    normal = PowerOfTwo(emin + 127);
    tiny = PowerOfTwo(lowest - mantissa_bits);
    smallest = options.subnormals ? 0 : normal;
    const int32_t widest = dtype == DataType::kFloat16 ? 10 : dtype == DataType::kBFloat16 ? 7 : 23;
    const int32_t highest = dtype == DataType::kFloat16 && emax > 15 ? 15 : emax;
    const int32_t shared = mantissa_bits < widest ? mantissa_bits : widest;
    largest = PowerOfTwo(highest + 1 + 127) - (1 << (kFractionBits - shared));
  }

 private:
  static int32_t PowerOfTwo(int32_t biased) {
    if (biased > 0) return biased << kFractionBits;
    return biased > -kFractionBits ? 1 << (kFractionBits - 1 + biased) : 0;
  }
};

// 1.fraction, or 0.fraction of a subnormal value, as an integer.
template <typename I>
KERAS_NORMS_INLINE I Significand(const I& magnitude) {
  const I fraction = magnitude & (kImplicitOne - 1);
  return Select(magnitude >= kImplicitOne, I(fraction | kImplicitOne), fraction);
}

// Whether a magnitude is 0, or finite and no smaller than `normal`, as nearly all are.
template <typename I>
KERAS_NORMS_INLINE auto IsPlain(const I& magnitude, int32_t normal) {
  return (magnitude == 0) | ((magnitude >= normal) & (magnitude < kInfinityBits));
}

// ToFormat for plain values, in half as many instructions: all lose the same number of bits.
template <RoundingMode kMode, typename I, typename U>
KERAS_NORMS_INLINE I PlainToFormat(const I& magnitude, const FormatPatterns& format,
                                      const U& random) {
  const int32_t mask = (1 << format.dropped) - 1;
  I result = magnitude;
  if (kMode == RoundingMode::kNearestEven) {
    const I is_odd = (magnitude >> format.dropped) & (format.dropped > 0 ? 1 : 0);
    const I carried = magnitude + (mask >> 1) + is_odd;
    // Where the whole significand but its leading 1 goes, that 1 is the last place, and odd.
    result = format.dropped < kFractionBits ? carried : I(magnitude + (kImplicitOne >> 1));
  } else if (kMode == RoundingMode::kStochastic) {
    result = magnitude + (mask - (I)((random >> 1) >> (31 - format.dropped)));
  }
  return Smaller(I(result & ~mask), I(I{} + format.largest));
}

// A magnitude rounded to a format; `random` is read by the stochastic mode only.
template <RoundingMode kMode, typename I, typename U>
KERAS_NORMS_INLINE I ToFormat(const I& magnitude, const FormatPatterns& format,
                                 const U& random) {
  const I zero = {};
  const I finite = Smaller(magnitude, I(zero + kInfinityBits));  // Sums stay within 31 bits.
  const I biased = finite >> kFractionBits;
  const I significand = Significand(finite);
  const I below =
      Select(biased > 0, Larger(I(format.lowest - biased), zero), I(zero + (format.lowest - 1)));
  const I dropped = Larger(I(below + format.dropped), zero);
  // From two more bits on than there are, nothing is left and nothing rounds up.
  const I few = Smaller(dropped, I(zero + (kFractionBits + 2)));
  I kept = significand >> few;
  if (kMode == RoundingMode::kNearestEven) {
    const I half = ((zero + 1) << few) >> 1;
    const I upwards = half - 1 + (kept & 1);
    kept = (significand + Select(few > 0, upwards, zero)) >> few;
  } else if (kMode == RoundingMode::kStochastic) {
    // What is cut off, as a share of the last place, in units of 2^-32.
    const U left = ((U)significand << (U)Larger(I(31 - dropped), zero)) << 1;
    const U right = (U)significand >> (U)Smaller(Larger(I(dropped - 32), zero), I(zero + 31));
    const U share = Select(dropped < 32, left, right);
    kept = kept + Select(random < share, I(zero + 1), zero);
  }
  I result = finite + ((kept << few) - significand);
  if (kMode == RoundingMode::kStochastic) {
    result = Select(dropped > kFractionBits + 1, I(zero + format.tiny), result);
  }
  result = Select(kept > 0, result, zero);
  result = Select(result < format.smallest, zero, result);
  result = Smaller(result, I(zero + format.largest));
  return Select(magnitude < kInfinityBits, result, magnitude);
}

// The exponent, biased as in float32 but without subnormal values; `of_significand` is the pattern
// of the significand as a float32.
template <typename I>
KERAS_NORMS_INLINE I Exponent(const I& magnitude, const I& of_significand) {
  const I zero = {};
  const I biased = Larger(I(magnitude >> kFractionBits), I(zero + 1));
  const I exponent = biased + (of_significand >> kFractionBits) - (127 + kFractionBits);
  return Select(magnitude < kInfinityBits, exponent, I(zero + kNoExponent));
}

// The largest exponent of a block and, where kTwo is set, the second largest, which may equal it.
template <typename I, bool kTwo>
struct LargestExponents {
  I first = I{} + kNoExponent, second = I{} + kNoExponent;

  KERAS_NORMS_INLINE void Add(const I& exponent) {
    if (kTwo) second = Larger(second, Smaller(first, exponent));
    first = Larger(first, exponent);
  }
  KERAS_NORMS_INLINE void Add(const LargestExponents& other) {
    if (kTwo) second = Larger(Larger(second, other.second), Smaller(first, other.first));
    first = Larger(first, other.first);
  }
  // The one that others are aligned to.
  KERAS_NORMS_INLINE const I& shared() const { return kTwo ? second : first; }
};

// A magnitude cut off at the last place of its block; `exponent` is its own, `places` W - 1.
template <typename I, bool kTwo>
KERAS_NORMS_INLINE I Aligned(const I& magnitude, const I& exponent,
                                const LargestExponents<I, kTwo>& block, int32_t places) {
  const I zero = {};
  const I biased = Larger(I(magnitude >> kFractionBits), I(zero + 1));
  I dropped = Larger(I(block.shared() + (kFractionBits - places) - biased), zero);
  dropped = Smaller(dropped, I(zero + (kFractionBits + 1)));
  const I significand = Significand(magnitude);
  const I kept = significand >> dropped;
  I result = Select(kept > 0, I(magnitude - (significand - (kept << dropped))), zero);
  if (kTwo) result = Select(exponent == block.first, magnitude, result);
  return Select(magnitude < kInfinityBits, result, magnitude);
}

}  // namespace KERAS_NORMS_LEVEL
}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_ROUNDING_MATH_H_
