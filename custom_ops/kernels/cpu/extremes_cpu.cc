// Extremes on the CPU. Chunks are the segments of a plan (plan.h). A unit meets its values in the
// compute type: extremes, the steps at which they came, and sums over short blocks around the first
// value. Units meet in float64; of equal extremes the one at the smallest position stays, in
// whatever order they come. A unit whose sums overflow in float is computed again in double.

#include "../extremes.h"

#include <cmath>
#include <limits>

#include "reduction.h"

namespace keras_norms {
namespace KERAS_NORMS_LEVEL {
namespace {

// Chunks as segments of a plan, which differ in length by one: of rows where a row is a position,
// otherwise of one plane a channel.
struct ChunkLayout : ChannelLayout {
  Chunks all;
  bool are_rows;

  ChunkLayout(const ChannelLayout& layout, int64_t chunks)
      : all(layout, chunks), are_rows(layout.inner == 1) {
    const int64_t longest = all.longest();
    channels = layout.channels;
    segments = all.size();
    rows = are_rows ? all.positions : segments;
    segment_rows = are_rows ? longest : 1;
    inner = are_rows ? 1 : Max(longest, 2);
  }
  int64_t first_row(int64_t run) const { return are_rows ? all.first(run) : run; }
  int64_t end_row(int64_t run) const { return are_rows ? all.end(run) : run + 1; }
};
using ChunkPlan = PlanOf<ChunkLayout>;

// One number, the value of a block, and where it is: doubles hold positions exactly to 2^53.
struct Extreme {
  double value, position;
};

// Count, sum w (x - shift), and both extremes with their positions.
struct Partial {
  static constexpr int kVectors = 7;
  double *memory, *count, *shift, *sum, *low, *low_at, *high, *high_at;

  Partial(double* memory, int64_t columns)
      : memory(memory),
        count(memory),
        shift(count + columns),
        sum(shift + columns),
        low(sum + columns),
        low_at(low + columns),
        high(low_at + columns),
        high_at(high + columns) {}

  void Add(int64_t j, double n, double other_shift, double other_sum, Extreme other_low,
           Extreme other_high) {
    if (n == 0.0) return;
    const bool is_first = count[j] == 0.0;
    shift[j] = is_first ? other_shift : shift[j];
    count[j] += n;
    sum[j] += other_sum + n * (other_shift - shift[j]);
    const auto is_before = [&](double value, double at, const Extreme& other) {
      return other.value == value && other.position < at;
    };
    if (is_first || other_low.value < low[j] || is_before(low[j], low_at[j], other_low)) {
      low[j] = other_low.value;
      low_at[j] = other_low.position;
    }
    if (is_first || other_high.value > high[j] || is_before(high[j], high_at[j], other_high)) {
      high[j] = other_high.value;
      high_at[j] = other_high.position;
    }
  }
  void Merge(int64_t columns, const Partial& other) {
    for (int64_t j = 0; j < columns; ++j) MergeFrom(j, other, j);
  }
  void MergeColumn(int64_t j, int64_t k) { MergeFrom(j, *this, k); }

 private:
  void MergeFrom(int64_t j, const Partial& other, int64_t k) {
    Add(j, other.count[k], other.shift[k], other.sum[k], {other.low[k], other.low_at[k]},
        {other.high[k], other.high_at[k]});
  }
};

// Steps as numbers of the size of F, so that they share the masks of comparisons.
template <typename F>
using Step = std::conditional_t<sizeof(F) == 4, int32_t, int64_t>;

// Few columns make long units: what a unit costs beside its values is paid once a column.
constexpr int64_t kUnitColumns = 32;
// Values of a column, or registers of a plane, that share a step. Which of them an extreme is, is
// looked up at the end of the unit: that saves half of the instructions.
constexpr int kStepRows = 8, kStepVectors = 4;
constexpr int64_t kMostRows = 4 * kBlockRows;  // Sums of steps enter float64 sums after that many.
constexpr int kGroupBytes = 128;               // Of columns in registers.

// What each lane of a register, or a single number, has met so far: extremes, the steps at which
// they came first, and the sum of differences from a shift.
template <typename F, int kLanes>
struct Running {
  typedef typename Numbers<F, kLanes>::Type N;
  typedef typename Numbers<Step<F>, kLanes>::Type I;
  N low, high, sum;
  I low_at, high_at;

  static Running Nothing() {
    const N infinity = N{} + std::numeric_limits<F>::infinity();
    return {infinity, -infinity, N{}, I{}, I{}};
  }

  void Add(const N& value, const N& shift, const I& step) {
    sum += value - shift;
    AddExtremes(value, value, step);
  }
  void Add(const N (&values)[kStepVectors], const N& shift, const I& step) {
    sum += (values[0] - shift + (values[1] - shift)) + (values[2] - shift + (values[3] - shift));
    const N low_of[] = {Smaller(values[0], values[1]), Smaller(values[2], values[3])};
    const N high_of[] = {Larger(values[0], values[1]), Larger(values[2], values[3])};
    AddExtremes(Smaller(low_of[0], low_of[1]), Larger(high_of[0], high_of[1]), step);
  }
  // The same where a mask says so.
  void AddCounted(const N& value, const I& is_counted, const N& shift, const I& step) {
    sum += is_counted ? value - shift : N{};
    AddExtremes(is_counted ? value : low, is_counted ? value : high, step);
  }

  void AddExtremes(const N& smallest, const N& largest, const I& step) {
    low_at = smallest < low ? step : low_at;
    low = Smaller(smallest, low);
    high_at = largest > high ? step : high_at;
    high = Larger(largest, high);
  }
};

// Lanes in memory. A copy by memcpy would go through the stack.
template <int kLanes, typename F>
typename Numbers<F, kLanes>::Type LoadLanes(const F* from) {
  if constexpr (kLanes == 1) {
    return *from;
  } else {
    return *reinterpret_cast<const Vector<F>*>(from);
  }
}
template <int kLanes, typename F>
void StoreLanes(const typename Numbers<F, kLanes>::Type& lanes, F* to) {
  if constexpr (kLanes == 1) {
    *to = lanes;
  } else {
    *reinterpret_cast<Vector<F>*>(to) = lanes;
  }
}

// What the columns of a unit have met so far. It stays in the cache of the core, so that the unit is
// read from its first to its last row. Steps are the first of their rows.
template <typename F>
struct Columns {
  // Not a multiple of 4096 bytes apart, which the processor would take for the same address.
  static constexpr int kSize = kMostColumns + 48;
  F shift[kSize], low[kSize], high[kSize], sum[kSize];
  Step<F> low_at[kSize], high_at[kSize];
  double total[kSize];

  void Flush(int64_t n) {
    for (int64_t j = 0; j < n; ++j) {
      total[j] += static_cast<double>(sum[j]);
      sum[j] = 0;
    }
  }
};

// The rows of a step. One that does not count is replaced by one that does, and adds 0.
template <typename T, typename F = Compute<T>>
struct StepRows {
  const T* rows[kStepRows];
  F factors[kStepRows];
  int counted = 0;

  StepRows(const T* x, int64_t stride, int64_t begin, int64_t end, const F* weights) {
    const T* any = nullptr;
    for (int i = 0; i < kStepRows; ++i) {
      const int64_t row = begin + i;
      const bool counts = row < end && (weights == nullptr || weights[row] > 0);
      rows[i] = counts ? x + row * stride : nullptr;
      factors[i] = counts ? 1 : 0;
      counted += counts;
      if (counts) any = rows[i];
    }
    for (int i = 0; i < kStepRows; ++i) rows[i] = rows[i] == nullptr ? any : rows[i];
  }
};

// Steps of whole rows from begin to end, `stride` elements apart, of a group of columns; or, where
// `chosen` is not null, a single step of these rows.
template <typename Group, typename T, typename F = Compute<T>>
void AddGroup(Group, const T* x, int64_t stride, int64_t begin, int64_t end,
              const StepRows<T>* chosen, int64_t column, Columns<F>& columns) {
  using V = typename Group::Type;
  constexpr int kSize = Group::kSize, kLanes = Group::kColumns / kSize;
  using I = typename Running<F, kLanes>::I;
  for (int64_t row = begin; row < end; row += kStepRows) {
    V low[kSize], high[kSize], sum[kSize];
    const T* at = (chosen == nullptr ? x + row * stride : chosen->rows[0]) + column;
    for (int k = 0; k < kSize; ++k) {
      low[k] = high[k] = Group::At(at, k);
      sum[k] = low[k] - LoadLanes<kLanes>(columns.shift + column + k * kLanes);
      if (chosen != nullptr) sum[k] = sum[k] * chosen->factors[0];
    }
#pragma GCC unroll 1  // So that a load goes on in steps of one size, which can be foreseen.
    for (int i = 1; i < kStepRows; ++i) {
      at = chosen == nullptr ? at + stride : chosen->rows[i] + column;
      for (int k = 0; k < kSize; ++k) {
        const V value = Group::At(at, k);
        const V difference = value - LoadLanes<kLanes>(columns.shift + column + k * kLanes);
        low[k] = Smaller(value, low[k]);
        high[k] = Larger(value, high[k]);
        sum[k] += chosen == nullptr ? difference : difference * chosen->factors[i];
      }
    }
    const I here = I{} + static_cast<Step<F>>(row);
    for (int k = 0; k < kSize; ++k) {
      const int64_t j = column + k * kLanes;
      const V old_low = LoadLanes<kLanes>(columns.low + j);
      const V old_high = LoadLanes<kLanes>(columns.high + j);
      const I low_at = low[k] < old_low ? here : LoadLanes<kLanes>(columns.low_at + j);
      const I high_at = high[k] > old_high ? here : LoadLanes<kLanes>(columns.high_at + j);
      StoreLanes<kLanes>(low_at, columns.low_at + j);
      StoreLanes<kLanes>(high_at, columns.high_at + j);
      StoreLanes<kLanes>(Smaller(low[k], old_low), columns.low + j);
      StoreLanes<kLanes>(Larger(high[k], old_high), columns.high + j);
      StoreLanes<kLanes>(LoadLanes<kLanes>(columns.sum + j) + sum[k], columns.sum + j);
    }
  }
}

// Values begin to end, `stride` elements apart, in double: for where float overflows.
// `position(i)` is that of value i.
template <typename T, typename Positions, typename F = Compute<T>>
[[gnu::noinline]] void AddInDouble(const T* x, int64_t stride, int64_t begin, int64_t end,
                                   const F* weights, Partial partial, int64_t column,
                                   const Positions& position) {
  for (int64_t i = begin; i < end; ++i) {
    if (weights != nullptr && !(weights[i] > 0)) continue;
    const Extreme value = {static_cast<double>(Load(x + i * stride)), position(i)};
    partial.Add(column, 1.0, value.value, 0.0, value, value);
  }
}

// Rows of n columns, with one weight a row or none. `position(j, row)` is that of a value.
template <typename T, typename Positions, typename F = Compute<T>>
void AddMatrix(const T* x, int64_t stride, int64_t rows, int64_t n, const F* weights,
               Partial partial, const Positions& position, bool in_double) {
  const auto add_in_double = [&](int64_t begin, int64_t end) {
    for (int64_t j = 0; j < n; ++j) {
      AddInDouble(x + j, stride, begin, end, weights, partial, j,
                  [&](int64_t row) { return position(j, row); });
    }
  };
  if (in_double || rows == 1) return add_in_double(0, rows);
  Columns<F> columns;
  int64_t count = 0;
  for (int64_t begin = 0; begin < rows;) {
    const StepRows<T> step(x, stride, begin, rows, weights);
    if (step.counted == 0) {
      begin += kStepRows;
      continue;
    }
    for (int64_t j = 0; count == 0 && j < n; ++j) {  // The first step.
      columns.shift[j] = Load(step.rows[0] + j);
      columns.low[j] = std::numeric_limits<F>::infinity();
      columns.high[j] = -columns.low[j];
      columns.low_at[j] = columns.high_at[j] = static_cast<Step<F>>(begin);
      columns.sum[j] = 0;
      columns.total[j] = 0.0;
    }
    const int64_t whole = weights == nullptr ? (rows - begin) / kStepRows * kStepRows : 0;
    const int64_t end = whole > 0 ? begin + Min(whole, kMostRows) : begin + 1;
    ForEachGroup<F, kGroupBytes / kVectorBytes>(n, [&](auto group, int64_t j) {
      if (whole > 0) {  // Known to the compiler: nothing to ask for in the loop.
        AddGroup<decltype(group), T>(group, x, stride, begin, end, nullptr, j, columns);
      } else {
        AddGroup(group, x, stride, begin, end, &step, j, columns);
      }
    });
    columns.Flush(n);
    count += whole > 0 ? end - begin : step.counted;
    begin = whole > 0 ? end : begin + kStepRows;
  }
  if (count == 0) return;
  columns.Flush(n);
  for (int64_t j = 0; j < n; ++j) {
    const auto extreme = [&](F value, int64_t row) {
      const int64_t last = Min(row + kStepRows, rows) - 1;
      const auto is_it = [&] {
        return Load(x + row * stride + j) == value && (weights == nullptr || weights[row] > 0);
      };
      while (row < last && !is_it()) ++row;
      return Extreme{static_cast<double>(value), position(j, row)};
    };
    partial.Add(j, static_cast<double>(count), columns.shift[j], columns.total[j],
                extreme(columns.low[j], columns.low_at[j]),
                extreme(columns.high[j], columns.high_at[j]));
  }
}

// Runs of contiguous values of one channel, one after the other. Steps are positions from the first
// on; kStepVectors registers share one.
template <typename T, typename F = Compute<T>>
class PlaneRuns {
 public:
  explicit PlaneRuns(int64_t first) : first_(first) {}

  // n values from position `from` on, with a weight each or none.
  void Add(const T* x, int64_t from, int64_t n, const F* weights) {
    int64_t i = 0;
    if (count_ == 0) {
      while (weights != nullptr && i < n && !(weights[i] > 0)) ++i;
      if (i == n) return;
      shift_ = Load(x + i);
    }
    // Members in memory could be values of x for all the compiler knows; these are registers.
    Running<F, kLanes> lanes = lanes_;
    const F shift = shift_;
    const Vector<F> shifts = Vector<F>{} + shift;
    const Step<F> start = static_cast<Step<F>>(from - first_);
    const auto step = [start](int64_t i) { return Steps{} + (start + static_cast<Step<F>>(i)); };
    for (i = 0; i + kLanes <= n;) {
      const int64_t block = Min(i + kBlock, n);
      for (; weights == nullptr && i + kStepVectors * kLanes <= block; i += kStepVectors * kLanes) {
        Vector<F> values[kStepVectors];
        for (int k = 0; k < kStepVectors; ++k) values[k] = LoadVector(x + i + k * kLanes);
        lanes.Add(values, shifts, step(i));
      }
      for (; i + kLanes <= block; i += kLanes) {
        if (weights == nullptr) {
          lanes.Add(LoadVector(x + i), shifts, step(i));
          continue;
        }
        const Steps is_counted = LoadVector(weights + i) > 0;
        lanes.AddCounted(LoadVector(x + i), is_counted, shifts, step(i));
        count_ -= CountZeros(is_counted);
      }
      sum_ += Total(lanes.sum);
      lanes.sum = Vector<F>{};
    }
    lanes_ = lanes;
    count_ += i;
    for (; i < n; ++i) {
      if (weights != nullptr && !(weights[i] > 0)) continue;
      rest_.Add(Load(x + i), shift, start + static_cast<Step<F>>(i));
      ++count_;
    }
    sum_ += static_cast<double>(rest_.sum);
    rest_.sum = 0;
  }

  // Adds all to a column. `value_at(position)` is a value of x.
  template <typename ValueAt>
  void AddTo(Partial partial, int64_t column, const ValueAt& value_at) const {
    if (count_ == 0) return;
    partial.sum[column] = sum_ - sum_;
    if (partial.sum[column] != 0.0) return;  // NaN: all is computed again in double.
    F low[kLanes], high[kLanes];
    Step<F> low_at[kLanes], high_at[kLanes];
    StoreLanes<kLanes>(lanes_.low, low);
    StoreLanes<kLanes>(lanes_.high, high);
    StoreLanes<kLanes>(lanes_.low_at, low_at);
    StoreLanes<kLanes>(lanes_.high_at, high_at);
    F lowest = rest_.low, highest = rest_.high;
    for (int i = 0; i < kLanes; ++i) {
      lowest = Smaller(low[i], lowest);
      highest = Larger(high[i], highest);
    }
    const auto extreme = [&](F value, F of_rest, Step<F> rest_at, const F* values,
                             const Step<F>* steps) {
      int64_t first = of_rest == value ? rest_at : std::numeric_limits<int64_t>::max();
      for (int i = 0; i < kLanes; ++i) {
        if (values[i] != value) continue;
        int64_t at = steps[i] + i;
        for (int k = 1; k < kStepVectors && value_at(first_ + at) != value; ++k) at += kLanes;
        first = Min(first, at);
      }
      return Extreme{static_cast<double>(value), static_cast<double>(first_ + first)};
    };
    partial.Add(column, static_cast<double>(count_), static_cast<double>(shift_), sum_,
                extreme(lowest, rest_.low, rest_.low_at, low, low_at),
                extreme(highest, rest_.high, rest_.high_at, high, high_at));
  }

 private:
  static constexpr int kLanes = kVectorSize<F>;
  static constexpr int64_t kBlock = kLanes * kBlockRows;
  typedef typename Running<F, kLanes>::I Steps;

  static int64_t CountZeros(const Steps& mask) {
    Step<F> lanes[kLanes];
    StoreLanes<kLanes>(mask, lanes);
    int64_t zeros = 0;
    for (int i = 0; i < kLanes; ++i) zeros += lanes[i] == 0;
    return zeros;
  }

  static double Total(const Vector<F>& lanes) {
    F sums[kLanes];
    StoreLanes<kLanes>(lanes, sums);
    double total = 0.0;
    for (int i = 0; i < kLanes; ++i) total += static_cast<double>(sums[i]);
    return total;
  }

  const int64_t first_;
  F shift_ = 0;
  Running<F, kLanes> lanes_ = Running<F, kLanes>::Nothing();
  Running<F, 1> rest_ = Running<F, 1>::Nothing();
  double sum_ = 0.0;
  int64_t count_ = 0;
};

template <typename T, typename F = Compute<T>>
void AddUnit(const ExtremesArguments& arguments, const ChunkPlan& plan, const Unit& unit,
             Partial partial, bool in_double) {
  const T* x = static_cast<const T*>(arguments.x);
  const F* weights = static_cast<const F*>(arguments.weights);
  const ChannelLayout& layout = arguments.layout;
  const int64_t first = plan.layout.all.first(unit.segment);
  if (layout.inner == 1) {
    // Where rows are folded, columns beyond the channels belong to later positions.
    int64_t lead[kMostColumns];
    for (int64_t j = 0; j < unit.columns; ++j) {
      lead[j] = (unit.first_column + j) / layout.channels;
    }
    const auto position_from = [&](int64_t row) {
      const int64_t start = first + row * plan.fold;
      return [&lead, start, fold = plan.fold](int64_t j, int64_t row) {
        return static_cast<double>(start + row * fold + lead[j]);
      };
    };
    AddMatrix<T>(x + plan.offset(unit, unit.first_row), plan.columns, unit.rows, unit.columns,
                 weights == nullptr ? nullptr : weights + plan.weight_offset(unit, unit.first_row),
                 partial, position_from(unit.first_row), in_double);
    if (unit.tail_columns > 0) {
      AddMatrix<T>(x + plan.offset(unit, unit.tail_row), 0, 1, unit.tail_columns,
                   static_cast<const F*>(nullptr), partial, position_from(unit.tail_row),
                   in_double);
    }
    return;
  }
  const int64_t begin = first + unit.first_inner;
  const int64_t end = Min(begin + unit.inner, plan.layout.all.end(unit.segment));
  for (int64_t j = 0; j < unit.columns; ++j) {
    PlaneRuns<T> runs(begin);
    for (int64_t from = begin; from < end;) {
      const int64_t size = Min(end - from, layout.inner - from % layout.inner);
      const T* values = x + PlaceOf(layout, from, unit.first_column + j);
      const F* w = weights == nullptr ? nullptr : weights + from;
      if (in_double) {
        AddInDouble(values, 1, 0, size, w, partial, j,
                    [from](int64_t i) { return static_cast<double>(from + i); });
      } else {
        runs.Add(values, from, size, w);
      }
      from += size;
    }
    runs.AddTo(partial, j, [&](int64_t position) {
      return Load(x + PlaceOf(layout, position, unit.first_column + j));
    });
  }
}

// Whether all sums are finite; that of a block may overflow where its mean is not near it.
bool IsFinite(const Partial& partial, int64_t columns) {
  double zero = 0.0;  // Or NaN.
  for (int64_t j = 0; j < columns; ++j) zero += partial.sum[j] - partial.sum[j];
  return zero == 0.0;
}

// The counts where there is no channel to take them from.
template <typename F>
void CountWithoutChannels(const ExtremesArguments& arguments) {
  const Chunks chunks(arguments.layout, arguments.chunks);
  const F* weights = static_cast<const F*>(arguments.weights);
  for (int64_t run = 0; run < chunks.size(); ++run) {
    const int64_t first = chunks.first(run), end = chunks.end(run);
    double count = weights == nullptr ? static_cast<double>(end - first) : 0.0;
    for (int64_t i = first; weights != nullptr && i < end; ++i) count += weights[i] > 0 ? 1.0 : 0.0;
    arguments.count[run] = count;
  }
}

Reduction<Partial, ChunkLayout> ReductionOf(const ExtremesArguments& arguments) {
  return {ChunkLayout(arguments.layout, arguments.chunks), arguments.weights != nullptr,
          kUnitColumns};
}

}  // namespace

int64_t ExtremesScratchCpu(const ExtremesArguments& arguments) {
  return ReductionOf(arguments).scratch_bytes();
}

void ExtremesCpu(const ExtremesArguments& arguments, void* scratch, const ThreadPool& pool) {
  const int64_t channels = arguments.layout.channels;
  if (channels == 0) {
    return arguments.dtype == DataType::kFloat64 ? CountWithoutChannels<double>(arguments)
                                                 : CountWithoutChannels<float>(arguments);
  }
  const auto add = [&](const ChunkPlan& plan, const Unit& unit, Partial& partial) {
    Dispatch(arguments.dtype, [&](auto type) {
      AddUnit<decltype(type)>(arguments, plan, unit, partial, /*in_double=*/false);
      if (IsFinite(partial, unit.columns)) return;
      memset(partial.memory, 0, unit.columns * Partial::kVectors * sizeof(double));
      AddUnit<decltype(type)>(arguments, plan, unit, partial, /*in_double=*/true);
    });
  };
  const auto finish = [&](int64_t run, int64_t channel, const Partial& total, int64_t j) {
    const int64_t i = run * channels + channel;
    const bool has_any = total.count[j] > 0.0;
    const auto place_of = [&](double position) {
      return has_any ? PlaceOf(arguments.layout, static_cast<int64_t>(position), channel) : 0;
    };
    if (channel == 0) arguments.count[run] = total.count[j];
    arguments.mean[i] = has_any ? total.shift[j] + total.sum[j] / total.count[j] : 0.0;
    arguments.low[i] = total.low[j];
    arguments.high[i] = total.high[j];
    arguments.low_at[i] = place_of(total.low_at[j]);
    arguments.high_at[i] = place_of(total.high_at[j]);
  };
  ReductionOf(arguments).Run(scratch, pool, add, finish);
}

}  // namespace KERAS_NORMS_LEVEL
}  // namespace keras_norms
