// How an activation is cut into units of work. The cut depends on the shape only, never on the
// number of threads, so results are the same bits for any number of them.
//
// With inner = 1 an activation is a matrix of rows and columns. Where channels are few, `fold` rows
// are read as one long row, so that vector registers fill: columns = fold * channels, and column j
// belongs to channel j % channels. With inner > 1 a unit is some planes, or a piece of one.

#ifndef KERAS_NORMS_KERNELS_CPU_PLAN_H_
#define KERAS_NORMS_KERNELS_CPU_PLAN_H_

#include "../thread_pool.h"
#include "numbers.h"

namespace keras_norms {
namespace KERAS_NORMS_LEVEL {

constexpr int kMostColumns = 1024;  // Of a unit; vectors of that many lie on the stack.
constexpr int kBlockRows = 64;      // Values summed in float32 before they enter float64 sums.

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t Max(int64_t a, int64_t b) { return a > b ? a : b; }

// A piece of one segment: rows (of `fold` rows each), columns or channels, and inner positions.
struct Unit {
  int64_t segment, chunk, tile;
  int64_t first_row, rows;  // In folded rows; the first is counted from the start of the segment.
  int64_t first_column, columns;
  int64_t first_inner, inner;
  int64_t tail_row, tail_columns;  // What is left of the segment after its whole folded rows.
};

// `Layout` is a ChannelLayout, or something with the same members.
template <typename Layout>
struct PlanOf {
  Layout layout;
  int64_t fold = 1, columns, tile, tiles;
  int64_t stride;  // Of rows, in columns.
  int64_t chunk_rows, row_chunks, chunk_inner, inner_chunks;

  // `widest`: columns or channels of a unit at most, but for folded rows, which are not cut.
  PlanOf(const Layout& layout, bool may_fold, int64_t widest) : layout(layout) {
    const int64_t channels = Max(layout.channels, 1);
    const int64_t row_channels = Max(layout.stride(), 1);
    if (layout.inner == 1 && may_fold && channels < 32 && row_channels == channels) {
      fold = 16;  // A whole number of registers, and at least 64 columns.
      while (fold % 2 == 0 && fold * channels % 32 == 0) fold /= 2;
      while (fold * channels < 64) fold *= 2;
    }
    columns = fold * channels;
    stride = fold * row_channels;
    const int64_t unit = Max(kUnitSize, layout.size() / kUnits);
    const int64_t inner = Max(layout.inner, 1);
    chunk_inner = inner > unit ? unit / kPiece * kPiece : inner;
    inner_chunks = CeilDiv(inner, chunk_inner);
    if (fold > 1) widest = columns;
    if (inner > 1) widest = Min(widest, Max(1, unit / chunk_inner));
    tile = CeilDiv(columns, CeilDiv(columns, widest));
    if (inner == 1) tile = CeilDiv(tile, kLineColumns) * kLineColumns;
    tiles = CeilDiv(columns, tile);
    const int64_t rows = CeilDiv(layout.segment_rows, fold);
    chunk_rows = Max(1, unit / (tile * chunk_inner));
    if (inner == 1) chunk_rows = CeilDiv(chunk_rows, kBlockRows) * kBlockRows;
    row_chunks = Max(1, CeilDiv(rows, chunk_rows));
  }

  int64_t chunks() const { return row_chunks * inner_chunks; }
  int64_t units() const { return layout.segments * chunks() * tiles; }

  Unit unit(int64_t index) const {
    Unit unit;
    unit.tile = index % tiles;
    unit.chunk = index / tiles % chunks();
    unit.segment = index / tiles / chunks();
    const int64_t rows = layout.end_row(unit.segment) - layout.first_row(unit.segment);
    unit.first_row = unit.chunk / inner_chunks * chunk_rows;
    unit.rows = Max(0, Min(rows / fold - unit.first_row, chunk_rows));
    unit.first_column = unit.tile * tile;
    unit.columns = Max(0, Min(Min(columns, layout.channels * fold) - unit.first_column, tile));
    unit.first_inner = unit.chunk % inner_chunks * chunk_inner;
    unit.inner = Min(layout.inner - unit.first_inner, chunk_inner);
    const int64_t tail = unit.chunk == chunks() - 1 ? rows % fold * layout.channels : 0;
    unit.tail_row = rows / fold;
    unit.tail_columns = Max(0, Min(tail - unit.first_column, unit.columns));
    return unit;
  }

  // Where the unit's row begins, in elements; `row` counts from the start of the segment.
  int64_t offset(const Unit& unit, int64_t row) const {
    const int64_t start = layout.first_row(unit.segment) * (stride / fold);
    return (start + row * stride + unit.first_column) * layout.inner + unit.first_inner;
  }
  // The same for row weights, which have no channels and are never folded.
  int64_t weight_offset(const Unit& unit, int64_t row) const {
    return (layout.first_row(unit.segment) + row) * layout.inner + unit.first_inner;
  }

  // Calls body(unit) for every unit; small ones go to a thread several at a time.
  template <typename Body>
  void ForEachUnit(const ThreadPool& pool, const Body& body, bool backwards = false) const {
    const int64_t total = units();
    const int64_t per_task = Max(1, kUnitSize / Max(1, layout.size() / Max(1, total)));
    const int64_t tasks = CeilDiv(total, per_task);
    pool.ForEach(tasks, [&](int64_t index) {
      const int64_t task = backwards ? tasks - 1 - index : index;
      const int64_t end = Min((task + 1) * per_task, total);
      for (int64_t i = task * per_task; i < end; ++i) body(unit(i));
    });
  }

 private:
  static constexpr int64_t kUnitSize = 32768;  // Less does not pay for waking a thread.
  static constexpr int64_t kUnits = 256;
  static constexpr int64_t kLineColumns = 32;  // They fill lines of the cache in every type.
  static constexpr int64_t kPiece = 2048;
};

using Plan = PlanOf<ChannelLayout>;

// Calls body(j, channel) for the columns of a unit.
template <typename Body>
void ForEachColumn(const Plan& plan, const Unit& unit, const Body& body) {
  int64_t channel = unit.first_column;  // Folded rows begin with the first.
  for (int64_t j = 0; j < unit.columns; ++j) {
    body(j, channel);
    if (++channel == plan.layout.channels) channel = 0;
  }
}

// A double in two parts of type F, the second of which is what the first cannot hold.
template <typename F>
inline F High(double value) {
  return static_cast<F>(value);
}
template <typename F>
inline double Low(double value) {
  const double low = value - static_cast<double>(static_cast<F>(value));
  return low - low == 0.0 ? low : 0.0;  // A centre that is not finite has no second part.
}

}  // namespace KERAS_NORMS_LEVEL
}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_CPU_PLAN_H_
