// Moments on the CPU. A unit of work (plan.h) sums its values in blocks: within a block in the
// compute type around a shift that is a value of the block (the one of largest weight), or the mean
// of some; so what cancels is at most the length of the block times the variance. Blocks are then
// moved to one shift per unit and channel, and units to one per channel, in float64 and in a fixed
// order. A unit whose sums overflow in float is computed again in double.

#include "../moments.h"

#include "reduction.h"

namespace keras_norms {
namespace KERAS_NORMS_LEVEL {
namespace {

// Sums around `shift`: sum w, sum w (x - shift), sum w (x - shift)^2.
struct Partial {
  static constexpr int kVectors = 4;
  double *memory, *count, *shift, *sum, *square;

  Partial(double* memory, int64_t columns)
      : memory(memory),
        count(memory),
        shift(count + columns),
        sum(shift + columns),
        square(sum + columns) {}

  // Adds to column j n values with sums around a shift of their own.
  void Add(int64_t j, double n, double other_shift, double other_sum, double other_square) {
    shift[j] = count[j] == 0.0 ? other_shift : shift[j];
    const double distance = other_shift - shift[j];
    const double more = other_sum + n * distance;
    count[j] += n;
    sum[j] += more;
    square[j] += other_square + distance * (other_sum + more);
  }
  void Merge(int64_t columns, const Partial& other) {
    for (int64_t j = 0; j < columns; ++j) {
      Add(j, other.count[j], other.shift[j], other.sum[j], other.square[j]);
    }
  }
  void MergeColumn(int64_t j, int64_t k) { Add(j, count[k], shift[k], sum[k], square[k]); }
};

// The row of the block with the largest weight; the first without weights.
template <typename F>
int64_t Heaviest(const F* weights, int64_t begin, int64_t end) {
  int64_t heaviest = begin;
  for (int64_t row = begin; weights != nullptr && row < end; ++row) {
    if (weights[row] > weights[heaviest]) heaviest = row;
  }
  return heaviest;
}

// Weights this small are computed in double: times a square they may be less than float can hold.
constexpr double kSmallWeight = 1e-10;

// Values begin to end, `stride` elements apart, in double: for where float overflows.
template <typename T, typename F>
[[gnu::noinline]] void AddInDouble(const T* x, int64_t stride, int64_t begin, int64_t end,
                                   const F* weights, Partial partial, int64_t column) {
  for (int64_t i = begin; i < end; ++i) {
    const double weight = weights == nullptr ? 1.0 : static_cast<double>(weights[i]);
    if (weight > 0) partial.Add(column, weight, static_cast<double>(Load(x + i * stride)), 0, 0);
  }
}

// Rows begin to end of a group of columns, `stride` elements apart, around one of these rows.
template <typename Group, typename T, typename F = Compute<T>>
void AddGroup(Group, const T* x, int64_t stride, int64_t begin, int64_t end, const F* weights,
              int64_t heaviest, Partial partial, int64_t column) {
  using V = typename Group::Type;
  V shift[Group::kSize], sum[Group::kSize] = {}, square[Group::kSize] = {};
  for (int k = 0; k < Group::kSize; ++k) shift[k] = Group::At(x + heaviest * stride, k);
  double count = static_cast<double>(end - begin);
  if (weights == nullptr) {
    for (int64_t row = begin; row < end; ++row) {
      for (int k = 0; k < Group::kSize; ++k) {
        const V d = Group::At(x + row * stride, k) - shift[k];
        sum[k] += d;
        square[k] += d * d;
      }
    }
  } else {
    count = 0.0;
    for (int64_t row = begin; row < end; ++row) {
      const F weight = weights[row];
      if (!(weight > 0)) continue;
      count += static_cast<double>(weight);
      for (int k = 0; k < Group::kSize; ++k) {
        const V d = Group::At(x + row * stride, k) - shift[k];
        sum[k] += weight * d;
        square[k] += weight * d * d;
      }
    }
  }
  F shifts[Group::kColumns], sums[Group::kColumns], squares[Group::kColumns];
  memcpy(shifts, shift, sizeof shifts);
  memcpy(sums, sum, sizeof sums);
  memcpy(squares, square, sizeof squares);
  for (int i = 0; i < Group::kColumns; ++i) {
    partial.Add(column + i, count, shifts[i], sums[i], squares[i]);
  }
}

// Rows of n columns, with one weight a row or none.
template <typename T, typename F = Compute<T>>
void AddMatrix(const T* x, int64_t stride, int64_t rows, int64_t n, const F* weights,
               Partial partial, bool in_double) {
  for (int64_t begin = 0; begin < rows; begin += kBlockRows) {
    const int64_t end = Min(begin + kBlockRows, rows);
    const int64_t heaviest = Heaviest(weights, begin, end);
    if (weights != nullptr && !(weights[heaviest] > 0)) continue;
    const double most = weights == nullptr ? 1.0 : static_cast<double>(weights[heaviest]);
    if (in_double || most < kSmallWeight) {
      for (int64_t j = 0; j < n; ++j) AddInDouble(x + j, stride, begin, end, weights, partial, j);
      continue;
    }
    ForEachGroup<F, 4>(n, [&](auto group, int64_t j) {
      AddGroup(group, x + j, stride, begin, end, weights, heaviest, partial, j);
    });
  }
}

// The mean of the first values of a block, a shift near enough to all of them.
template <typename T, typename F = Compute<T>>
F FirstMean(const T* values, int64_t n) {
  if (n >= Lanes<F>::kSize) {
    Lanes<F> sum;
    for (int k = 0; k < 2; ++k) sum.vectors[k] = LoadVector(values + k * kVectorSize<F>);
    return static_cast<F>(sum.total() / Lanes<F>::kSize);
  }
  double total = 0.0;
  for (int64_t i = 0; i < n; ++i) total += static_cast<double>(Load(values + i));
  return static_cast<F>(total / static_cast<double>(n));
}

template <typename T, typename F>
F WeightedMean(const T* values, const F* weights, int64_t n, double* count) {
  double total = 0.0;
  *count = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    const double weight = static_cast<double>(weights[i]);
    if (!(weight > 0)) continue;
    total += weight * static_cast<double>(Load(values + i));
    *count += weight;
  }
  return static_cast<F>(*count == 0.0 ? 0.0 : total / *count);
}

// n contiguous values of one channel, with a weight each or none.
template <typename T, typename F = Compute<T>>
void AddPlane(const T* x, int64_t n, const F* weights, Partial partial, int64_t column,
              bool in_double) {
  constexpr int64_t kBlock = Lanes<F>::kSize * kBlockRows;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t size = Min(kBlock, n - begin);
    const T* block = x + begin;
    const F* w = weights == nullptr ? nullptr : weights + begin;
    double count = static_cast<double>(size);
    const F shift = w == nullptr ? FirstMean(block, size) : WeightedMean(block, w, size, &count);
    if (count == 0.0) continue;
    if (in_double || count < kSmallWeight * static_cast<double>(size)) {
      AddInDouble(block, 1, 0, size, w, partial, column);
      continue;
    }

    Lanes<F> sum, square;
    ForEachGroup<F, 2>(size, [&](auto group, int64_t i) {
      using G = decltype(group);
      using N = typename G::Type;
      for (int k = 0; k < G::kSize; ++k) {
        N d = G::At(block + i, k) - shift;
        if (w == nullptr) {
          sum.template part<N>(k) += d;
          square.template part<N>(k) += d * d;
        } else {
          const N weight = G::At(w + i, k);
          d = weight > 0 ? d : N{};
          sum.template part<N>(k) += weight * d;
          square.template part<N>(k) += weight * d * d;
        }
      }
    });
    partial.Add(column, count, static_cast<double>(shift), sum.total(), square.total());
  }
}

template <typename T, typename F = Compute<T>>
void AddUnit(const MomentsArguments& arguments, const Plan& plan, const Unit& unit,
             Partial partial, bool in_double) {
  const T* x = static_cast<const T*>(arguments.x);
  const F* weights = static_cast<const F*>(arguments.weights);
  const auto weights_at = [&](int64_t row) {
    return weights == nullptr ? nullptr : weights + plan.weight_offset(unit, row);
  };
  if (plan.layout.inner == 1) {
    const T* first = x + plan.offset(unit, unit.first_row);
    AddMatrix<T, F>(first, plan.stride, unit.rows, unit.columns, weights_at(unit.first_row),
                    partial, in_double);
    const T* tail = x + plan.offset(unit, unit.tail_row);
    if (unit.tail_columns > 0) {
      AddMatrix<T, F>(tail, 0, 1, unit.tail_columns, nullptr, partial, in_double);
    }
    return;
  }
  for (int64_t r = unit.first_row; r < unit.first_row + unit.rows; ++r) {
    for (int64_t j = 0; j < unit.columns; ++j) {
      AddPlane<T, F>(x + plan.offset(unit, r) + j * plan.layout.inner, unit.inner, weights_at(r),
                     partial, j, in_double);
    }
  }
}

// Whether all sums of squares are finite. Those of shifts and sums are then, too.
bool IsFinite(const Partial& partial, int64_t columns) {
  double zero = 0.0;  // Or NaN.
  for (int64_t j = 0; j < columns; ++j) zero += partial.square[j] - partial.square[j];
  return zero == 0.0;
}

// The counts where there is no channel to take them from.
template <typename F>
void CountWithoutChannels(const MomentsArguments& arguments) {
  const ChannelLayout& layout = arguments.layout;
  const F* weights = static_cast<const F*>(arguments.weights);
  for (int64_t segment = 0; segment < layout.segments; ++segment) {
    const int64_t first = layout.first_row(segment) * layout.inner;
    const int64_t end = layout.end_row(segment) * layout.inner;
    double count = weights == nullptr ? static_cast<double>(end - first) : 0.0;
    for (int64_t i = first; weights != nullptr && i < end; ++i) {
      const double weight = static_cast<double>(weights[i]);
      count += weight > 0 ? weight : 0.0;
    }
    arguments.count[segment] = count;
  }
}

}  // namespace

int64_t MomentsScratchCpu(const MomentsArguments& arguments) {
  return Reduction<Partial>(arguments.layout, arguments.weights != nullptr).scratch_bytes();
}

void MomentsCpu(const MomentsArguments& arguments, void* scratch, const ThreadPool& pool) {
  const int64_t channels = arguments.layout.channels;
  if (channels == 0) {
    return arguments.dtype == DataType::kFloat64 ? CountWithoutChannels<double>(arguments)
                                                 : CountWithoutChannels<float>(arguments);
  }
  const auto add = [&](const Plan& plan, const Unit& unit, Partial& partial) {
    Dispatch(arguments.dtype, [&](auto type) {
      AddUnit<decltype(type)>(arguments, plan, unit, partial, /*in_double=*/false);
      if (IsFinite(partial, unit.columns)) return;
      memset(partial.memory, 0, unit.columns * Partial::kVectors * sizeof(double));
      AddUnit<decltype(type)>(arguments, plan, unit, partial, /*in_double=*/true);
    });
  };
  const auto finish = [&](int64_t segment, int64_t channel, const Partial& total, int64_t j) {
    const double n = total.count[j], mean = n == 0.0 ? 0.0 : total.sum[j] / n;
    const double m2 = total.square[j] - mean * total.sum[j];
    arguments.mean[segment * channels + channel] = total.shift[j] + mean;
    arguments.m2[segment * channels + channel] = m2 < 0.0 ? 0.0 : m2;  // NaN stays.
    if (channel == 0) arguments.count[segment] = n;
  };
  Reduction<Partial>(arguments.layout, arguments.weights != nullptr)
      .Run(scratch, pool, add, finish);
}

}  // namespace KERAS_NORMS_LEVEL
}  // namespace keras_norms
