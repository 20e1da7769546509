// Round on the CPU: every value is read, rounded and written once, in place where y is x.
//
// Without blocks the layout does not matter. Blocks of channels are neighbours in memory (channels
// last) or lie in planes (channels first); see round_blocks.h.

#include "../round.h"

#include "plan.h"
#include "round_blocks.h"
#include "rounder.h"
#include "stores.h"

namespace keras_norms {
namespace KERAS_NORMS_LEVEL {
namespace {

constexpr int64_t kUnitValues = 1 << 16;

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
