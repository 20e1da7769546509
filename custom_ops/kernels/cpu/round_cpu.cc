// Round on the CPU: every value is read, rounded and written once, in place where y is x.
//
// Without blocks the layout does not matter. Blocks of neighbours in memory (channels last) are
// compared within registers; others (channels first) position by position, a piece of each of their
// planes at a time, which the second reading finds in the caches.

#include "../round.h"

#include "plan.h"
#include "stores.h"

#include "../rounding_math.h"

namespace keras_norms {
namespace KERAS_NORMS_LEVEL {
namespace {

constexpr int64_t kUnitValues = 1 << 16;
constexpr int64_t kPieceValues = 256;  // Of a plane.

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
template <typename I>
KERAS_NORMS_RARE I AnyExponent(I magnitude) {
  return Exponent(magnitude, BitsOfFloat(Significand(magnitude)));
}
template <typename I, bool kTwo>
KERAS_NORMS_RARE I AnyAligned(I magnitude, LargestExponents<I, kTwo> block, int32_t places) {
  const I exponent = Exponent(magnitude, BitsOfFloat(Significand(magnitude)));
  return Aligned(magnitude, exponent, block, places);
}

// What one call does to values of type T; kTwo aligns blocks to their second largest exponent.
template <typename T_, Step kStep, bool kTwo_>
struct Rounder {
  using T = T_;
  static constexpr bool kTwo = kTwo_;
  template <typename I>
  using Largest = LargestExponents<I, kTwo>;

  const T* x;
  T* y;
  FormatPatterns format;
  RandomSource random;
  int32_t places;
  bool stream;

  // Sign and magnitude of values, the latter rounded to the format; the exponent where there are
  // blocks.
  template <typename I>
  struct Values {
    I sign, magnitude;
    bool is_plain;

    KERAS_NORMS_INLINE I exponent() const {
      return is_plain ? PlainExponent(magnitude) : AnyExponent(magnitude);
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
    const bool is_plain = known_plain || HoldsInAll(IsPlain(values.magnitude, kImplicitOne));
    return decltype(Read(group, from, position)){values.sign, values.magnitude, is_plain};
  }
  template <typename Group, typename I>
  KERAS_NORMS_INLINE void WriteAligned(Group, const Values<I>& values, const Largest<I>& block,
                                       T* to, bool streams) const {
    const I aligned = values.is_plain ? PlainAligned(values.magnitude, block, places)
                                      : AnyAligned(values.magnitude, block, places);
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

// Lanes change places with those `kDistance` apart.
template <int kDistance>
KERAS_NORMS_INLINE Integers Swapped(const Integers& values) {
#if defined(__clang__)
  Integers swapped;
  for (int i = 0; i < kLanes; ++i) swapped[i] = values[i ^ kDistance];
  return swapped;
#else
  Integers places;
  for (int i = 0; i < kLanes; ++i) places[i] = i ^ kDistance;
  return __builtin_shuffle(values, places);
#endif
}

// Every lane gets what the kSize neighbours of which it is one have together.
template <int kSize, typename Largest>
KERAS_NORMS_INLINE void Exchange(Largest* block) {
  if constexpr (kSize > 1) {
    Exchange<kSize / 2>(block);
    Largest others;
    others.first = Swapped<kSize / 2>(block->first);
    others.second = Swapped<kSize / 2>(block->second);
    block->Add(others);
  }
}

typedef Group<float, 1, kLanes> Register;

// n values in blocks of kSize lanes; n is a number of whole registers.
template <int kSize, typename R>
void SmallBlocks(const R& rounder, int64_t position, int64_t n, bool streams) {
  for (int64_t i = position; i < position + n; i += kLanes) {
    const auto values = rounder.ReadForBlock(Register(), rounder.x + i, i);
    typename R::template Largest<Integers> block;
    block.Add(values.exponent());
    Exchange<kSize>(&block);
    rounder.WriteAligned(Register(), values, block, rounder.y + i, streams);
  }
}

// One block a lane of kCount groups that lie `distance` apart, or where kAcross is set one of all lanes.
template <int kCount, bool kAcross, typename Group, typename R>
KERAS_NORMS_INLINE void BlockOfGroups(Group group, const R& rounder, int64_t position,
                                      int64_t distance, bool streams) {
  const auto read = [&](int k) {
    const int64_t at = position + k * distance;
    return rounder.ReadForBlock(group, rounder.x + at, at);
  };
  decltype(read(0)) values[kCount];
  typename R::template Largest<std::decay_t<decltype(values[0].sign)>> block;
#pragma GCC unroll 8
  for (int k = 0; k < kCount; ++k) {
    values[k] = read(k);
    block.Add(values[k].exponent());
  }
  if constexpr (kAcross) Exchange<kLanes>(&block);
#pragma GCC unroll 8
  for (int k = 0; k < kCount; ++k) {
    rounder.WriteAligned(group, values[k], block, rounder.y + position + k * distance, streams);
  }
}

// n values in blocks of kCount registers; n is a number of whole blocks.
template <int kCount, typename R>
void WideBlocks(const R& rounder, int64_t position, int64_t n, bool streams) {
  for (int64_t i = position; i < position + n; i += kCount * kLanes) {
    BlockOfGroups<kCount, true>(Register(), rounder, i, kLanes, streams);
  }
}

// One block of any size. What fills no register is put into one of its own, with zeros.
template <typename R>
void OneBlock(const R& rounder, int64_t position, int64_t size, bool streams) {
  using T = typename R::T;
  const int64_t whole = size / kLanes * kLanes, rest = size - whole;
  T tail[kLanes] = {};
  memcpy(tail, rounder.x + position + whole, rest * sizeof(T));
  typename R::template Largest<Integers> block;
  const auto from = [&](int64_t i) { return i < whole ? rounder.x + position + i : tail; };
  for (int64_t i = 0; i < size; i += kLanes) {
    block.Add(rounder.ReadForBlock(Register(), from(i), position + i).exponent());
  }
  Exchange<kLanes>(&block);
  for (int64_t i = 0; i < size; i += kLanes) {
    const auto values = rounder.ReadForBlock(Register(), from(i), position + i);
    const bool is_whole = i < whole;
    rounder.WriteAligned(Register(), values, block, is_whole ? rounder.y + position + i : tail,
                         is_whole && streams);
  }
  memcpy(rounder.y + position + whole, tail, rest * sizeof(T));
}

// n values in blocks of `size` from the first one on; the last one takes the rest.
template <typename R>
void Blocks(const R& rounder, int64_t position, int64_t n, int64_t size) {
  const bool streams = rounder.stream && StartsLines(rounder.y + position, 0);
  int64_t done = 0;
  if (kLanes % size == 0) {
    done = n / kLanes * kLanes;
    switch (size) {
      case 1:
        SmallBlocks<1>(rounder, position, done, streams);
        break;
      case 2:
        SmallBlocks<2>(rounder, position, done, streams);
        break;
      case 4:
        SmallBlocks<4>(rounder, position, done, streams);
        break;
      case 8:
        SmallBlocks<(kLanes < 8 ? kLanes : 8)>(rounder, position, done, streams);
        break;
      default:
        SmallBlocks<kLanes>(rounder, position, done, streams);
    }
  } else if (size == 2 * kLanes || size == 4 * kLanes) {
    done = n / size * size;
    if (size == 2 * kLanes) {
      WideBlocks<2>(rounder, position, done, streams);
    } else {
      WideBlocks<4>(rounder, position, done, streams);
    }
  }
  for (; done < n; done += size) {
    OneBlock(rounder, position + done, Min(size, n - done), streams && size % kLanes == 0);
  }
}

// The largest exponents at n positions, kept from plane to plane: patterns, as groups are of numbers.
template <typename R>
struct Pieces {
  float first[kPieceValues], second[kPieceValues];

  template <typename Group>
  KERAS_NORMS_INLINE auto At(Group, int64_t i) const {
    const auto largest = BitsOf(Group::At(first + i, 0));
    typename R::template Largest<std::decay_t<decltype(largest)>> block;
    block.first = largest;
    if (R::kTwo) block.second = BitsOf(Group::At(second + i, 0));
    return block;
  }
  template <typename Group, typename Largest>
  KERAS_NORMS_INLINE void Put(Group, const Largest& block, int64_t i) {
    Group::Put(NumbersOf(block.first), first + i, 0, false);
    if (R::kTwo) Group::Put(NumbersOf(block.second), second + i, 0, false);
  }
};

// Adds kCount planes to the exponents of n positions, and returns whether all values are plain.
template <int kCount, typename R>
bool AddPlanes(const R& rounder, int64_t start, int64_t stride, int64_t n, bool is_first,
               Pieces<R>* pieces) {
  bool are_plain = true;
  ForEachGroup<float, 1>(n, [&](auto group, int64_t i) {
    auto block = pieces->At(group, i);
    if (is_first) block = {};
#pragma GCC unroll 8
    for (int k = 0; k < kCount; ++k) {
      const int64_t at = start + k * stride + i;
      const auto values = rounder.ReadForBlock(group, rounder.x + at, at);
      block.Add(values.exponent());
      are_plain &= values.is_plain;
    }
    pieces->Put(group, block, i);
  });
  return are_plain;
}

// n positions of `size` planes, `stride` values apart: every position has a block of its own.
template <typename R>
void Planes(const R& rounder, int64_t position, int64_t stride, int64_t size, int64_t n) {
  constexpr int kCount = 4;
  // Several planes at once where each is long; otherwise memory is read from front to back.
  const bool are_long = n >= kPieceValues;
  const bool streams = rounder.stream && StartsLines(rounder.y + position, stride);
  if (size == kCount && are_long) {
    ForEachGroup<float, 1>(n, [&](auto group, int64_t i) {
      BlockOfGroups<kCount, false>(group, rounder, position + i, stride, streams);
    });
    return;
  }
  Pieces<R> pieces;
  for (int64_t begin = position; begin < position + n; begin += kPieceValues) {
    const int64_t values = Min(kPieceValues, position + n - begin);
    bool are_plain = true;
    int64_t plane = 0;
    for (; are_long && plane + kCount <= size; plane += kCount) {
      are_plain &= AddPlanes<kCount>(rounder, begin + plane * stride, stride, values, plane == 0,
                                     &pieces);
    }
    for (; plane < size; ++plane) {
      are_plain &=
          AddPlanes<1>(rounder, begin + plane * stride, stride, values, plane == 0, &pieces);
    }
    for (plane = 0; plane < size; ++plane) {
      const int64_t start = begin + plane * stride;
      ForEachGroup<float, 1>(values, [&](auto group, int64_t i) {
        const auto read =
            rounder.ReadForBlock(group, rounder.x + start + i, start + i, are_plain);
        rounder.WriteAligned(group, read, pieces.At(group, i), rounder.y + start + i, streams);
      });
    }
  }
}

template <typename T, Step kStep, bool kTwo>
void RoundAll(const RoundArguments& arguments, const ThreadPool& pool) {
  const ChannelLayout& layout = arguments.layout;
  const RoundOptions& options = arguments.options;
  int64_t seed = 0;
  if (kStep == Step::kStochastic) memcpy(&seed, arguments.seed, sizeof seed);
  const Rounder<T, kStep, kTwo> rounder = {
      static_cast<const T*>(arguments.x),
      static_cast<T*>(arguments.y),
      FormatPatterns(options, arguments.dtype),
      RandomSource(seed),
      static_cast<int32_t>(options.block_mantissa_bits) - 1,
      IsStreamed<T>(arguments.y, arguments.x, nullptr, layout.size())};
  const int64_t size = Min(options.block_size, layout.channels);
  // Blocks that divide the channels are a run of blocks, whatever the rows.
  const bool is_run = size == 0 || (layout.inner == 1 && layout.channels % size == 0);
  if (is_run || layout.inner == 1) {
    const int64_t row = is_run ? Max(1, size) : layout.channels;
    const int64_t rows = layout.size() / row;
    // Whole lines of the cache, so that every unit begins with one.
    const int64_t unit = Max(1, kUnitValues / row / 64) * 64;
    pool.ForEach(CeilDiv(rows, unit), [&](int64_t index) {
      const int64_t begin = index * unit, end = Min(begin + unit, rows);
      if (size == 0) {
        rounder.Run(begin * row, (end - begin) * row);
      } else if (is_run) {
        Blocks(rounder, begin * row, (end - begin) * row, size);
      } else {
        for (int64_t r = begin; r < end; ++r) Blocks(rounder, r * row, row, size);
      }
      if (rounder.stream) FinishStreams();
    });
    return;
  }
  const int64_t blocks = CeilDiv(layout.channels, size);
  const int64_t piece = Max(1, kUnitValues / size / kPieceValues) * kPieceValues;
  const int64_t pieces = CeilDiv(layout.inner, piece);
  const int64_t units = layout.rows * blocks * pieces;
  const int64_t per_task = Max(1, kUnitValues / (size * Min(piece, layout.inner)));
  pool.ForEach(CeilDiv(units, per_task), [&](int64_t task) {
    for (int64_t i = task * per_task; i < Min((task + 1) * per_task, units); ++i) {
      const int64_t row = i / pieces / blocks, channel = i / pieces % blocks * size;
      const int64_t begin = i % pieces * piece;
      const int64_t position = (row * layout.channels + channel) * layout.inner + begin;
      Planes(rounder, position, layout.inner, Min(size, layout.channels - channel),
             Min(piece, layout.inner - begin));
    }
    if (rounder.stream) FinishStreams();
  });
}

template <typename T, Step kStep>
void RoundStep(const RoundArguments& arguments, const ThreadPool& pool) {
  if (arguments.options.block_size > 0 && arguments.options.second_largest) {
    RoundAll<T, kStep, true>(arguments, pool);
  } else {
    RoundAll<T, kStep, false>(arguments, pool);
  }
}

template <typename T>
void RoundType(const RoundArguments& arguments, const ThreadPool& pool) {
  if (!arguments.options.has_format()) return RoundStep<T, Step::kNone>(arguments, pool);
  switch (arguments.options.mode) {
    case RoundingMode::kNearestEven:
      return RoundStep<T, Step::kNearestEven>(arguments, pool);
    case RoundingMode::kTruncate:
      return RoundStep<T, Step::kTruncate>(arguments, pool);
    case RoundingMode::kStochastic:
      return RoundStep<T, Step::kStochastic>(arguments, pool);
  }
}

}  // namespace

int64_t RoundScratchCpu(const RoundArguments&) { return 0; }

void RoundCpu(const RoundArguments& arguments, void*, const ThreadPool& pool) {
  if (arguments.layout.size() == 0) return;
  switch (arguments.dtype) {
    case DataType::kFloat32:
      return RoundType<float>(arguments, pool);
    case DataType::kFloat16:
      return RoundType<Half>(arguments, pool);
    case DataType::kBFloat16:
      return RoundType<BFloat16>(arguments, pool);
    case DataType::kFloat64:
      return;  // Not registered.
  }
}

}  // namespace KERAS_NORMS_LEVEL
}  // namespace keras_norms
