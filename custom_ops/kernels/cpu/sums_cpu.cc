// Sums on the CPU. A unit of work (plan.h) adds products in the compute type over blocks of 64
// rows, or of 64 steps of a plane, and blocks and units in float64 in a fixed order.

#include "../sums.h"

#include "reduction.h"

namespace keras_norms {
namespace KERAS_NORMS_LEVEL {
namespace {

// sum w u, and sum w u (v - high part of the centre).
struct Partial {
  static constexpr int kVectors = 2;
  double *memory, *u, *uv;

  Partial(double* memory, int64_t columns) : memory(memory), u(memory), uv(memory + columns) {}

  void Merge(int64_t columns, const Partial& other) {
    for (int64_t j = 0; j < kVectors * columns; ++j) memory[j] += other.memory[j];
  }
  void MergeColumn(int64_t j, int64_t k) {
    u[j] += u[k];
    uv[j] += uv[k];
  }
};

// Rows begin to end of a group of columns, `stride` elements apart.
template <bool kHasV, typename Group, typename T, typename F = Compute<T>>
void AddGroup(Group, const T* u, const T* v, int64_t stride, int64_t begin, int64_t end,
              const F* weights, bool weighted, const F* centers, Partial partial, int64_t column) {
  using V = typename Group::Type;
  V center[Group::kSize], sum_u[Group::kSize] = {}, sum_uv[Group::kSize] = {};
  for (int k = 0; k < Group::kSize; ++k) center[k] = Group::At(centers, k);
  for (int64_t row = begin; row < end; ++row) {
    const bool hides = weights != nullptr && !(weights[row] > 0);
    for (int k = 0; k < Group::kSize; ++k) {
      V value = Group::At(u + row * stride, k);
      if (weighted) value *= weights[row];
      sum_u[k] += value;
      if (!kHasV) continue;
      V difference = Group::At(v + row * stride, k) - center[k];
      if (hides) difference = difference - difference == 0 ? difference : V{};
      sum_uv[k] += value * difference;
    }
  }
  F sums_u[Group::kColumns], sums_uv[Group::kColumns];
  memcpy(sums_u, sum_u, sizeof sums_u);
  memcpy(sums_uv, sum_uv, sizeof sums_uv);
  for (int i = 0; i < Group::kColumns; ++i) {
    partial.u[column + i] += static_cast<double>(sums_u[i]);
    if (kHasV) partial.uv[column + i] += static_cast<double>(sums_uv[i]);
  }
}

// Rows of n columns, with one weight a row or none.
template <typename T, bool kHasV, typename F = Compute<T>>
void AddMatrix(const T* u, const T* v, int64_t stride, int64_t rows, int64_t n, const F* weights,
               bool weighted, const F* center, Partial partial) {
  for (int64_t begin = 0; begin < rows; begin += kBlockRows) {
    const int64_t end = Min(begin + kBlockRows, rows);
    ForEachGroup<F, 4>(n, [&](auto group, int64_t j) {
      const T* v_there = kHasV ? v + j : nullptr;
      if (weights == nullptr) {  // Known to the compiler: nothing to ask for in the loop.
        AddGroup<kHasV>(group, u + j, v_there, stride, begin, end, static_cast<const F*>(nullptr),
                        false, center + j, partial, j);
      } else {
        AddGroup<kHasV>(group, u + j, v_there, stride, begin, end, weights, weighted, center + j,
                        partial, j);
      }
    });
  }
}

// n contiguous values of one channel.
template <typename T, bool kHasV, typename F = Compute<T>>
void AddPlane(const T* u, const T* v, int64_t n, const F* weights, bool weighted, F center,
              Partial partial, int64_t column) {
  constexpr int kStep = Lanes<F>::kSize;
  constexpr int64_t kBlock = kStep * kBlockRows;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t size = Min(kBlock, n - begin);
    const T* block_u = u + begin;
    const T* block_v = kHasV ? v + begin : nullptr;
    const F* w = weights == nullptr ? nullptr : weights + begin;
    Lanes<F> sum_u, sum_uv;
    const auto add = [&](const auto* us, const auto* vs, const F* ws) {
      for (int k = 0; k < 2; ++k) {
        const int at = k * kVectorSize<F>;
        Vector<F> value = LoadVector(us + at), difference = {};
        if (kHasV) difference = LoadVector(vs + at) - center;
        if (ws != nullptr) {
          const Vector<F> weight = LoadVector(ws + at);
          const Vector<F> finite = difference - difference == 0 ? difference : Vector<F>{};
          if (weighted) value *= weight;
          difference = weight > 0 ? difference : finite;
        }
        sum_u.vectors[k] += value;
        if (kHasV) sum_uv.vectors[k] += value * difference;
      }
    };
    int64_t i = 0;
    for (; i + kStep <= size; i += kStep) {
      add(block_u + i, kHasV ? block_v + i : nullptr, w == nullptr ? nullptr : w + i);
    }
    if (i < size) {  // What is missing of a whole step is filled with what adds 0.
      F rest_u[kStep] = {}, rest_v[kStep], rest_weights[kStep] = {};
      for (int j = 0; j < kStep; ++j) rest_v[j] = center;
      for (int j = 0; i + j < size; ++j) rest_u[j] = Load(block_u + i + j);
      for (int j = 0; kHasV && i + j < size; ++j) rest_v[j] = Load(block_v + i + j);
      if (w != nullptr) memcpy(rest_weights, w + i, (size - i) * sizeof(F));
      add(rest_u, rest_v, w == nullptr ? nullptr : rest_weights);
    }
    partial.u[column] += sum_u.total();
    if (kHasV) partial.uv[column] += sum_uv.total();
  }
}

template <typename T, bool kHasV, typename F = Compute<T>>
void AddUnit(const SumsArguments& arguments, const Plan& plan, const Unit& unit, Partial partial) {
  const T* u = static_cast<const T*>(arguments.u);
  const T* v = static_cast<const T*>(arguments.v);
  const F* weights = static_cast<const F*>(arguments.weights);
  const bool weighted = arguments.weighted && weights != nullptr;
  const auto weights_at = [&](int64_t row) {
    return weights == nullptr ? nullptr : weights + plan.weight_offset(unit, row);
  };
  const auto v_at = [&](int64_t offset) { return kHasV ? v + offset : nullptr; };
  F center[kMostColumns];
  ForEachColumn(plan, unit, [&](int64_t j, int64_t channel) {
    center[j] = High<F>(arguments.center.at(plan.layout, unit.segment, channel));
  });
  if (plan.layout.inner == 1) {
    int64_t offset = plan.offset(unit, unit.first_row);
    AddMatrix<T, kHasV, F>(u + offset, v_at(offset), plan.columns, unit.rows, unit.columns,
                        weights_at(unit.first_row), weighted, center, partial);
    offset = plan.offset(unit, unit.tail_row);
    if (unit.tail_columns > 0) {
      AddMatrix<T, kHasV, F>(u + offset, v_at(offset), 0, 1, unit.tail_columns, nullptr, false,
                             center, partial);
    }
    return;
  }
  for (int64_t r = unit.first_row; r < unit.first_row + unit.rows; ++r) {
    for (int64_t j = 0; j < unit.columns; ++j) {
      const int64_t offset = plan.offset(unit, r) + j * plan.layout.inner;
      AddPlane<T, kHasV, F>(u + offset, v_at(offset), unit.inner, weights_at(r), weighted,
                            center[j], partial, j);
    }
  }
}

}  // namespace

int64_t SumsScratchCpu(const SumsArguments& arguments) {
  return Reduction<Partial>(arguments.layout, arguments.weights != nullptr).scratch_bytes();
}

void SumsCpu(const SumsArguments& arguments, void* scratch, const ThreadPool& pool) {
  const ChannelLayout& layout = arguments.layout;
  if (layout.channels == 0) return;
  const auto add = [&](const Plan& plan, const Unit& unit, Partial& partial) {
    Dispatch(arguments.dtype, [&](auto type) {
      using T = decltype(type);
      if (arguments.v == nullptr) {
        AddUnit<T, false>(arguments, plan, unit, partial);
      } else {
        AddUnit<T, true>(arguments, plan, unit, partial);
      }
    });
  };
  const auto finish = [&](int64_t segment, int64_t channel, const Partial& total, int64_t j) {
    const int64_t i = segment * layout.channels + channel;
    const double center = arguments.center.at(layout, segment, channel);
    const double low = arguments.dtype == DataType::kFloat64 ? 0.0 : Low<float>(center);
    arguments.sum_u[i] = total.u[j];
    if (arguments.v != nullptr) arguments.sum_uv[i] = total.uv[j] - low * total.u[j];
  };
  Reduction<Partial>(layout, arguments.weights != nullptr).Run(scratch, pool, add, finish);
}

}  // namespace KERAS_NORMS_LEVEL
}  // namespace keras_norms
