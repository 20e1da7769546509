// Additions at single places, the same on every processor.

#include "../add_at.h"

#include "plan.h"

namespace keras_norms {

void AddAtCpu(const AddAtArguments& arguments, const ThreadPool& pool) {
  using namespace KERAS_NORMS_LEVEL;  // NOLINT: of the numbers.
  constexpr int64_t kBlock = 1024, kAhead = 16;  // Places are far apart; what takes time is memory.
  Dispatch(arguments.dtype, [&](auto type) {
    using T = decltype(type);
    T* y = static_cast<T*>(arguments.y);
    if (arguments.x != y && arguments.size > 0) memcpy(y, arguments.x, arguments.size * sizeof(T));
    const auto add = [&](int64_t place, double value) {
      if (value == 0.0 || place < 0 || place >= arguments.size) return;
      Store(static_cast<Compute<T>>(static_cast<double>(Load(y + place)) + value), y + place);
    };
    pool.ForEach(CeilDiv(arguments.count, kBlock), [&](int64_t block) {
      const int64_t end = Min((block + 1) * kBlock, arguments.count);
      for (int64_t i = block * kBlock; i < end; ++i) {
        if (i + kAhead < end) {
          __builtin_prefetch(y + arguments.high_at[i + kAhead], 1);
          __builtin_prefetch(y + arguments.low_at[i + kAhead], 1);
        }
        add(arguments.high_at[i], arguments.values[i]);
        add(arguments.low_at[i], -arguments.values[i]);
      }
    });
  });
}

}  // namespace keras_norms
