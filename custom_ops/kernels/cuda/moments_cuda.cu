// Moments on the GPU: blocks write the moments of a chunk of each channel, then chunks are merged.
//
// A thread sums up to 64 values in the dtype's compute type around the first of them: that shift
// bounds the cancellation. From there on moments are float64 and merge exactly (Chan, Golub and
// LeVeque, 1979). Which values meet in which order depends on the layout alone.

#include "../moments.h"

#include "reduce.cuh"
#include "variant.h"
#include "walk.h"

namespace keras_norms {
namespace {

using namespace cuda;  // NOLINT: the kernels are written in its terms.

// Moments of the channels of a thread, which have their count in common.
template <int kLanes>
struct MomentsState {
  double count, mean[kLanes], m2[kLanes];

  __device__ __forceinline__ void Merge(const MomentsState& other) {
    if (other.count == 0) return;
    const double share = other.count / (count + other.count);
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      const double difference = other.mean[i] - mean[i];
      // The first to come is taken as it is: its square might overflow.
      m2[i] += count == 0 ? other.m2[i] : other.m2[i] + difference * difference * count * share;
      mean[i] = count == 0 ? other.mean[i] : mean[i] + difference * share;
    }
    count += other.count;
  }

  __device__ __forceinline__ MomentsState<1> Lane(int i) const {
    return {count, {mean[i]}, {m2[i]}};
  }
};

// Sums of up to 64 values of each lane around the first of them.
template <typename C, int kLanes>
struct ShiftedSums {
  C count, shift[kLanes], sum[kLanes], squares[kLanes];

  __device__ __forceinline__ void AddWeighted(const C* values, C weight) {
    if (!(weight > 0)) return;
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      if (count == 0) shift[i] = values[i];
      const C centred = values[i] - shift[i];
      sum[i] += weight * centred;
      squares[i] += weight * centred * centred;
    }
    count += weight;
  }

  // Without weights the caller counts, and sets the shift.
  __device__ __forceinline__ void Add(const C* values) {
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      const C centred = values[i] - shift[i];
      sum[i] += centred;
      squares[i] += centred * centred;
    }
  }

  __device__ __forceinline__ MomentsState<kLanes> Moments() const {
    MomentsState<kLanes> moments = {};
    if (count == 0) return moments;
    moments.count = count;
    const double inverse_count = 1.0 / moments.count;
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      const double mean = sum[i] * inverse_count;
      const double m2 = squares[i] - sum[i] * mean;
      moments.mean[i] = shift[i] + mean;
      moments.m2[i] = m2 < 0 ? 0 : m2;  // Rounding; NaN stays.
    }
    return moments;
  }
};

template <typename V>
__global__ void __launch_bounds__(kThreads, 2)
    PartialMoments(Split split, const typename V::T* x, const typename V::C* weights,
                   MomentsState<1>* partials) {
  using C = typename V::C;
  using State = MomentsState<V::kLanes>;
  constexpr int kInFlight = V::kLanes == 8 || (V::kHasWeights && V::kWidth > 1) ? 4 : 8;
  constexpr int kGroups = 64 / V::kWeights / kInFlight;
  for (int64_t segment = BlockIndex().z; segment < split.layout.segments;
       segment += GridSize().z) {
    Walk<V> walk(split, segment);
    State* moments = SharedState<State>(walk.x(), walk.y(), split.threads_x);
    *moments = {};
    while (walk.IsAtStep()) {
      ShiftedSums<C, V::kLanes> sums = {};
#pragma unroll 1
      for (int group = 0; group < kGroups && walk.IsAtStep(); ++group) {
        Values<typename V::T, V::kWidth> loaded[kInFlight];
        Values<C, V::kWeights> weight[kInFlight];
        bool is_step[kInFlight];
#pragma unroll
        for (int i = 0; i < kInFlight; ++i) {
          is_step[i] = walk.IsAtStep();
          if (is_step[i]) {
            loaded[i].Load(x + walk.offset());
            if (V::kHasWeights) weight[i].Load(weights + walk.weight());
          }
          walk.Advance();
        }
        if (!V::kHasWeights && group == 0) {
#pragma unroll
          for (int j = 0; j < V::kLanes; ++j) sums.shift[j] = Widen(loaded[0].Get(j));
        }
#pragma unroll
        for (int i = 0; i < kInFlight; ++i) {
          if (!is_step[i]) continue;
          C values[V::kWidth];
#pragma unroll
          for (int j = 0; j < V::kWidth; ++j) values[j] = Widen(loaded[i].Get(j));
#pragma unroll
          for (int j = 0; j < V::kWeights; ++j) {
            if (V::kHasWeights) {
              sums.AddWeighted(values + j * V::kLanes, weight[i].Get(j));
            } else {
              sums.Add(values + j * V::kLanes);
            }
          }
          if (!V::kHasWeights) sums.count += V::kWeights;
        }
      }
      moments->Merge(sums.Moments());
    }
    WriteChunk<V>(walk, split, segment, moments, partials);
  }
}

struct WriteMoments {
  double *count, *mean, *m2;

  __device__ __forceinline__ void operator()(const ChannelLayout& layout, int64_t segment,
                                             int64_t channel, const MomentsState<1>& state) const {
    if (channel == 0) count[segment] = state.count;
    if (channel >= layout.channels) return;
    mean[segment * layout.channels + channel] = state.mean[0];
    m2[segment * layout.channels + channel] = state.m2[0];
  }
};

}  // namespace

int64_t MomentsScratchCuda(const MomentsArguments& arguments) {
  return PartialBytes<MomentsState<1>>(arguments.dtype, Simplified(arguments.layout));
}

const char* MomentsCuda(const MomentsArguments& arguments, void* scratch, cudaStream_t stream) {
  const ChannelLayout layout = Simplified(arguments.layout);
  if (layout.segments == 0) return nullptr;
  const bool is_vector = IsVector(arguments.dtype, layout, arguments.x, arguments.weights);
  const auto launch = [&](auto variant) {
    using V = decltype(variant);
    const Split split(layout, V::kWidth, kReductionBlocks);
    const char* error =
        Launch(PartialMoments<V>, split.grid(), split.block(), stream, split,
               static_cast<const typename V::T*>(arguments.x),
               static_cast<const typename V::C*>(arguments.weights),
               static_cast<MomentsState<1>*>(scratch));
    if (error != nullptr) return error;
    const WriteMoments write = {arguments.count, arguments.mean, arguments.m2};
    return LaunchMergeChunks<MomentsState<1>>(split, scratch, write, stream);
  };
  return WithVariant(arguments.dtype, is_vector, layout.inner == 1, arguments.weights != nullptr,
                     launch);
}

}  // namespace keras_norms
