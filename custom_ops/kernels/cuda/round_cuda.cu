// Round on the GPU. Without blocks every thread rounds pieces of 16 bytes, or single values, in
// turns. With blocks a thread takes a whole block: it reads it twice, the second time from the
// caches. y may be x: a thread reads what it writes, and no other thread does.

#include "../round.h"

#include "../rounding_math.h"
#include "device.h"
#include "split.h"
#include "variant.h"

namespace keras_norms {
namespace {

using namespace cuda;               // NOLINT: the kernels are written in its terms.
using namespace KERAS_NORMS_LEVEL;  // NOLINT: where rounding_math.h is.

__device__ __forceinline__ int32_t BitsOf(float value) {
  int32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}
__device__ __forceinline__ float NumberOf(int32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

// What one call does to values of type T.
template <typename T>
struct Rounder {
  const T* x;
  T* y;
  const int64_t* seed;
  FormatPatterns format;
  RoundingMode mode;
  bool has_format;
  int32_t places;

  // The magnitude of a pattern, rounded to the format.
  __device__ __forceinline__ int32_t ToFormat(int32_t bits, int64_t position) const {
    const int32_t magnitude = bits & kMagnitudeBits;
    if (!has_format) return magnitude;
    if (mode == RoundingMode::kTruncate) {
      return KERAS_NORMS_LEVEL::ToFormat<RoundingMode::kTruncate>(magnitude, format, 0u);
    }
    if (mode == RoundingMode::kNearestEven) {
      return KERAS_NORMS_LEVEL::ToFormat<RoundingMode::kNearestEven>(magnitude, format, 0u);
    }
    const uint32_t random = RandomBits(*seed, position).at(static_cast<uint32_t>(position));
    return KERAS_NORMS_LEVEL::ToFormat<RoundingMode::kStochastic>(magnitude, format, random);
  }
  // Values that are not finite stay as they are, whatever their bits.
  __device__ __forceinline__ T WithMagnitude(T value, int32_t magnitude) const {
    if (magnitude >= kInfinityBits) return value;
    T result;
    Narrow(NumberOf((BitsOf(Widen(value)) & ~kMagnitudeBits) | magnitude), &result);
    return result;
  }
  __device__ __forceinline__ int32_t ToFormat(T value, int64_t position) const {
    return ToFormat(BitsOf(Widen(value)), position);
  }
};

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) RoundValues(Rounder<T> rounder, int64_t size) {
  const int64_t stride = static_cast<int64_t>(GridSize().x) * kThreads * kWidth;
  const int64_t start =
      (static_cast<int64_t>(BlockIndex().x) * kThreads + ThreadIndex().x) * kWidth;
  for (int64_t position = start; position < size; position += stride) {
    Values<T, kWidth> step;
    step.Load(rounder.x + position);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const T value = step.Get(i);
      step.Set(i, rounder.WithMagnitude(value, rounder.ToFormat(value, position + i)));
    }
    step.Store(rounder.y + position);
  }
}

__device__ __forceinline__ int32_t ExponentOf(int32_t magnitude) {
  return Exponent(magnitude, BitsOf(static_cast<float>(Significand(magnitude))));
}

// Threads side by side take neighbours in memory where the layout has some (inner > 1).
template <typename T, bool kTwo>
__global__ void __launch_bounds__(kThreads)
    RoundBlocks(Rounder<T> rounder, ChannelLayout layout, int64_t size, int64_t blocks) {
  const int64_t total = layout.rows * blocks * layout.inner;
  const int64_t stride = static_cast<int64_t>(GridSize().x) * kThreads;
  const int64_t start = static_cast<int64_t>(BlockIndex().x) * kThreads + ThreadIndex().x;
  for (int64_t i = start; i < total; i += stride) {
    const int64_t row = i / layout.inner / blocks;
    const int64_t first = i / layout.inner % blocks * size;
    const int64_t end = first + size < layout.channels ? first + size : layout.channels;
    const int64_t base = row * layout.channels * layout.inner + i % layout.inner;
    LargestExponents<int32_t, kTwo> block;
    for (int64_t channel = first; channel < end; ++channel) {
      const int64_t position = base + channel * layout.inner;
      block.Add(ExponentOf(rounder.ToFormat(rounder.x[position], position)));
    }
    for (int64_t channel = first; channel < end; ++channel) {
      const int64_t position = base + channel * layout.inner;
      const T value = rounder.x[position];
      const int32_t magnitude = rounder.ToFormat(value, position);
      const int32_t aligned = Aligned(magnitude, ExponentOf(magnitude), block, rounder.places);
      rounder.y[position] = rounder.WithMagnitude(value, aligned);
    }
  }
}

template <typename T>
const char* Round(const RoundArguments& arguments, cudaStream_t stream) {
  const ChannelLayout& layout = arguments.layout;
  const RoundOptions& options = arguments.options;
  const Rounder<T> rounder = {static_cast<const T*>(arguments.x),
                              static_cast<T*>(arguments.y),
                              static_cast<const int64_t*>(arguments.seed),
                              FormatPatterns(options, arguments.dtype),
                              options.mode,
                              options.has_format(),
                              static_cast<int32_t>(options.block_mantissa_bits) - 1};
  const auto grid = [](int64_t steps) {
    const int64_t blocks = CeilDivide(steps, kThreads);
    return Dimensions(static_cast<unsigned>(std::min(blocks, kElementwiseBlocks)));
  };
  const int64_t size = std::min(options.block_size, layout.channels);
  if (size > 0) {
    const int64_t blocks = CeilDivide(layout.channels, size);
    const auto kernel = options.second_largest ? RoundBlocks<T, true> : RoundBlocks<T, false>;
    return Launch(kernel, grid(layout.rows * blocks * layout.inner), Dimensions(kThreads),
                  stream, rounder, layout, size, blocks);
  }
  constexpr int kWidth = kVectorBytes / sizeof(T);
  const bool is_vector =
      layout.size() % kWidth == 0 && reinterpret_cast<uintptr_t>(arguments.x) % kVectorBytes == 0 &&
      reinterpret_cast<uintptr_t>(arguments.y) % kVectorBytes == 0;
  if (is_vector) {
    return Launch(RoundValues<T, kWidth>, grid(layout.size() / kWidth), Dimensions(kThreads),
                  stream, rounder, layout.size());
  }
  return Launch(RoundValues<T, 1>, grid(layout.size()), Dimensions(kThreads), stream, rounder,
                layout.size());
}

}  // namespace

int64_t RoundScratchCuda(const RoundArguments&) { return 0; }

const char* RoundCuda(const RoundArguments& arguments, void*, cudaStream_t stream) {
  if (arguments.layout.size() == 0) return nullptr;
  switch (arguments.dtype) {
    case DataType::kFloat32: return Round<float>(arguments, stream);
    case DataType::kFloat16: return Round<Half>(arguments, stream);
    case DataType::kBFloat16: return Round<BFloat16>(arguments, stream);
    default: return "Float64 is rounded elsewhere.";
  }
}

}  // namespace keras_norms
