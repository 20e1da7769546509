// Blend on the CPU: every value is read, computed and written once, in place where y is u or v.
// A unit of work (plan.h) first brings the vectors of its columns into the compute type.

#include "../blend.h"

#include "plan.h"
#include "rectified.h"
#include "stores.h"

namespace keras_norms {
namespace KERAS_NORMS_LEVEL {
namespace {

// Which operands there are, and what is done beside the sum. The gate of u is told from v.
template <bool kHasU_, bool kHasV_, bool kRectifies_ = false, bool kIsGated_ = false>
struct Form {
  static constexpr bool kHasU = kHasU_, kHasV = kHasV_;
  static constexpr bool kRectifies = kRectifies_, kIsGated = kIsGated_;
};

// The vectors of one unit; those that are absent are 0, and `a` is 1.
template <typename F>
struct Columns {
  F a[kMostColumns], b[kMostColumns], c[kMostColumns], center[kMostColumns];
  F gate_scale[kMostColumns], gate_shift[kMostColumns];
  RectifierOf<F> rectifier, gate;

  Columns(const BlendArguments& arguments, const Plan& plan, const Unit& unit)
      : rectifier(arguments.rectifier), gate(arguments.gate.rectifier) {
    const bool has_a = arguments.a.data != nullptr;
    const bool is_gated = arguments.gate.rectifier.is_given;
    ForEachColumn(plan, unit, [&](int64_t j, int64_t channel) {
      const auto at = [&](const ChannelVector& vector) {
        return vector.at(plan.layout, unit.segment, channel);
      };
      const double exact = at(arguments.center);
      a[j] = has_a ? static_cast<F>(at(arguments.a)) : F{1};
      b[j] = static_cast<F>(at(arguments.b));
      c[j] = static_cast<F>(at(arguments.c) - at(arguments.b) * Low<F>(exact));
      center[j] = High<F>(exact);
      if (!is_gated) return;
      const double scale = at(arguments.gate.scale);
      gate_scale[j] = static_cast<F>(scale);
      gate_shift[j] = static_cast<F>(at(arguments.gate.shift) - scale * Low<F>(exact));
    });
  }
};

// The vectors of a group of columns in registers.
template <typename Group>
struct Registers {
  typename Group::Type a, b, c, center, gate_scale, gate_shift;
};

template <typename Form, typename Group, typename F>
Registers<Group> RegistersOf(Group, const Columns<F>& columns, int64_t j, int k) {
  using N = typename Group::Type;
  return {Group::At(columns.a + j, k),
          Group::At(columns.b + j, k),
          Group::At(columns.c + j, k),
          Group::At(columns.center + j, k),
          Form::kIsGated ? Group::At(columns.gate_scale + j, k) : N{},
          Form::kIsGated ? Group::At(columns.gate_shift + j, k) : N{}};
}

// The formula, the only copy on the CPU. `weight` weighs, `hides` says where a v that is not
// finite is read as the centre.
template <typename Form, typename F, typename Group, typename N, typename W, typename Hides>
inline N Blended(N u, const N& v, const Registers<Group>& at, const Columns<F>& columns,
                 const W& weight, const Hides& hides) {
  N term = at.c;
  if (Form::kHasV) {
    const N difference = hides(v - at.center);
    term += at.b * difference;
    if (Form::kIsGated) u = columns.gate.Gated(u, at.gate_shift + at.gate_scale * difference);
  }
  term *= weight;
  if (Form::kHasU) term = at.a * u + term;
  return Form::kRectifies ? columns.rectifier.Rectified(term) : term;
}

template <typename N>
inline N FiniteOrZero(const N& difference) {
  return difference - difference == 0 ? difference : N{};
}

// Rows of a group of columns, `stride` elements apart. The memory of y may be that of u or v: a row
// of a group is read before it is written.
template <typename Form, typename Group, typename T, typename F = Compute<T>>
void BlendGroup(Group group, const T* u, const T* v, int64_t stride, int64_t rows,
                const Columns<F>& columns, int64_t column, T* y, bool stream) {
  using V = typename Group::Type;
  Registers<Group> registers[Group::kSize];
  for (int k = 0; k < Group::kSize; ++k) {
    registers[k] = RegistersOf<Form>(group, columns, column, k);
  }
  const auto keep = [](const V& difference) { return difference; };
  for (int64_t row = 0; row < rows; ++row) {
    for (int k = 0; k < Group::kSize; ++k) {
      const V us = Form::kHasU ? Group::At(u + row * stride, k) : V{};
      const V vs = Form::kHasV ? Group::At(v + row * stride, k) : V{};
      Group::Put(Blended<Form>(us, vs, registers[k], columns, F{1}, keep), y + row * stride, k,
                 stream);
    }
  }
}

// One row of n columns.
template <typename Form, typename T, typename F = Compute<T>>
void BlendRow(const T* u, const T* v, int64_t n, F weight, bool hides, const Columns<F>& columns,
              T* y, bool stream) {
  const auto blend = [&](auto group, int64_t j, const auto& hide) {
    using G = decltype(group);
    using V = typename G::Type;
    const V us = Form::kHasU ? G::At(u + j, 0) : V{}, vs = Form::kHasV ? G::At(v + j, 0) : V{};
    const Registers<G> registers = RegistersOf<Form>(group, columns, j, 0);
    G::Put(Blended<Form>(us, vs, registers, columns, weight, hide), y + j, 0, stream);
  };
  if (hides) {
    ForEachGroup<F, 1>(n, [&](auto group, int64_t j) {
      blend(group, j, [](const auto& difference) { return FiniteOrZero(difference); });
    });
  } else {
    ForEachGroup<F, 1>(n, [&](auto group, int64_t j) {
      blend(group, j, [](const auto& difference) { return difference; });
    });
  }
}

// Rows of n columns. A few columns stay in registers from row to row; wide rows are written one
// after the other, since memory wants to be written from front to back.
template <typename Form, typename T, typename F = Compute<T>>
void BlendMatrix(const T* u, const T* v, int64_t stride, int64_t rows, int64_t n, const F* weights,
                 bool weighted, const Columns<F>& columns, T* y, bool may_stream) {
  const bool stream = may_stream && StartsLines(y, stride);
  // As many columns as the registers have room for, with four vectors each, or six.
  constexpr int kWide = kVectorBytes == 64 ? (Form::kIsGated ? 3 : 4) : (Form::kIsGated ? 1 : 2);
  if (weights == nullptr && n <= (kVectorBytes == 64 ? 4 : 2) * kVectorSize<F>) {
    ForEachGroup<F, kWide>(n, [&](auto group, int64_t j) {
      BlendGroup<Form>(group, Form::kHasU ? u + j : nullptr, Form::kHasV ? v + j : nullptr, stride,
                       rows, columns, j, y + j, stream);
    });
    return;
  }
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t offset = row * stride;
    const bool hides = weights != nullptr && !(weights[row] > 0);
    BlendRow<Form>(Form::kHasU ? u + offset : nullptr, Form::kHasV ? v + offset : nullptr, n,
                   weighted ? weights[row] : F{1}, hides, columns, y + offset, stream);
  }
}

// n contiguous values of one channel, with a weight each or none.
template <typename Form, typename T, typename F = Compute<T>>
void BlendPlane(const T* u, const T* v, int64_t n, const F* weights, bool weighted,
                const Columns<F>& columns, int64_t column, T* y, bool may_stream) {
  const bool stream = may_stream && StartsLines(y, 0);
  const auto one = RegistersOf<Form>(Group<F, 1, 1>(), columns, column, 0);
  ForEachGroup<F, 1>(n, [&](auto group, int64_t i) {
    using G = decltype(group);
    using V = typename G::Type;
    const V us = Form::kHasU ? G::At(u + i, 0) : V{}, vs = Form::kHasV ? G::At(v + i, 0) : V{};
    const Registers<G> registers = {V{} + one.a,      V{} + one.b,          V{} + one.c,
                                    V{} + one.center, V{} + one.gate_scale, V{} + one.gate_shift};
    V weight = V{} + 1;
    if (weights == nullptr) {
      const auto keep = [](const V& difference) { return difference; };
      G::Put(Blended<Form>(us, vs, registers, columns, weight, keep), y + i, 0, stream);
      return;
    }
    const V own = G::At(weights + i, 0);
    if (weighted) weight = own;
    const auto hide = [&](const V& difference) {
      return own > 0 ? difference : FiniteOrZero(difference);
    };
    G::Put(Blended<Form>(us, vs, registers, columns, weight, hide), y + i, 0, stream);
  });
}

template <typename Form, typename T, typename F = Compute<T>>
void BlendUnit(const BlendArguments& arguments, const Plan& plan, const Unit& unit) {
  const T* u = static_cast<const T*>(arguments.u);
  const T* v = static_cast<const T*>(arguments.v);
  T* y = static_cast<T*>(arguments.y);
  const F* weights = static_cast<const F*>(arguments.weights);
  const bool weighted = arguments.weighted && weights != nullptr;
  const Columns<F> columns(arguments, plan, unit);
  const bool stream = IsStreamed<T>(y, u, v, plan.layout.whole_size());
  const auto weights_at = [&](int64_t row) {
    return weights == nullptr ? nullptr : weights + plan.weight_offset(unit, row);
  };
  const auto u_at = [&](int64_t offset) { return Form::kHasU ? u + offset : nullptr; };
  const auto v_at = [&](int64_t offset) { return Form::kHasV ? v + offset : nullptr; };
  if (plan.layout.inner == 1) {
    int64_t offset = plan.offset(unit, unit.first_row);
    BlendMatrix<Form, T, F>(u_at(offset), v_at(offset), plan.stride, unit.rows,
                                    unit.columns, weights_at(unit.first_row), weighted, columns,
                                    y + offset, stream);
    offset = plan.offset(unit, unit.tail_row);
    if (unit.tail_columns > 0) {
      BlendMatrix<Form, T, F>(u_at(offset), v_at(offset), 0, 1, unit.tail_columns, nullptr,
                                      false, columns, y + offset, stream);
    }
  } else {
    for (int64_t r = unit.first_row; r < unit.first_row + unit.rows; ++r) {
      for (int64_t j = 0; j < unit.columns; ++j) {
        const int64_t offset = plan.offset(unit, r) + j * plan.layout.inner;
        BlendPlane<Form, T, F>(u_at(offset), v_at(offset), unit.inner, weights_at(r),
                                       weighted, columns, j, y + offset, stream);
      }
    }
  }
  if (stream) FinishStreams();
}

// Calls function(form) with the form that the operands have.
template <typename Function>
void WithForm(const BlendArguments& arguments, const Function& function) {
  const bool has_u = arguments.u != nullptr, has_v = arguments.v != nullptr;
  if (arguments.gate.rectifier.is_given) return function(Form<true, true, false, true>());
  if (arguments.rectifier.is_given) {
    return has_u && has_v ? function(Form<true, true, true>())
           : has_u        ? function(Form<true, false, true>())
                          : function(Form<false, true, true>());
  }
  return has_u && has_v ? function(Form<true, true>())
         : has_u        ? function(Form<true, false>())
                        : function(Form<false, true>());
}

}  // namespace

int64_t BlendScratchCpu(const BlendArguments&) { return 0; }

void BlendCpu(const BlendArguments& arguments, void*, const ThreadPool& pool) {
  if (arguments.layout.size() == 0) return;
  const Plan plan(arguments.layout, arguments.weights == nullptr, kMostColumns);
  const auto blend = [&](auto form) {
    const auto blend_unit = [&](const Unit& unit) {
      Dispatch(arguments.dtype, [&](auto type) {
        BlendUnit<decltype(form), decltype(type)>(arguments, plan, unit);
      });
    };
    plan.ForEachUnit(pool, blend_unit, arguments.backwards);
  };
  WithForm(arguments, blend);
}

}  // namespace KERAS_NORMS_LEVEL
}  // namespace keras_norms
