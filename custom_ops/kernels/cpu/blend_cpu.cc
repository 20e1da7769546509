// Blend on the CPU: every value is read, computed and written once, in place where y is u or v.
// A unit of work (plan.h) first brings the vectors of its columns into the compute type.

#include "../blend.h"

#include "plan.h"

namespace keras_norms {
namespace KERAS_NORMS_LEVEL {
namespace {

// The vectors of one unit; those that are absent are 0.
template <typename F>
struct Columns {
  F a[kTile], b[kTile], c[kTile], center[kTile];

  Columns(const BlendArguments& arguments, const Plan& plan, const Unit& unit) {
    for (int64_t j = 0; j < unit.columns; ++j) {
      const int64_t channel = ChannelOf(plan, unit, j);
      const auto at = [&](const ChannelVector& vector) {
        return vector.at(plan.layout, unit.segment, channel);
      };
      const double exact = at(arguments.center);
      a[j] = static_cast<F>(at(arguments.a));
      b[j] = static_cast<F>(at(arguments.b));
      c[j] = static_cast<F>(at(arguments.c) - at(arguments.b) * Low<F>(exact));
      center[j] = High<F>(exact);
    }
  }
};

// The formula, the only copy on the CPU. `hides` says that the position has weight 0.
template <bool kHasU, bool kHasV, typename F>
inline F Blended(F u, F v, F a, F b, F c, F center, F weight, bool hides) {
  F term = c;
  if (kHasV) {
    F difference = v - center;
    if (hides) difference = difference - difference == 0 ? difference : F{0};
    term += b * difference;
  }
  term *= weight;
  return kHasU ? a * u + term : term;
}

// A row of n columns. The memory of y may be that of u or v, which the compiler is told to allow for.
template <bool kHasU, bool kHasV, typename F>
void BlendRow(const F* u, const F* v, int64_t n, F weight, bool hides, const Columns<F>& columns,
              F* y) {
  const F *a = columns.a, *b = columns.b, *c = columns.c, *center = columns.center;
  if (hides || weight != 1) {
#pragma GCC ivdep
    for (int64_t j = 0; j < n; ++j) {
      y[j] = Blended<kHasU, kHasV>(kHasU ? u[j] : F{0}, kHasV ? v[j] : F{0}, a[j], b[j], c[j],
                                   center[j], weight, hides);
    }
    return;
  }
#pragma GCC ivdep
  for (int64_t j = 0; j < n; ++j) {
    y[j] = Blended<kHasU, kHasV>(kHasU ? u[j] : F{0}, kHasV ? v[j] : F{0}, a[j], b[j], c[j],
                                 center[j], F{1}, false);
  }
}

// n contiguous values of one channel, with a weight each or none.
template <bool kHasU, bool kHasV, typename F>
void BlendRun(const F* u, const F* v, int64_t n, const F* weights, bool weighted,
              const Columns<F>& columns, int64_t column, F* y) {
  const F a = columns.a[column], b = columns.b[column], c = columns.c[column];
  const F center = columns.center[column];
  if (weights == nullptr) {
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      y[i] = Blended<kHasU, kHasV>(kHasU ? u[i] : F{0}, kHasV ? v[i] : F{0}, a, b, c, center, F{1},
                                   false);
    }
    return;
  }
#pragma GCC ivdep
  for (int64_t i = 0; i < n; ++i) {
    y[i] = Blended<kHasU, kHasV>(kHasU ? u[i] : F{0}, kHasV ? v[i] : F{0}, a, b, c, center,
                                 weighted ? weights[i] : F{1}, !(weights[i] > 0));
  }
}

template <typename T, bool kHasU, bool kHasV, typename F = Compute<T>>
void BlendUnit(const BlendArguments& arguments, const Plan& plan, const Unit& unit) {
  const T* u = static_cast<const T*>(arguments.u);
  const T* v = static_cast<const T*>(arguments.v);
  T* y = static_cast<T*>(arguments.y);
  const F* weights = static_cast<const F*>(arguments.weights);
  const bool weighted = arguments.weighted && weights != nullptr;
  const Columns<F> columns(arguments, plan, unit);
  F buffer_u[kTile], buffer_v[kTile], buffer_y[kTile];
  // Unpacks, computes and packs up to kTile values.
  const auto run = [&](int64_t offset, int64_t n, const auto& compute) {
    F* target = Target(y + offset, buffer_y);
    compute(kHasU ? Unpack(u + offset, n, buffer_u) : nullptr,
            kHasV ? Unpack(v + offset, n, buffer_v) : nullptr, target);
    Pack(target, n, y + offset);
  };
  if (plan.layout.inner == 1) {
    const auto row = [&](int64_t r, int64_t n) {
      const F own = weights == nullptr ? F{1} : weights[plan.weight_offset(unit, r)];
      run(plan.offset(unit, r), n, [&](const F* us, const F* vs, F* ys) {
        BlendRow<kHasU, kHasV>(us, vs, n, weighted ? own : F{1}, !(own > 0), columns, ys);
      });
    };
    for (int64_t r = 0; r < unit.rows; ++r) row(unit.first_row + r, unit.columns);
    if (unit.tail_columns > 0) row(unit.tail_row, unit.tail_columns);
    return;
  }
  constexpr int64_t kRun = sizeof(T) == sizeof(F) ? INT64_MAX : kTile;
  for (int64_t r = unit.first_row; r < unit.first_row + unit.rows; ++r) {
    const F* own = weights == nullptr ? nullptr : weights + plan.weight_offset(unit, r);
    for (int64_t j = 0; j < unit.columns; ++j) {
      const int64_t first = plan.offset(unit, r) + j * plan.layout.inner;
      for (int64_t i = 0; i < unit.inner; i += kTile) {
        const int64_t n = Min(kRun, unit.inner - i);
        run(first + i, n, [&](const F* us, const F* vs, F* ys) {
          BlendRun<kHasU, kHasV>(us, vs, n, own == nullptr ? nullptr : own + i, weighted, columns,
                                 j, ys);
        });
        if (n == unit.inner - i) break;
      }
    }
  }
}

}  // namespace

int64_t BlendScratchCpu(const BlendArguments&) { return 0; }

void BlendCpu(const BlendArguments& arguments, void*, const ThreadPool& pool) {
  const Plan plan(arguments.layout, arguments.weights == nullptr);
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
