// Sums on the CPU. A unit of work (plan.h) adds products in the compute type over blocks of 64
// rows, or of 64 steps of a plane, and blocks and units in float64 in a fixed order. Where y is
// asked for, it is written from the same registers.

#include "../sums.h"

#include "rectified.h"
#include "reduction.h"
#include "stores.h"

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

// What the gate of u is told from.
enum class GateOf { kNone, kV, kY };

// Which operands there are.
template <bool kHasU_, bool kHasV_, bool kWrites_, GateOf kGate_ = GateOf::kNone>
struct Form {
  static constexpr bool kHasU = kHasU_, kHasV = kHasV_, kWrites = kWrites_;
  static constexpr GateOf kGate = kGate_;
  static constexpr bool kHasVectors = kWrites || kGate == GateOf::kV;  // Scale and shift.
};

// The vectors of one unit; those that are absent are 0. Scale and shift are those of y or of the
// gate, which are not there together.
template <typename F>
struct Columns {
  F center[kMostColumns], scale[kMostColumns], shift[kMostColumns];
  RectifierOf<F> gate;

  Columns(const SumsArguments& arguments, const Plan& plan, const Unit& unit)
      : gate(arguments.gate.rectifier) {
    ForEachColumn(plan, unit, [&](int64_t j, int64_t channel) {
      const auto at = [&](const ChannelVector& vector) {
        return High<F>(vector.at(plan.layout, unit.segment, channel));
      };
      center[j] = at(arguments.center);
      if (arguments.gate.rectifier.is_given) {
        const double exact = arguments.center.at(plan.layout, unit.segment, channel);
        const double exact_scale = arguments.gate.scale.at(plan.layout, unit.segment, channel);
        const double exact_shift = arguments.gate.shift.at(plan.layout, unit.segment, channel);
        scale[j] = High<F>(exact_scale);
        shift[j] = High<F>(exact_shift - exact_scale * Low<F>(exact));
        return;
      }
      if (arguments.y == nullptr) return;
      scale[j] = at(arguments.scale);
      shift[j] = at(arguments.shift);
    });
  }
};

// Where a piece of an activation begins in u, v and y; null where absent.
template <typename T>
struct Activations {
  const T *u, *v, *gate;
  T* y;
  bool stream;  // Whether y may be written past the caches.

  Activations operator+(int64_t offset) const {
    return {u == nullptr ? u : u + offset, v == nullptr ? v : v + offset,
            gate == nullptr ? gate : gate + offset, y == nullptr ? y : y + offset, stream};
  }
};

// The formulas, the only copy on the CPU; N is a number or a vector of them. Adds to the sums and
// returns y. `gate` is where the gate of u is told from, if it is an activation.
template <typename Form, typename F, typename N, typename W>
inline N Add(N u, const N& gate, const N& difference, const W* weight, const N& scale,
             const N& shift, const RectifierOf<F>& rectifier, N& sum_u, N& sum_uv) {
  if (Form::kGate == GateOf::kV) u = rectifier.Gated(u, shift + scale * difference);
  if (Form::kGate == GateOf::kY) u = rectifier.Gated(u, gate);
  const N& own = Form::kHasU ? u : difference;
  const N value = weight == nullptr ? own : own * *weight;
  sum_u += value;
  if (Form::kHasV) sum_uv += value * difference;
  if (!Form::kWrites) return N{};
  if (Form::kGate == GateOf::kY) return u;
  return Form::kHasU ? scale * u : scale * difference + shift;
}

// Rows begin to end of a group of columns, `stride` elements apart. The memory of y may be that of
// u or v: a row of a group is read before it is written.
template <typename Form, typename Group, typename T, typename F = Compute<T>>
void AddGroup(Group, const Activations<T>& at, int64_t stride, int64_t begin, int64_t end,
              const F* weights, bool weighted, const Columns<F>& columns, Partial partial,
              int64_t column) {
  using V = typename Group::Type;
  V center[Group::kSize], scale[Group::kSize], shift[Group::kSize];
  V sum_u[Group::kSize] = {}, sum_uv[Group::kSize] = {};
  for (int k = 0; k < Group::kSize; ++k) {
    center[k] = Group::At(columns.center + column, k);
    scale[k] = Form::kHasVectors ? Group::At(columns.scale + column, k) : V{};
    shift[k] = Form::kHasVectors ? Group::At(columns.shift + column, k) : V{};
  }
  for (int64_t row = begin; row < end; ++row) {
    const int64_t offset = row * stride;
    const bool hides = weights != nullptr && !(weights[row] > 0);
    const F* weight = weighted ? weights + row : nullptr;
    for (int k = 0; k < Group::kSize; ++k) {
      const V u = Form::kHasU ? Group::At(at.u + offset, k) : V{};
      V difference = Form::kHasV ? Group::At(at.v + offset, k) - center[k] : V{};
      if (hides) difference = difference - difference == 0 ? difference : V{};
      const V gate = Form::kGate == GateOf::kY ? Group::At(at.gate + offset, k) : V{};
      const V y = Add<Form>(u, gate, difference, weight, scale[k], shift[k], columns.gate,
                            sum_u[k], sum_uv[k]);
      if (Form::kWrites) Group::Put(y, at.y + offset, k, at.stream);
    }
  }
  F sums_u[Group::kColumns], sums_uv[Group::kColumns];
  memcpy(sums_u, sum_u, sizeof sums_u);
  memcpy(sums_uv, sum_uv, sizeof sums_uv);
  for (int i = 0; i < Group::kColumns; ++i) {
    partial.u[column + i] += static_cast<double>(sums_u[i]);
    if (Form::kHasV) partial.uv[column + i] += static_cast<double>(sums_uv[i]);
  }
}

// Rows of n columns, with one weight a row or none.
template <typename Form, typename T, typename F = Compute<T>>
void AddMatrix(Activations<T> at, int64_t stride, int64_t rows, int64_t n, const F* weights,
               bool weighted, const Columns<F>& columns, Partial partial) {
  at.stream = at.stream && StartsLines(at.y, stride);
  for (int64_t begin = 0; begin < rows; begin += kBlockRows) {
    const int64_t end = Min(begin + kBlockRows, rows);
    ForEachGroup<F, Form::kHasVectors && kVectorBytes < 64 ? 2 : 4>(n, [&](auto group, int64_t j) {
      if (weights == nullptr) {  // Known to the compiler: nothing to ask for in the loop.
        AddGroup<Form>(group, at + j, stride, begin, end, static_cast<const F*>(nullptr), false,
                       columns, partial, j);
      } else {
        AddGroup<Form>(group, at + j, stride, begin, end, weights, weighted, columns, partial, j);
      }
    });
  }
}

// n contiguous values of one channel, with a weight each or none.
template <typename Form, typename T, typename F = Compute<T>>
void AddPlane(const Activations<T>& plane, int64_t n, const F* weights, bool weighted,
              const Columns<F>& columns, Partial partial, int64_t column) {
  constexpr int64_t kBlock = Lanes<F>::kSize * kBlockRows;
  const F center = columns.center[column];
  const F scale = Form::kHasVectors ? columns.scale[column] : F{};
  const F shift = Form::kHasVectors ? columns.shift[column] : F{};
  const bool stream = plane.stream && StartsLines(plane.y, 0);
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const Activations<T> block = plane + begin;
    const F* w = weights == nullptr ? nullptr : weights + begin;
    Lanes<F> sum_u, sum_uv;
    ForEachGroup<F, 2>(Min(kBlock, n - begin), [&](auto group, int64_t i) {
      using G = decltype(group);
      using N = typename G::Type;
      const Activations<T> at = block + i;
      for (int k = 0; k < G::kSize; ++k) {
        const N u = Form::kHasU ? G::At(at.u, k) : N{};
        N difference = Form::kHasV ? G::At(at.v, k) - center : N{};
        N weight = {};
        if (w != nullptr) {
          weight = G::At(w + i, k);
          const N finite = difference - difference == 0 ? difference : N{};
          difference = weight > 0 ? difference : finite;
        }
        const N gate = Form::kGate == GateOf::kY ? G::At(at.gate, k) : N{};
        const N y = Add<Form>(u, gate, difference, weighted ? &weight : nullptr, N{} + scale,
                              N{} + shift, columns.gate, sum_u.template part<N>(k),
                              sum_uv.template part<N>(k));
        if (Form::kWrites) G::Put(y, at.y, k, stream);
      }
    });
    partial.u[column] += sum_u.total();
    if (Form::kHasV) partial.uv[column] += sum_uv.total();
  }
}

template <typename T, typename Form, typename F = Compute<T>>
void AddUnit(Form, const SumsArguments& arguments, const Plan& plan, const Unit& unit,
             Partial partial) {
  Activations<T> all = {static_cast<const T*>(arguments.u), static_cast<const T*>(arguments.v),
                        static_cast<const T*>(arguments.gate.y), static_cast<T*>(arguments.y),
                        false};
  all.stream = Form::kWrites && IsStreamed<T>(all.y, all.u, all.v, plan.layout.whole_size());
  const F* weights = static_cast<const F*>(arguments.weights);
  const bool weighted = arguments.weighted && weights != nullptr;
  const auto weights_at = [&](int64_t row) {
    return weights == nullptr ? nullptr : weights + plan.weight_offset(unit, row);
  };
  const Columns<F> columns(arguments, plan, unit);
  if (plan.layout.inner == 1) {
    AddMatrix<Form, T, F>(all + plan.offset(unit, unit.first_row), plan.stride, unit.rows,
                          unit.columns, weights_at(unit.first_row), weighted, columns, partial);
    if (unit.tail_columns > 0) {
      AddMatrix<Form, T, F>(all + plan.offset(unit, unit.tail_row), 0, 1, unit.tail_columns,
                            nullptr, false, columns, partial);
    }
  } else {
    for (int64_t r = unit.first_row; r < unit.first_row + unit.rows; ++r) {
      for (int64_t j = 0; j < unit.columns; ++j) {
        const int64_t offset = plan.offset(unit, r) + j * plan.layout.inner;
        AddPlane<Form, T, F>(all + offset, unit.inner, weights_at(r), weighted, columns, partial,
                             j);
      }
    }
  }
  if (all.stream) FinishStreams();
}

// Calls function(form) with the form that the operands have.
template <typename Function>
void WithForm(const SumsArguments& arguments, const Function& function) {
  if (arguments.gate.rectifier.is_given) {
    return arguments.y == nullptr ? function(Form<true, true, false, GateOf::kV>())
                                  : function(Form<true, true, true, GateOf::kY>());
  }
  if (arguments.v == nullptr) return function(Form<true, false, false>());
  if (arguments.u == nullptr) {
    return arguments.y == nullptr ? function(Form<false, true, false>())
                                  : function(Form<false, true, true>());
  }
  return arguments.y == nullptr ? function(Form<true, true, false>())
                                : function(Form<true, true, true>());
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
      WithForm(arguments, [&](auto form) {
        AddUnit<decltype(type)>(form, arguments, plan, unit, partial);
      });
    });
  };
  const auto finish = [&](int64_t segment, int64_t channel, const Partial& total, int64_t j) {
    const int64_t i = segment * layout.channels + channel;
    const double center = arguments.center.at(layout, segment, channel);
    const bool is_exact = arguments.dtype == DataType::kFloat64 || arguments.u == nullptr;
    const double low = is_exact ? 0.0 : Low<float>(center);
    arguments.sum_u[i] = total.u[j];
    if (arguments.v != nullptr) arguments.sum_uv[i] = total.uv[j] - low * total.u[j];
  };
  Reduction<Partial>(layout, arguments.weights != nullptr).Run(scratch, pool, add, finish);
}

}  // namespace KERAS_NORMS_LEVEL
}  // namespace keras_norms
