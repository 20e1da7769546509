// What Moments, Sums and Extremes have in common: every unit of work (plan.h) fills partial sums of
// its columns, and those of a segment come together in float64 and in a fixed order.
//
// `Partial` is a view of kVectors vectors of double, one after the other, with an entry a column.
// Zeros are the sums of nothing; Merge(columns, other) adds the other's; MergeColumn(j, k) adds the
// sums of column k to those of column j.

#ifndef KERAS_NORMS_KERNELS_CPU_REDUCTION_H_
#define KERAS_NORMS_KERNELS_CPU_REDUCTION_H_

#include "plan.h"

namespace keras_norms {
namespace KERAS_NORMS_LEVEL {

constexpr int64_t kReducedColumns = 256;  // More, and rows far apart evict each other.

template <typename Partial, typename Layout = ChannelLayout>
class Reduction {
 public:
  // Rows of few channels are read several at a time, except where each has a weight of its own.
  Reduction(const Layout& layout, bool has_weights, int64_t widest = kReducedColumns)
      : plan_(WithoutEmptyRows(layout), !has_weights, widest) {}

  int64_t scratch_bytes() const {
    if (plan_.chunks() == 1) return 0;
    return plan_.layout.segments * plan_.chunks() * plan_.columns * kEntryBytes;
  }

  // Calls add(plan, unit, partial) for every unit, then finish(segment, channel, total, j) for
  // every channel of every segment, whose sums are those of column j of `total`.
  template <typename Add, typename Finish>
  void Run(void* scratch, const ThreadPool& pool, const Add& add, const Finish& finish) const {
    const auto partial_in_scratch = [&](const Unit& unit) {
      const int64_t chunk = unit.segment * plan_.chunks() + unit.chunk;
      const int64_t entry = chunk * plan_.columns + unit.first_column;
      return Partial(static_cast<double*>(scratch) + entry * Partial::kVectors, unit.columns);
    };
    if (plan_.chunks() == 1) {  // Then a unit is all there is of its columns.
      plan_.ForEachUnit(pool, [&](const Unit& unit) {
        double memory[kMostColumns * Partial::kVectors] = {};
        Partial total(memory, unit.columns);
        add(plan_, unit, total);
        FinishTile(unit, total, finish);
      });
      return;
    }
    plan_.ForEachUnit(pool, [&](const Unit& unit) {
      Partial partial = partial_in_scratch(unit);
      memset(partial.memory, 0, unit.columns * kEntryBytes);
      add(plan_, unit, partial);
    });
    pool.ForEach(plan_.layout.segments * plan_.tiles, [&](int64_t i) {
      const int64_t first = i / plan_.tiles * plan_.chunks();
      double memory[kMostColumns * Partial::kVectors] = {};
      Unit unit = plan_.unit(first * plan_.tiles + i % plan_.tiles);
      Partial total(memory, unit.columns);
      for (unit.chunk = 0; unit.chunk < plan_.chunks(); ++unit.chunk) {
        total.Merge(unit.columns, partial_in_scratch(unit));
      }
      FinishTile(unit, total, finish);
    });
  }

 private:
  // There may be billions of rows or positions that hold nothing.
  static Layout WithoutEmptyRows(Layout layout) {
    if (layout.size() == 0) {
      layout.rows = layout.segment_rows = 0;
      layout.inner = 1;
    }
    return layout;
  }

  static constexpr int64_t kEntryBytes = Partial::kVectors * sizeof(double);

  template <typename Finish>
  void FinishTile(const Unit& unit, Partial& total, const Finish& finish) const {
    const int64_t channels = unit.columns / plan_.fold;
    for (int64_t j = 0; j < channels; ++j) {
      for (int64_t fold = 1; fold < plan_.fold; ++fold) total.MergeColumn(j, j + fold * channels);
      finish(unit.segment, unit.first_column + j, total, j);
    }
  }

  const PlanOf<Layout> plan_;
};

}  // namespace KERAS_NORMS_LEVEL
}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_CPU_REDUCTION_H_
