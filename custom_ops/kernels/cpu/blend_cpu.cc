// Blend on the CPU: every value is read, computed and written once, in place where y is u or v.
// A unit of work (plan.h) first brings the vectors of its columns into the compute type.

#include "../blend.h"

#include "plan.h"
#include "stores.h"

namespace keras_norms {
namespace KERAS_NORMS_LEVEL {
namespace {

// The vectors of one unit; those that are absent are 0.
template <typename F>
struct Columns {
  F a[kMostColumns], b[kMostColumns], c[kMostColumns], center[kMostColumns];

  Columns(const BlendArguments& arguments, const Plan& plan, const Unit& unit) {
    ForEachColumn(plan, unit, [&](int64_t j, int64_t channel) {
      const auto at = [&](const ChannelVector& vector) {
        return vector.at(plan.layout, unit.segment, channel);
      };
      const double exact = at(arguments.center);
      a[j] = static_cast<F>(at(arguments.a));
      b[j] = static_cast<F>(at(arguments.b));
      c[j] = static_cast<F>(at(arguments.c) - at(arguments.b) * Low<F>(exact));
      center[j] = High<F>(exact);
    });
  }
};

// The formula, the only copy on the CPU; N is a number or a vector of them. `weight` weighs,
// `hides` says where a v that is not finite is read as the centre.
template <bool kHasU, bool kHasV, typename N, typename W, typename Hides>
inline N Blended(const N& u, const N& v, const N& a, const N& b, const N& c, const N& center,
                 const W& weight, const Hides& hides) {
  N term = c;
  if (kHasV) term += b * hides(v - center);
  term *= weight;
  return kHasU ? a * u + term : term;
}

template <typename N>
inline N FiniteOrZero(const N& difference) {
  return difference - difference == 0 ? difference : N{};
}

// Rows of a group of columns, `stride` elements apart. The memory of y may be that of u or v: a row
// of a group is read before it is written.
template <bool kHasU, bool kHasV, typename Group, typename T, typename F = Compute<T>>
void BlendGroup(Group, const T* u, const T* v, int64_t stride, int64_t rows,
                const Columns<F>& columns, int64_t column, T* y, bool stream) {
  using V = typename Group::Type;
  V a[Group::kSize], b[Group::kSize], c[Group::kSize], center[Group::kSize];
  for (int k = 0; k < Group::kSize; ++k) {
    a[k] = Group::At(columns.a + column, k);
    b[k] = Group::At(columns.b + column, k);
    c[k] = Group::At(columns.c + column, k);
    center[k] = Group::At(columns.center + column, k);
  }
  const auto keep = [](const V& difference) { return difference; };
  for (int64_t row = 0; row < rows; ++row) {
    for (int k = 0; k < Group::kSize; ++k) {
      const V us = kHasU ? Group::At(u + row * stride, k) : V{};
      const V vs = kHasV ? Group::At(v + row * stride, k) : V{};
      Group::Put(
          Blended<kHasU, kHasV>(us, vs, a[k], b[k], c[k], center[k], F{1}, keep),
          y + row * stride, k, stream);
    }
  }
}

// One row of n columns.
template <bool kHasU, bool kHasV, typename T, typename F = Compute<T>>
void BlendRow(const T* u, const T* v, int64_t n, F weight, bool hides, const Columns<F>& columns,
              T* y, bool stream) {
  const auto blend = [&](auto group, int64_t j, const auto& hide) {
    using G = decltype(group);
    using V = typename G::Type;
    const V us = kHasU ? G::At(u + j, 0) : V{}, vs = kHasV ? G::At(v + j, 0) : V{};
    G::Put(Blended<kHasU, kHasV>(us, vs, G::At(columns.a + j, 0), G::At(columns.b + j, 0),
                                 G::At(columns.c + j, 0), G::At(columns.center + j, 0), weight,
                                 hide),
           y + j, 0, stream);
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
template <typename T, bool kHasU, bool kHasV, typename F = Compute<T>>
void BlendMatrix(const T* u, const T* v, int64_t stride, int64_t rows, int64_t n, const F* weights,
                 bool weighted, const Columns<F>& columns, T* y, bool may_stream) {
  const bool stream = may_stream && StartsLines(y, stride);
  // As many columns as the registers have room for, with four vectors each.
  constexpr int kWide = kVectorBytes == 64 ? 4 : 2;
  if (weights == nullptr && n <= kWide * kVectorSize<F>) {
    ForEachGroup<F, kWide>(n, [&](auto group, int64_t j) {
      BlendGroup<kHasU, kHasV>(group, kHasU ? u + j : nullptr, kHasV ? v + j : nullptr, stride,
                               rows, columns, j, y + j, stream);
    });
    return;
  }
  for (int64_t row = 0; row < rows; ++row) {
    const int64_t offset = row * stride;
    const bool hides = weights != nullptr && !(weights[row] > 0);
    BlendRow<kHasU, kHasV>(kHasU ? u + offset : nullptr, kHasV ? v + offset : nullptr, n,
                           weighted ? weights[row] : F{1}, hides, columns, y + offset, stream);
  }
}

// n contiguous values of one channel, with a weight each or none.
template <typename T, bool kHasU, bool kHasV, typename F = Compute<T>>
void BlendPlane(const T* u, const T* v, int64_t n, const F* weights, bool weighted,
                const Columns<F>& columns, int64_t column, T* y, bool may_stream) {
  const bool stream = may_stream && StartsLines(y, 0);
  const F a = columns.a[column], b = columns.b[column], c = columns.c[column];
  const F center = columns.center[column];
  ForEachGroup<F, 1>(n, [&](auto group, int64_t i) {
    using G = decltype(group);
    using V = typename G::Type;
    const V us = kHasU ? G::At(u + i, 0) : V{}, vs = kHasV ? G::At(v + i, 0) : V{};
    V weight = V{} + 1;
    if (weights == nullptr) {
      const auto keep = [](const V& difference) { return difference; };
      G::Put(Blended<kHasU, kHasV>(us, vs, V{} + a, V{} + b, V{} + c, V{} + center, weight, keep),
             y + i, 0, stream);
      return;
    }
    const V own = G::At(weights + i, 0);
    if (weighted) weight = own;
    const auto hide = [&](const V& difference) {
      return own > 0 ? difference : FiniteOrZero(difference);
    };
    G::Put(Blended<kHasU, kHasV>(us, vs, V{} + a, V{} + b, V{} + c, V{} + center, weight, hide),
           y + i, 0, stream);
  });
}

template <typename T, bool kHasU, bool kHasV, typename F = Compute<T>>
void BlendUnit(const BlendArguments& arguments, const Plan& plan, const Unit& unit) {
  const T* u = static_cast<const T*>(arguments.u);
  const T* v = static_cast<const T*>(arguments.v);
  T* y = static_cast<T*>(arguments.y);
  const F* weights = static_cast<const F*>(arguments.weights);
  const bool weighted = arguments.weighted && weights != nullptr;
  const Columns<F> columns(arguments, plan, unit);
  const bool stream = IsStreamed<T>(y, u, v, plan.layout.size());
  const auto weights_at = [&](int64_t row) {
    return weights == nullptr ? nullptr : weights + plan.weight_offset(unit, row);
  };
  const auto u_at = [&](int64_t offset) { return kHasU ? u + offset : nullptr; };
  const auto v_at = [&](int64_t offset) { return kHasV ? v + offset : nullptr; };
  if (plan.layout.inner == 1) {
    int64_t offset = plan.offset(unit, unit.first_row);
    BlendMatrix<T, kHasU, kHasV, F>(u_at(offset), v_at(offset), plan.columns, unit.rows,
                                    unit.columns, weights_at(unit.first_row), weighted, columns,
                                    y + offset, stream);
    offset = plan.offset(unit, unit.tail_row);
    if (unit.tail_columns > 0) {
      BlendMatrix<T, kHasU, kHasV, F>(u_at(offset), v_at(offset), 0, 1, unit.tail_columns, nullptr,
                                      false, columns, y + offset, stream);
    }
  } else {
    for (int64_t r = unit.first_row; r < unit.first_row + unit.rows; ++r) {
      for (int64_t j = 0; j < unit.columns; ++j) {
        const int64_t offset = plan.offset(unit, r) + j * plan.layout.inner;
        BlendPlane<T, kHasU, kHasV, F>(u_at(offset), v_at(offset), unit.inner, weights_at(r),
                                       weighted, columns, j, y + offset, stream);
      }
    }
  }
  if (stream) FinishStreams();
}

}  // namespace

int64_t BlendScratchCpu(const BlendArguments&) { return 0; }

void BlendCpu(const BlendArguments& arguments, void*, const ThreadPool& pool) {
  if (arguments.layout.size() == 0) return;
  const Plan plan(arguments.layout, arguments.weights == nullptr, kMostColumns);
  plan.ForEachUnit(pool, [&](const Unit& unit) {
    Dispatch(arguments.dtype, [&](auto type) {
      using T = decltype(type);
      if (arguments.u == nullptr) {
        BlendUnit<T, false, true>(arguments, plan, unit);
      } else if (arguments.v == nullptr) {
        BlendUnit<T, true, false>(arguments, plan, unit);
      } else {
        BlendUnit<T, true, true>(arguments, plan, unit);
      }
    });
  });
}

}  // namespace KERAS_NORMS_LEVEL
}  // namespace keras_norms
