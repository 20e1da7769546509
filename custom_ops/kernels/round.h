// round(x): each value to a floating-point format, then blocks of channels to a shared exponent.
//
// One pass; y may be the memory of x. Either step may be left out. Rounded with integers on bit
// patterns (rounding_math.h), so that results are the same bits on every device, also on threads
// that take subnormal numbers for 0. float16 and bfloat16 are seen as float32, which holds them.

#ifndef KERAS_NORMS_KERNELS_ROUND_H_
#define KERAS_NORMS_KERNELS_ROUND_H_

#include <string>

#include "channel_layout.h"
#include "operands.h"
#include "thread_pool.h"

typedef struct CUstream_st* cudaStream_t;

namespace keras_norms {

enum class RoundingMode { kNearestEven, kTruncate, kStochastic };

struct RoundOptions {
  int64_t axis = 0;           // Where the channels are, and with them the blocks.
  int64_t exponent_bits = 0;  // Of the format; 0: values keep theirs.
  int64_t mantissa_bits = 0;
  RoundingMode mode = RoundingMode::kNearestEven;
  bool subnormals = true;
  int64_t block_size = 0;  // Neighbouring channels that share an exponent; 0: none do.
  int64_t block_mantissa_bits = 0;
  bool second_largest = false;  // Aligns to the second largest exponent, not to the largest.

  bool has_format() const { return exponent_bits > 0; }
  bool is_stochastic() const { return has_format() && mode == RoundingMode::kStochastic; }
};

struct RoundArguments {
  DataType dtype = DataType::kFloat32;  // But for kFloat64.
  ChannelLayout layout;
  RoundOptions options;
  const void* x = nullptr;     // (rows, channels, inner)
  const void* seed = nullptr;  // An int64 where the mode is stochastic.
  void* y = nullptr;           // Like x.
};

int64_t RoundScratchCpu(const RoundArguments& arguments);
void RoundCpu(const RoundArguments& arguments, void* scratch, const ThreadPool& pool);

int64_t RoundScratchCuda(const RoundArguments& arguments);
const char* RoundCuda(const RoundArguments& arguments, void* scratch, cudaStream_t stream);

// What is wrong with a call, or an empty string. Sizes that are unknown pass.
inline std::string RoundProblem(const RoundOptions& options, const OperandShape& x,
                                const OperandShape& seed) {
  const std::string op = "KerasNorms>Round: ";
  const auto received = [](const char* name, int64_t value) {
    return std::string(name) + "=" + std::to_string(value);
  };
  const auto lies_in = [](int64_t value, int64_t low, int64_t high) {
    return low <= value && value <= high;
  };
  if (options.has_format() &&
      !(lies_in(options.exponent_bits, 2, 8) && lies_in(options.mantissa_bits, 1, 23))) {
    return op + "a format has 2 to 8 exponent_bits and 1 to 23 mantissa_bits. Received: " +
           received("exponent_bits", options.exponent_bits) + ", " +
           received("mantissa_bits", options.mantissa_bits) + ".";
  }
  if (options.block_size < 0 ||
      (options.block_size > 0 && !lies_in(options.block_mantissa_bits, 2, 24))) {
    return op + "block_size must not be negative, and blocks have 2 to 24 block_mantissa_bits. "
                "Received: " + received("block_size", options.block_size) + ", " +
           received("block_mantissa_bits", options.block_mantissa_bits) + ".";
  }
  if (options.is_stochastic() != seed.present ||
      (seed.present && seed.rank_known && !seed.sizes.empty())) {
    return op + "stochastic rounding needs a scalar seed, and only that. Received: seed.shape=" +
           (seed.present ? internal::Text(seed) : "none") + ".";
  }
  if (x.rank_known && !internal::IsActivation(x.sizes, {options.axis, 0, false})) {
    return op + "x must have rank 2 or more, and `axis` must lie in it. Received: " +
           received("axis", options.axis) + ", x.shape=" + internal::Text(x) + ".";
  }
  return "";
}

}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_ROUND_H_
