// Extremes on the CPU. Chunks are the segments of a plan (plan.h) whose rows are the positions of a
// channel. A unit adds blocks: extremes, the steps at which they were met, and a sum around the
// first value of the block, in the compute type. Blocks and units meet in float64; of equal extremes
// the one at the smallest position stays, in whatever order they come.

#include "../extremes.h"

#include <cmath>
#include <limits>

#include "reduction.h"

namespace keras_norms {
namespace KERAS_NORMS_LEVEL {
namespace {

// The positions of a channel as rows, and chunks as segments, which differ in length.
struct ChunkLayout : ChannelLayout {
  Chunks all;

  ChunkLayout(const ChannelLayout& layout, int64_t chunks) : all(layout, chunks) {
    rows = all.positions;
    channels = layout.channels;
    segments = all.size();
    for (int64_t run = 0; run < Min(segments, chunks); ++run) {  // No later segment is longer.
      segment_rows = Max(segment_rows, all.end(run) - all.first(run));
    }
  }
  int64_t first_row(int64_t run) const { return all.first(run); }
  int64_t end_row(int64_t run) const { return all.end(run); }
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

// The extremes met so far by each lane of a register, or by a single number.
template <typename F, int kLanes>
struct Running {
  typedef typename Numbers<F, kLanes>::Type N;
  typedef typename Numbers<Step<F>, kLanes>::Type I;
  N low, high, sum = {};
  I low_at = {}, high_at = {};

  Running() : low(N{} + std::numeric_limits<F>::infinity()), high(-low) {}

  void Add(const N& value, const N& difference, const I& step) {
    sum += difference;
    low_at = value < low ? step : low_at;
    low = value < low ? value : low;
    high_at = value > high ? step : high_at;
    high = value > high ? value : high;
  }
};

// The numbers of a register, or the number itself.
template <typename To, typename N, size_t n>
void Unpack(const N& from, To (&to)[n]) {
  static_assert(sizeof from == sizeof to);
  memcpy(to, &from, sizeof to);
}

// Rows begin to end of a group of columns, `stride` elements apart; those count whose weight is
// above 0. `position`: that of row 0 in column j, and how far a row leads from there.
template <typename Group, typename T, typename Positions, typename F = Compute<T>>
void AddGroup(Group, const T* x, int64_t stride, int64_t begin, int64_t end, const F* weights,
              Partial partial, int64_t column, const Positions& position) {
  using V = typename Group::Type;
  constexpr int kLanes = Group::kColumns / Group::kSize;
  while (weights != nullptr && begin < end && !(weights[begin] > 0)) ++begin;
  if (begin == end) return;
  V shift[Group::kSize];
  Running<F, kLanes> running[Group::kSize];
  for (int k = 0; k < Group::kSize; ++k) shift[k] = Group::At(x + begin * stride, k);
  double count = static_cast<double>(end - begin);
  for (int64_t row = begin; row < end; ++row) {
    if (weights != nullptr && !(weights[row] > 0)) {
      count -= 1.0;
      continue;
    }
    const auto step = typename Running<F, kLanes>::I{} + static_cast<Step<F>>(row - begin);
    for (int k = 0; k < Group::kSize; ++k) {
      const V value = Group::At(x + row * stride, k);
      running[k].Add(value, value - shift[k], step);
    }
  }
  for (int k = 0; k < Group::kSize; ++k) {
    F shifts[kLanes], sums[kLanes], low[kLanes], high[kLanes];
    Step<F> low_at[kLanes], high_at[kLanes];
    Unpack(shift[k], shifts);
    Unpack(running[k].sum, sums);
    Unpack(running[k].low, low);
    Unpack(running[k].high, high);
    Unpack(running[k].low_at, low_at);
    Unpack(running[k].high_at, high_at);
    for (int i = 0; i < kLanes; ++i) {
      const int64_t j = column + k * kLanes + i;
      partial.Add(j, count, shifts[i], sums[i], {low[i], position(j, begin + low_at[i])},
                  {high[i], position(j, begin + high_at[i])});
    }
  }
}

// Values begin to end, `stride` elements apart, in double: for where float overflows.
template <typename T, typename Positions, typename F = Compute<T>>
[[gnu::noinline]] void AddInDouble(const T* x, int64_t stride, int64_t begin, int64_t end,
                                   const F* weights, Partial partial, int64_t column,
                                   const Positions& position) {
  for (int64_t i = begin; i < end; ++i) {
    if (weights != nullptr && !(weights[i] > 0)) continue;
    const Extreme value = {static_cast<double>(Load(x + i * stride)), position(column, i)};
    partial.Add(column, 1.0, value.value, 0.0, value, value);
  }
}

// Rows of n columns, with one weight a row or none.
template <typename T, typename Positions, typename F = Compute<T>>
void AddMatrix(const T* x, int64_t stride, int64_t rows, int64_t n, const F* weights,
               Partial partial, const Positions& position, bool in_double) {
  if (in_double) {
    for (int64_t j = 0; j < n; ++j) {
      AddInDouble(x + j, stride, 0, rows, weights, partial, j, position);
    }
    return;
  }
  for (int64_t begin = 0; begin < rows; begin += kBlockRows) {
    const int64_t end = Min(begin + kBlockRows, rows);
    ForEachGroup<F, kVectorBytes < 64 ? 2 : 4>(n, [&](auto group, int64_t j) {
      if (weights == nullptr) {  // Known to the compiler: nothing to ask for in the loop.
        AddGroup(group, x + j, stride, begin, end, static_cast<const F*>(nullptr), partial, j,
                 position);
      } else {
        AddGroup(group, x + j, stride, begin, end, weights, partial, j, position);
      }
    });
  }
}

// n contiguous values of one channel, with a weight each or none.
template <typename T, typename Positions, typename F = Compute<T>>
void AddPlane(const T* x, int64_t n, const F* weights, Partial partial, int64_t column,
              const Positions& position, bool in_double) {
  if (in_double) return AddInDouble(x, 1, 0, n, weights, partial, column, position);
  constexpr int kLanes = kVectorSize<F>;
  constexpr int64_t kBlock = kLanes * kBlockRows;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t size = Min(kBlock, n - begin), whole = size / kLanes * kLanes;
    const T* block = x + begin;
    const F* w = weights == nullptr ? nullptr : weights + begin;
    int64_t first = 0;
    while (w != nullptr && first < size && !(w[first] > 0)) ++first;
    if (first == size) continue;
    const F shift = Load(block + first);
    Running<F, kLanes> lanes;
    double count = static_cast<double>(size);
    for (int64_t i = 0; i < whole; i += kLanes) {
      const Vector<Step<F>> step = Vector<Step<F>>{} + static_cast<Step<F>>(i);
      Vector<F> value = LoadVector(block + i), difference = value - shift;
      if (w == nullptr) {
        lanes.Add(value, difference, step);
        continue;
      }
      const auto is_counted = LoadVector(w + i) > 0;
      difference = is_counted ? difference : Vector<F>{};
      lanes.sum += difference;
      const auto is_low = is_counted & (value < lanes.low);
      const auto is_high = is_counted & (value > lanes.high);
      lanes.low_at = is_low ? step : lanes.low_at;
      lanes.low = is_low ? value : lanes.low;
      lanes.high_at = is_high ? step : lanes.high_at;
      lanes.high = is_high ? value : lanes.high;
    }
    for (int64_t i = 0; w != nullptr && i < size; ++i) count -= w[i] > 0 ? 0.0 : 1.0;
    Running<F, 1> rest;
    for (int64_t i = whole; i < size; ++i) {
      if (w != nullptr && !(w[i] > 0)) continue;
      const F value = Load(block + i);
      rest.Add(value, value - shift, static_cast<Step<F>>(i));
    }
    F low[kLanes], high[kLanes], sums[kLanes];
    Step<F> low_at[kLanes], high_at[kLanes];
    Unpack(lanes.low, low);
    Unpack(lanes.high, high);
    Unpack(lanes.sum, sums);
    Unpack(lanes.low_at, low_at);
    Unpack(lanes.high_at, high_at);
    double sum = static_cast<double>(rest.sum);
    for (int i = 0; i < kLanes; ++i) {
      sum += static_cast<double>(sums[i]);
      low_at[i] += i;
      high_at[i] += i;
      const bool is_lower = low[i] < rest.low || (low[i] == rest.low && low_at[i] < rest.low_at);
      rest.low_at = is_lower ? low_at[i] : rest.low_at;
      rest.low = is_lower ? low[i] : rest.low;
      const bool is_higher =
          high[i] > rest.high || (high[i] == rest.high && high_at[i] < rest.high_at);
      rest.high_at = is_higher ? high_at[i] : rest.high_at;
      rest.high = is_higher ? high[i] : rest.high;
    }
    partial.Add(column, count, shift, sum, {rest.low, position(column, begin + rest.low_at)},
                {rest.high, position(column, begin + rest.high_at)});
  }
}

template <typename T, typename F = Compute<T>>
void AddUnit(const ExtremesArguments& arguments, const ChunkPlan& plan, const Unit& unit,
             Partial partial, bool in_double) {
  const T* x = static_cast<const T*>(arguments.x);
  const F* weights = static_cast<const F*>(arguments.weights);
  const ChannelLayout& layout = arguments.layout;
  const int64_t first = plan.layout.first_row(unit.segment);
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
  const int64_t begin = first + unit.first_row, end = begin + unit.rows;
  for (int64_t from = begin; from < end;) {
    const int64_t in_row = from % layout.inner;
    const int64_t size = Min(end - from, layout.inner - in_row);
    const auto position = [from](int64_t, int64_t i) { return static_cast<double>(from + i); };
    for (int64_t j = 0; j < unit.columns; ++j) {
      AddPlane<T>(x + PlaceOf(layout, from, unit.first_column + j), size,
                  weights == nullptr ? nullptr : weights + from, partial, j, position, in_double);
    }
    from += size;
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

// Rows of planes are not folded, and rows with weights cannot be.
Reduction<Partial, ChunkLayout> ReductionOf(const ExtremesArguments& arguments) {
  const bool may_fold = arguments.layout.inner == 1 && arguments.weights == nullptr;
  return {ChunkLayout(arguments.layout, arguments.chunks), !may_fold};
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
