// Additions at single places on the GPU: a thread has both places of a value.

#include "../add_at.h"

#include "split.h"
#include "variant.h"

namespace keras_norms {
namespace {

using namespace cuda;  // NOLINT: the kernel is written in its terms.

template <typename T>
__device__ __forceinline__ void AddTo(T* y, int64_t size, int64_t place, double value) {
  if (value == 0 || place < 0 || place >= size) return;
  const double sum = static_cast<double>(Widen(y[place])) + value;
  Narrow(static_cast<Compute<T>>(sum), y + place);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) AddAt(AddAtArguments arguments) {
  T* y = static_cast<T*>(arguments.y);
  const int64_t turn = static_cast<int64_t>(GridSize().x) * kThreads;
  int64_t i = static_cast<int64_t>(BlockIndex().x) * kThreads + ThreadIndex().x;
  for (; i < arguments.count; i += turn) {
    AddTo(y, arguments.size, arguments.high_at[i], arguments.values[i]);
    AddTo(y, arguments.size, arguments.low_at[i], -arguments.values[i]);
  }
}

}  // namespace

const char* AddAtCuda(const AddAtArguments& arguments, cudaStream_t stream) {
  const auto launch = [&](auto variant) {
    using T = typename decltype(variant)::T;
    if (arguments.x != arguments.y) {
      const char* error = CopyMemory(arguments.y, arguments.x, arguments.size * sizeof(T), stream);
      if (error != nullptr) return error;
    }
    if (arguments.count == 0) return static_cast<const char*>(nullptr);
    const int64_t blocks = std::min(CeilDivide(arguments.count, kThreads), kElementwiseBlocks);
    return Launch(AddAt<T>, Dimensions(static_cast<unsigned>(blocks)), Dimensions(kThreads), stream,
                  arguments);
  };
  return WithVariant(arguments.dtype, false, true, false, launch);
}

}  // namespace keras_norms
