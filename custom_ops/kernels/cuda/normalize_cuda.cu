// Normalize and NormalizeGrad on the GPU: two passes of the other kernels, with a small kernel on
// vectors before or between them. The host waits for nothing: count, share and moments stay on the
// device.

#include "../normalize.h"

#include "../normalize_steps.h"
#include "split.h"

namespace keras_norms {
namespace {

using namespace cuda;  // NOLINT: the kernels are written in its terms.

constexpr int64_t kAlignment = 256;  // Of the pieces of scratch memory.

__device__ __forceinline__ int64_t FirstIndex() {
  return static_cast<int64_t>(BlockIndex().x) * kThreads + ThreadIndex().x;
}
__device__ __forceinline__ int64_t IndexTurn() {
  return static_cast<int64_t>(GridSize().x) * kThreads;
}

// Launches a kernel whose threads take `size` values by turns.
template <typename... Parameters, typename... Arguments>
const char* LaunchOver(int64_t size, void (*kernel)(Parameters...), cudaStream_t stream,
                       const Arguments&... arguments) {
  if (size == 0) return nullptr;
  const int64_t blocks = std::min(CeilDivide(size, kThreads), kElementwiseBlocks);
  return Launch(kernel, Dimensions(static_cast<unsigned>(blocks)), Dimensions(kThreads), stream,
                arguments...);
}

// Moments of parts, variance, scale and moving averages.
__global__ void __launch_bounds__(kThreads)
    FinishMoments(NormalizeArguments arguments, double* scale) {
  const ChannelLayout& layout = arguments.layout;
  const MovingAverage& moving = arguments.moving;
  for (int64_t i = FirstIndex(); i < layout.vector_size(); i += IndexTurn()) {
    const int64_t segment = i / layout.channels, channel = i % layout.channels;
    const bool merges = arguments.parts != nullptr;
    const double count = merges ? MergedCount(arguments) : arguments.count[segment];
    if (merges) MergeParts(arguments, count, channel);
    if (merges && channel == 0) arguments.count[0] = count;
    FinishVariance(arguments, count, segment, channel, scale);
    if (moving.share == nullptr) continue;
    if (moving.mean.is_double) {
      Move<double>(moving, channel, arguments.mean[i], arguments.variance[i], count);
    } else {
      Move<float>(moving, channel, arguments.mean[i], arguments.variance[i], count);
    }
  }
}

__global__ void __launch_bounds__(kThreads)
    ScaleAgain(NormalizeGradArguments arguments, double* scale) {
  const ChannelLayout& layout = arguments.layout;
  for (int64_t i = FirstIndex(); i < layout.vector_size(); i += IndexTurn()) {
    scale[i] = ScaleAt(arguments, i / layout.channels, i % layout.channels);
  }
}

__global__ void __launch_bounds__(kThreads)
    DifferentiateVectors(NormalizeGradArguments arguments, GradVectors at) {
  for (int64_t channel = FirstIndex(); channel < arguments.layout.channels;
       channel += IndexTurn()) {
    Differentiate(arguments, at, channel);
  }
}

}  // namespace

int64_t NormalizeScratchCuda(const NormalizeArguments& arguments) {
  Memory memory(nullptr, kAlignment);
  memory.Vector(arguments.layout.vector_size());
  memory.Bytes(MomentsScratchCuda(MomentsOf(arguments)));
  return memory.size();
}

const char* NormalizeCuda(const NormalizeArguments& arguments, void* scratch,
                          cudaStream_t stream) {
  Memory memory(scratch, kAlignment);
  const int64_t vectors = arguments.layout.vector_size();
  double* scale = memory.Vector(vectors);
  const char* error = nullptr;
  if (arguments.parts == nullptr) {
    const MomentsArguments moments = MomentsOf(arguments);
    error = MomentsCuda(moments, memory.Bytes(MomentsScratchCuda(moments)), stream);
  }
  if (error != nullptr) return error;
  error = LaunchOver(vectors, FinishMoments, stream, arguments, scale);
  if (error != nullptr) return error;
  return BlendCuda(BlendOf(arguments, scale), nullptr, stream);
}

int64_t NormalizeGradScratchCuda(const NormalizeGradArguments& arguments) {
  Memory memory(nullptr, kAlignment);
  GradVectors(&memory, arguments.layout.vector_size());
  memory.Bytes(SumsScratchCuda(SumsOf(arguments, nullptr)));
  return memory.size();
}

const char* NormalizeGradCuda(const NormalizeGradArguments& arguments, void* scratch,
                              cudaStream_t stream) {
  Memory memory(scratch, kAlignment);
  const int64_t vectors = arguments.layout.vector_size();
  const GradVectors at(&memory, vectors);
  const char* error = LaunchOver(vectors, ScaleAgain, stream, arguments, at.scale);
  if (error != nullptr) return error;
  SumsArguments sums = SumsOf(arguments, at.scale);
  sums.sum_u = at.sum_dy;
  sums.sum_uv = at.sum_dy_centred;
  if (arguments.sums == nullptr) {
    error = SumsCuda(sums, memory.Bytes(SumsScratchCuda(sums)), stream);
  }
  if (error != nullptr) return error;
  error = LaunchOver(arguments.layout.channels, DifferentiateVectors, stream, arguments, at);
  if (error != nullptr) return error;
  return BlendCuda(BlendOf(arguments, at, sums.gate), nullptr, stream);
}

}  // namespace keras_norms
