// Moments on the CPU. A unit of work (plan.h) sums its values in blocks: within a block in the
// compute type around a shift that is a value of the block (the one of largest weight), or the mean
// of some; so what cancels is at most the length of the block times the variance. Blocks are then moved to one shift
// per unit and channel, and units to one per channel, in float64 and in a fixed order.

#include "../moments.h"

#include "plan.h"

namespace keras_norms {
namespace KERAS_NORMS_LEVEL {
namespace {

// Sums around `shift`, one entry a column: sum w, sum w (x - shift), sum w (x - shift)^2.
struct Partial {
  double *count, *shift, *sum, *square;

  Partial(double* memory, int64_t columns)
      : count(memory), shift(count + columns), sum(shift + columns), square(sum + columns) {}

  static constexpr int kVectors = 4;

  void Clear(int64_t columns) {
    for (int64_t j = 0; j < kVectors * columns; ++j) count[j] = 0.0;
  }

  // Adds a block of column j: n values, with these sums around `block_shift`.
  void Add(int64_t j, double n, double block_shift, double block_sum, double block_square) {
    shift[j] = count[j] == 0.0 ? block_shift : shift[j];
    const double distance = block_shift - shift[j];
    count[j] += n;
    sum[j] += block_sum + n * distance;
    square[j] += block_square + distance * (2.0 * block_sum + n * distance);
  }
};

// Adds kRows rows of n columns around the shift; with weights, a row at a time.
template <int kRows, typename F>
void AddRows(const F* const* rows, int64_t n, F weight, const F* shift, F* sum, F* square) {
  const F *x0 = rows[0], *x1 = rows[kRows / 3], *x2 = rows[kRows / 2], *x3 = rows[kRows - 1];
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) {
    const F d0 = x0[j] - shift[j];
    if (kRows == 1) {
      sum[j] += weight * d0;
      square[j] += weight * d0 * d0;
    } else {
      const F d1 = x1[j] - shift[j], d2 = x2[j] - shift[j], d3 = x3[j] - shift[j];
      sum[j] += (d0 + d1) + (d2 + d3);
      square[j] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);
    }
  }
}

// Rows of n columns, `stride` elements apart, with one weight a row or none.
template <typename T, typename F = Compute<T>>
void AddMatrix(const T* x, int64_t stride, int64_t rows, int64_t n, const F* weights,
               Partial partial) {
  F shift[kTile], sum[kTile], square[kTile], buffer[4][kTile];
  for (int64_t begin = 0; begin < rows; begin += kBlockRows) {
    const int64_t end = Min(begin + kBlockRows, rows);
    int64_t heaviest = begin;
    for (int64_t row = begin; weights != nullptr && row < end; ++row) {
      if (weights[row] > weights[heaviest]) heaviest = row;
    }
    if (weights != nullptr && !(weights[heaviest] > 0)) continue;
    const F* near = Unpack(x + heaviest * stride, n, buffer[0]);
    for (int64_t j = 0; j < n; ++j) {
      shift[j] = near[j];
      sum[j] = square[j] = 0;
    }
    double count = 0.0;
    for (int64_t row = begin; row < end;) {
      const F* unpacked[4];
      if (weights == nullptr && row + 4 <= end) {
        for (int i = 0; i < 4; ++i) unpacked[i] = Unpack(x + (row + i) * stride, n, buffer[i]);
        AddRows<4>(unpacked, n, F{1}, shift, sum, square);
        count += 4.0;
        row += 4;
        continue;
      }
      const F weight = weights == nullptr ? F{1} : weights[row];
      if (weight > 0) {
        unpacked[0] = Unpack(x + row * stride, n, buffer[0]);
        AddRows<1>(unpacked, n, weight, shift, sum, square);
        count += static_cast<double>(weight);
      }
      ++row;
    }
    for (int64_t j = 0; j < n; ++j) partial.Add(j, count, shift[j], sum[j], square[j]);
  }
}

// The mean of the first values of a block, a shift near enough to all of them.
template <typename F>
F FirstMean(const F* values, int64_t n) {
  Lanes<F> sum;
  if (n >= Lanes<F>::kSize) {
    for (int k = 0; k < 2; ++k) sum.vectors[k] = LoadVector<F>(values + k * kVectorSize<F>);
    return static_cast<F>(sum.total() / Lanes<F>::kSize);
  }
  double total = 0.0;
  for (int64_t i = 0; i < n; ++i) total += static_cast<double>(values[i]);
  return static_cast<F>(total / static_cast<double>(n));
}

template <typename F>
F WeightedMean(const F* values, const F* weights, int64_t n, double* count) {
  double total = 0.0;
  *count = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    const double weight = static_cast<double>(weights[i]);
    total += weight > 0 ? weight * static_cast<double>(values[i]) : 0.0;
    *count += weight;
  }
  return static_cast<F>(*count == 0.0 ? 0.0 : total / *count);
}

// n contiguous values of one channel, with a weight each or none.
template <typename T, typename F = Compute<T>>
void AddPlane(const T* x, int64_t n, const F* weights, Partial partial, int64_t column) {
  constexpr int kStep = Lanes<F>::kSize;
  constexpr int64_t kBlock = kStep * kBlockRows;
  F buffer[kBlock], rest[kStep], rest_weights[kStep];
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t size = Min(kBlock, n - begin);
    const F* block = Unpack(x + begin, size, buffer);
    const F* w = weights == nullptr ? nullptr : weights + begin;
    double count = static_cast<double>(size);
    const F shift = w == nullptr ? FirstMean(block, size) : WeightedMean(block, w, size, &count);
    if (count == 0.0) continue;

    Lanes<F> sum, square;
    const auto add = [&](const F* values, const F* value_weights) {
      for (int k = 0; k < 2; ++k) {
        const Vector<F> d = LoadVector<F>(values + k * kVectorSize<F>) - shift;
        if (value_weights == nullptr) {
          sum.vectors[k] += d;
          square.vectors[k] += d * d;
        } else {
          const Vector<F> weight = LoadVector<F>(value_weights + k * kVectorSize<F>);
          const Vector<F> seen = weight > 0 ? d : Vector<F>{};
          sum.vectors[k] += weight * seen;
          square.vectors[k] += weight * seen * seen;
        }
      }
    };
    int64_t i = 0;
    for (; i + kStep <= size; i += kStep) add(block + i, w == nullptr ? nullptr : w + i);
    if (i < size) {  // What is missing of a whole step is filled with the shift, which adds 0.
      for (int j = 0; j < kStep; ++j) rest[j] = shift;
      for (int j = 0; j < kStep; ++j) rest_weights[j] = 0;
      memcpy(rest, block + i, (size - i) * sizeof(F));
      if (w != nullptr) memcpy(rest_weights, w + i, (size - i) * sizeof(F));
      add(rest, w == nullptr ? nullptr : rest_weights);
    }
    partial.Add(column, count, static_cast<double>(shift), sum.total(), square.total());
  }
}

template <typename T, typename F = Compute<T>>
void AddUnit(const MomentsArguments& arguments, const Plan& plan, const Unit& unit,
             Partial partial) {
  const T* x = static_cast<const T*>(arguments.x);
  const F* weights = static_cast<const F*>(arguments.weights);
  const auto weights_at = [&](int64_t row) {
    return weights == nullptr ? nullptr : weights + plan.weight_offset(unit, row);
  };
  if (plan.layout.inner == 1) {
    const T* first = x + plan.offset(unit, unit.first_row);
    AddMatrix<T, F>(first, plan.columns, unit.rows, unit.columns, weights_at(unit.first_row), partial);
    const T* tail = x + plan.offset(unit, unit.tail_row);
    if (unit.tail_columns > 0) AddMatrix<T, F>(tail, 0, 1, unit.tail_columns, nullptr, partial);
    return;
  }
  for (int64_t r = unit.first_row; r < unit.first_row + unit.rows; ++r) {
    for (int64_t j = 0; j < unit.columns; ++j) {
      AddPlane<T, F>(x + plan.offset(unit, r) + j * plan.layout.inner, unit.inner, weights_at(r),
                  partial, j);
    }
  }
}

// Brings the partial sums of all chunks of a segment and tile together.
void Finish(const MomentsArguments& arguments, const Plan& plan, const Unit& unit,
            double* partials) {
  const int64_t channels = plan.layout.channels;
  for (int64_t j = 0; j < unit.columns / plan.fold; ++j) {
    double memory[Partial::kVectors] = {};
    Partial total(memory, 1);
    for (int64_t chunk = 0; chunk < plan.chunks(); ++chunk) {
      const Partial partial(partials + chunk * Partial::kVectors * plan.columns +
                                Partial::kVectors * unit.first_column,
                            unit.columns);
      for (int64_t k = j; k < unit.columns; k += channels) {
        if (partial.count[k] == 0.0) continue;
        total.Add(0, partial.count[k], partial.shift[k], partial.sum[k], partial.square[k]);
        if (plan.fold == 1) break;
      }
    }
    const double n = *total.count, mean = n == 0.0 ? 0.0 : *total.sum / n;
    const double m2 = *total.square - mean * *total.sum;
    const int64_t channel = unit.first_column + j;
    arguments.mean[unit.segment * channels + channel] = *total.shift + mean;
    arguments.m2[unit.segment * channels + channel] = m2 < 0.0 ? 0.0 : m2;  // NaN stays.
    if (channel == 0) arguments.count[unit.segment] = n;
  }
}

// The counts where there is no channel to take them from.
template <typename F>
void CountWithoutChannels(const MomentsArguments& arguments) {
  const ChannelLayout& layout = arguments.layout;
  const F* weights = static_cast<const F*>(arguments.weights);
  for (int64_t segment = 0; segment < layout.segments; ++segment) {
    double count = 0.0;
    const int64_t end = layout.end_row(segment) * layout.inner;
    for (int64_t i = layout.first_row(segment) * layout.inner; i < end; ++i) {
      count += weights == nullptr ? 1.0 : static_cast<double>(weights[i]);
    }
    arguments.count[segment] = count;
  }
}

}  // namespace

int64_t MomentsScratchCpu(const MomentsArguments& arguments) {
  const Plan plan(arguments.layout, arguments.weights == nullptr);
  if (plan.chunks() == 1) return 0;
  return plan.layout.segments * plan.chunks() * plan.columns * Partial::kVectors * sizeof(double);
}

void MomentsCpu(const MomentsArguments& arguments, void* scratch, const ThreadPool& pool) {
  if (arguments.layout.channels == 0) {
    return arguments.dtype == DataType::kFloat64 ? CountWithoutChannels<double>(arguments)
                                                 : CountWithoutChannels<float>(arguments);
  }
  const Plan plan(arguments.layout, arguments.weights == nullptr);
  // Of one segment: chunk, tile, then the four vectors of its columns.
  const int64_t segment_size = plan.chunks() * plan.columns * Partial::kVectors;
  double* const shared = static_cast<double*>(scratch);
  plan.ForEachUnit(pool, [&](const Unit& unit) {
    double own[kTile * Partial::kVectors];
    const bool is_alone = plan.chunks() == 1;
    double* memory = own;
    if (!is_alone) {
      memory = shared + unit.segment * segment_size +
               (unit.chunk * plan.columns + unit.first_column) * Partial::kVectors;
    }
    Partial partial(memory, unit.columns);
    partial.Clear(unit.columns);
    Dispatch(arguments.dtype, [&](auto type) {
      AddUnit<decltype(type)>(arguments, plan, unit, partial);
    });
    if (is_alone) Finish(arguments, plan, unit, own - unit.first_column * Partial::kVectors);
  });
  if (plan.chunks() == 1) return;
  for (int64_t segment = 0; segment < plan.layout.segments; ++segment) {
    for (int64_t tile = 0; tile < plan.tiles; ++tile) {
      const Unit unit = plan.unit(segment * plan.chunks() * plan.tiles + tile);
      Finish(arguments, plan, unit, shared + segment * segment_size);
    }
  }
}

}  // namespace KERAS_NORMS_LEVEL
}  // namespace keras_norms
