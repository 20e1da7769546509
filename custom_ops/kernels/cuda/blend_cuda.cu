// Blend on the GPU, elementwise: y = a u + w (b (v - center) + c), or with a rectifier that of this.
//
// A block first brings the vectors of its channels into the compute type, in shared memory; then
// its threads go through their steps. y may be u or v: a thread reads a step before it writes it,
// and no other thread reads it.

#include "../blend.h"

#include "rectified.cuh"
#include "split.h"
#include "variant.h"
#include "walk.h"

namespace keras_norms {
namespace {

using namespace cuda;  // NOLINT: the kernels are written in its terms.

template <typename V>
struct Operands {
  const typename V::T *u, *v;  // Either may be null.
  ChannelVector a, b, c, center;
  const typename V::C* weights;
  bool weighted;
  RectifierOf<typename V::C> rectifier, gate;
  ChannelVector gate_scale, gate_shift;
  typename V::T* y;
};

// What a channel's values are blended with.
template <typename C>
struct alignas(4 * sizeof(C)) Coefficients {
  C a, b, c, center;
};

// What the gate of u is told from: z = scale (v - center) + shift.
template <typename C>
struct alignas(2 * sizeof(C)) GateCoefficients {
  C scale, shift;
};

// A shift of the scaled difference, with what the compute type cannot hold of the centre.
template <typename C>
__device__ __forceinline__ C ShiftOf(double shift, double scale, double center) {
  return static_cast<C>(sizeof(C) < sizeof(double) ? shift - scale * LowPart(center) : shift);
}

template <typename V>
__device__ __forceinline__ Coefficients<typename V::C> CoefficientsOf(
    const Operands<V>& operands, const ChannelLayout& layout, int64_t segment, int64_t channel) {
  using C = typename V::C;
  const auto at = [&](const ChannelVector& vector) { return vector.at(layout, segment, channel); };
  Coefficients<C> result = {};
  const double c = at(operands.c);
  result.c = static_cast<C>(c);
  if (operands.u != nullptr) {
    result.a = operands.a.data == nullptr ? C(1) : static_cast<C>(at(operands.a));
  }
  if (operands.v != nullptr) {
    const double b = at(operands.b), center = at(operands.center);
    result.b = static_cast<C>(b);
    result.c = ShiftOf<C>(c, b, center);
    result.center = static_cast<C>(center);
  }
  return result;
}

template <typename V>
__device__ __forceinline__ GateCoefficients<typename V::C> GateCoefficientsOf(
    const Operands<V>& operands, const ChannelLayout& layout, int64_t segment, int64_t channel) {
  using C = typename V::C;
  const auto at = [&](const ChannelVector& vector) { return vector.at(layout, segment, channel); };
  const double scale = at(operands.gate_scale);
  return {static_cast<C>(scale),
          ShiftOf<C>(at(operands.gate_shift), scale, at(operands.center))};
}

// Blocks that a multiprocessor should hold: the most that leave a thread enough registers.
template <typename V, bool kIsGated>
constexpr int kBlocks =
    sizeof(typename V::T) == 8 || V::kLanes == 8 || (kIsGated && V::kLanes == 4) ? 2 : 3;

template <typename V, bool kIsGated>
__global__ void __launch_bounds__(kThreads, kBlocks<V, kIsGated>)
    Blend(Split split, Operands<V> operands) {
  using C = typename V::C;
  using T = typename V::T;
  using Step = Values<T, V::kWidth>;
  constexpr int kInFlight = V::kHasWeights && V::kWidth > 1 ? 2 : 4;
  __shared__ Coefficients<C> shared[kMaxThreadsX * V::kLanes];
  __shared__ GateCoefficients<C> shared_gates[kIsGated ? kMaxThreadsX * V::kLanes : 1];
  const bool has_u = operands.u != nullptr, has_v = operands.v != nullptr;
  const int x = Walk<V>::x(), y = Walk<V>::y();
  const int thread = y * split.threads_x + x;
  const int channels = split.threads_x * V::kLanes;
  const int64_t first_channel = BlockIndex().x * static_cast<int64_t>(channels);
  for (int64_t segment = BlockIndex().z; segment < split.layout.segments;
       segment += GridSize().z) {
    for (int i = thread; i < channels; i += split.threads_x * split.threads_y) {
      if (first_channel + i < split.layout.channels) {
        shared[i] = CoefficientsOf(operands, split.layout, segment, first_channel + i);
        if (kIsGated) {
          shared_gates[i] = GateCoefficientsOf(operands, split.layout, segment, first_channel + i);
        }
      }
    }
    Barrier();
    Walk<V> walk(split, segment);
    Coefficients<C> lanes[V::kLanes];
    GateCoefficients<C> gates[V::kLanes];
    if (walk.IsAtStep()) {
#pragma unroll
      for (int i = 0; i < V::kLanes; ++i) {
        lanes[i] = shared[x * V::kLanes + i];
        if (kIsGated) gates[i] = shared_gates[x * V::kLanes + i];
      }
    }
    while (walk.IsAtStep()) {
      Step u[kInFlight], v[kInFlight];
      Values<C, V::kWeights> weights[kInFlight];
      Walk<V> writer = walk;
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        if (walk.IsAtStep()) {
          if (has_u) u[i].Load(operands.u + walk.offset());
          if (has_v) v[i].Load(operands.v + walk.offset());
          if (V::kHasWeights) weights[i].Load(operands.weights + walk.weight());
        }
        walk.Advance();
      }
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        if (!writer.IsAtStep()) break;
        Step result;
#pragma unroll
        for (int j = 0; j < V::kWidth; ++j) {
          const Coefficients<C>& lane = lanes[j % V::kLanes];
          C centred = has_v ? Widen(v[i].Get(j)) - lane.center : C(0);
          C weight = 1;
          if (V::kHasWeights) {
            const C given = weights[i].Get(j / V::kLanes);
            if (!(given > 0) && !IsFinite(centred)) centred = 0;
            if (operands.weighted) weight = given;
          }
          C value = weight * (lane.b * centred + lane.c);
          if (has_u) {
            C own = Widen(u[i].Get(j));
            if (kIsGated) {
              const GateCoefficients<C>& gate = gates[j % V::kLanes];
              own = operands.gate.Gated(own, gate.scale * centred + gate.shift);
            }
            value += lane.a * own;
          }
          if (!kIsGated && operands.rectifier.is_given) {
            value = operands.rectifier.Rectified(value);
          }
          T narrow;
          Narrow(value, &narrow);
          result.Set(j, narrow);
        }
        result.Store(operands.y + writer.offset());
        writer.Advance();
      }
    }
    Barrier();  // Before the next segment's coefficients.
  }
}

}  // namespace

int64_t BlendScratchCuda(const BlendArguments&) { return 0; }

const char* BlendCuda(const BlendArguments& arguments, void*, cudaStream_t stream) {
  const ChannelLayout layout = Simplified(arguments.layout);
  if (layout.segments == 0 || layout.size() == 0) return nullptr;
  const bool is_vector = IsVector(arguments.dtype, layout, arguments.u, arguments.v,
                                  arguments.weights, arguments.y);
  const auto launch = [&](auto variant) {
    using V = decltype(variant);
    using T = typename V::T;
    const Split split(layout, V::kWidth, kElementwiseBlocks);
    const Operands<V> operands = {static_cast<const T*>(arguments.u),
                                  static_cast<const T*>(arguments.v),
                                  arguments.a,
                                  arguments.b,
                                  arguments.c,
                                  arguments.center,
                                  static_cast<const typename V::C*>(arguments.weights),
                                  arguments.weighted,
                                  RectifierOf<typename V::C>(arguments.rectifier),
                                  RectifierOf<typename V::C>(arguments.gate.rectifier),
                                  arguments.gate.scale,
                                  arguments.gate.shift,
                                  static_cast<T*>(arguments.y)};
    auto kernel = Blend<V, false>;
    if constexpr (!V::kHasWeights) {  // A gate has none.
      if (arguments.gate.rectifier.is_given) kernel = Blend<V, true>;
    }
    return Launch(kernel, split.grid(), split.block(), stream, split, operands);
  };
  return WithVariant(arguments.dtype, is_vector, layout.inner == 1, arguments.weights != nullptr,
                     launch);
}

}  // namespace keras_norms
