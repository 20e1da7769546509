// Blocks of values that share an exponent: neighbours in memory, or positions of several planes.
//
// Neighbours are compared within registers, whose lanes exchange what they know. Of planes a piece
// each is looked at twice; between, the caches hold the pieces, already rounded to the format.

#ifndef KERAS_NORMS_KERNELS_CPU_ROUND_BLOCKS_H_
#define KERAS_NORMS_KERNELS_CPU_ROUND_BLOCKS_H_

#include "plan.h"
#include "rounder.h"

namespace keras_norms {
namespace KERAS_NORMS_LEVEL {
namespace {

constexpr int64_t kPieceValues = 256;  // Of a plane.
constexpr int64_t kKeptPlanes = 32;    // Whose values are kept for the second time.

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
    block.Add(values.in_block());
    Exchange<kSize>(&block);
    const Alignment<Integers, R::kTwo> alignment(block, rounder.places);
    rounder.WriteAligned(Register(), values, alignment, rounder.y + i, streams);
  }
}

// One block a lane of kCount groups that lie `distance` apart, or one of all lanes for kAcross.
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
    block.Add(values[k].in_block());
  }
  if constexpr (kAcross) Exchange<kLanes>(&block);
  const Alignment<std::decay_t<decltype(values[0].sign)>, R::kTwo> alignment(block, rounder.places);
#pragma GCC unroll 8
  for (int k = 0; k < kCount; ++k) {
    rounder.WriteAligned(group, values[k], alignment, rounder.y + position + k * distance, streams);
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
    block.Add(rounder.ReadForBlock(Register(), from(i), position + i).in_block());
  }
  Exchange<kLanes>(&block);
  const Alignment<Integers, R::kTwo> alignment(block, rounder.places);
  for (int64_t i = 0; i < size; i += kLanes) {
    const auto values = rounder.ReadForBlock(Register(), from(i), position + i);
    const bool is_whole = i < whole;
    rounder.WriteAligned(Register(), values, alignment, is_whole ? rounder.y + position + i : tail,
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

// What is known of some positions, from plane to plane: the largest magnitudes, then how they are
// aligned. Patterns, since groups hold numbers. And their values, rounded to the format.
template <typename R>
struct Pieces {
  float first[kPieceValues], second[kPieceValues];
  float quantum[kPieceValues], inverse[kPieceValues];
  float values[kPieceValues * kKeptPlanes];

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

// Adds kCount planes to the magnitudes of n positions, and returns whether all values are plain.
template <int kCount, typename R>
bool AddPlanes(const R& rounder, int64_t start, int64_t stride, int64_t n, int64_t plane,
               Pieces<R>* pieces) {
  bool are_plain = true;
  ForEachGroup<float, 1>(n, [&](auto group, int64_t i) {
    using Group = decltype(group);
    auto block = pieces->At(group, i);
    if (plane == 0) block = {};
#pragma GCC unroll 8
    for (int k = 0; k < kCount; ++k) {
      const int64_t at = start + (plane + k) * stride + i;
      const auto values = rounder.ReadForBlock(group, rounder.x + at, at);
      block.Add(values.in_block());
      are_plain &= values.is_plain;
      if (plane + k < kKeptPlanes) {
        const std::decay_t<decltype(values.sign)> bits = values.sign + values.magnitude;
        Group::Put(NumbersOf(bits), pieces->values + (plane + k) * kPieceValues + i, 0, false);
      }
    }
    pieces->Put(group, block, i);
  });
  return are_plain;
}

// How n positions are aligned; returns whether all are plain.
template <typename R>
bool AlignPieces(const R& rounder, int64_t n, Pieces<R>* pieces) {
  bool are_plain = true;
  ForEachGroup<float, 1>(n, [&](auto group, int64_t i) {
    using Group = decltype(group);
    auto block = pieces->At(group, i);
    const Alignment<std::decay_t<decltype(block.first)>, R::kTwo> alignment(block, rounder.places);
    Group::Put(NumbersOf(alignment.quantum), pieces->quantum + i, 0, false);
    Group::Put(NumbersOf(alignment.inverse), pieces->inverse + i, 0, false);
    are_plain &= alignment.is_plain;
  });
  return are_plain;
}

// Writes a plane of n positions.
template <typename R>
void WritePlane(const R& rounder, int64_t start, int64_t n, const Pieces<R>& pieces,
                const float* kept, bool are_plain, bool streams) {
  ForEachGroup<float, 1>(n, [&](auto group, int64_t i) {
    using Group = decltype(group);
    const auto block = pieces.At(group, i);
    using I = std::decay_t<decltype(block.first)>;
    if (are_plain && kept != nullptr) {
      const auto number = Group::At(kept + i, 0);
      const auto result =
          Truncated(number * Group::At(pieces.inverse + i, 0)) * Group::At(pieces.quantum + i, 0);
      const I magnitude = BitsOf(number) & kMagnitudeBits;
      const bool stays = R::kTwo;  // Only then do values beyond the shared exponent.
      const I bits = stays ? Select(magnitude >= (block.first & kInfinityBits), BitsOf(number),
                                    BitsOf(result))
                           : BitsOf(result);
      Group::Put(NumbersOf(bits), rounder.y + start + i, 0, streams);
      return;
    }
    const auto read = rounder.ReadForBlock(group, rounder.x + start + i, start + i);
    const Alignment<I, R::kTwo> alignment(block, rounder.places);
    rounder.WriteAligned(group, read, alignment, rounder.y + start + i, streams);
  });
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
      are_plain &= AddPlanes<kCount>(rounder, begin, stride, values, plane, &pieces);
    }
    for (; plane < size; ++plane) {
      are_plain &= AddPlanes<1>(rounder, begin, stride, values, plane, &pieces);
    }
    are_plain &= AlignPieces(rounder, values, &pieces);
    for (plane = 0; plane < size; ++plane) {
      const float* kept =
          plane < kKeptPlanes ? pieces.values + plane * kPieceValues : nullptr;
      WritePlane(rounder, begin + plane * stride, values, pieces, kept, are_plain, streams);
    }
  }
}

}  // namespace
}  // namespace KERAS_NORMS_LEVEL
}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_CPU_ROUND_BLOCKS_H_
