// Sums on the GPU: blocks write the sums of a chunk of each channel, then chunks are merged.
//
// A thread sums up to 64 products in the dtype's compute type, and those sums in float64.
// Which values meet in which order depends on the layout alone. Where y is asked for, a thread
// writes it from the values that it holds; y may be u or v, since nobody else reads them.

#include "../sums.h"

#include "rectified.cuh"
#include "reduce.cuh"
#include "variant.h"
#include "walk.h"

namespace keras_norms {
namespace {

using namespace cuda;  // NOLINT: the kernels are written in its terms.

// Sums of the channels of a thread.
template <int kLanes>
struct SumsState {
  double u[kLanes], uv[kLanes];

  __device__ __forceinline__ void Merge(const SumsState& other) {
#pragma unroll
    for (int i = 0; i < kLanes; ++i) {
      u[i] += other.u[i];
      uv[i] += other.uv[i];
    }
  }

  __device__ __forceinline__ SumsState<1> Lane(int i) const { return {{u[i]}, {uv[i]}}; }
};

// What there is beside the sums: nothing, y, or a gate of u that is told from v, or from a y of its
// own, and then what u is read as is written.
enum class Form { kSums, kWrites, kGatedByV, kGatedByY };

template <typename V>
struct Operands {
  const typename V::T *u, *v;  // Either may be null.
  ChannelVector center, scale, shift;  // Scale and shift of y, or of the gate.
  const typename V::C* weights;
  bool weighted;
  RectifierOf<typename V::C> gate;
  const typename V::T* gate_y;
  typename V::T* y;  // Null where it is not asked for.
};

template <typename V, Form kForm>
__global__ void __launch_bounds__(kThreads, 2)
    PartialSums(Split split, Operands<V> operands, SumsState<1>* partials) {
  constexpr bool kHasScale = kForm == Form::kWrites || kForm == Form::kGatedByV;
  constexpr bool kHasY = kForm == Form::kWrites || kForm == Form::kGatedByY;
  using C = typename V::C;
  using State = SumsState<V::kLanes>;
  using Step = Values<typename V::T, V::kWidth>;
  // Eight channels with three vectors each leave few registers for values in flight.
  constexpr bool kIsCrowded = kForm != Form::kSums && V::kLanes == 8;
  constexpr int kInFlight = (V::kHasWeights && V::kWidth > 1) || kIsCrowded ? 2 : 4;
  constexpr int kGroups = 64 / V::kWeights / kInFlight;
  const bool has_u = operands.u != nullptr, has_v = operands.v != nullptr;
  for (int64_t segment = BlockIndex().z; segment < split.layout.segments;
       segment += GridSize().z) {
    Walk<V> walk(split, segment);
    State* total = SharedState<State>(walk.x(), walk.y(), split.threads_x);
    *total = {};
    const int64_t channel = walk.channel(split);
    C center[V::kLanes] = {}, scale[V::kLanes] = {}, shift[V::kLanes] = {};
    if (walk.IsAtStep()) {
#pragma unroll
      for (int i = 0; i < V::kLanes; ++i) {
        center[i] = static_cast<C>(operands.center.at(split.layout, segment, channel + i));
        if (!kHasScale) continue;
        const double exact_scale = operands.scale.at(split.layout, segment, channel + i);
        double exact_shift = operands.shift.at(split.layout, segment, channel + i);
        if (kForm == Form::kGatedByV && sizeof(C) < sizeof(double)) {
          exact_shift -=
              exact_scale * LowPart(operands.center.at(split.layout, segment, channel + i));
        }
        scale[i] = static_cast<C>(exact_scale);
        shift[i] = static_cast<C>(exact_shift);
      }
    }
    while (walk.IsAtStep()) {
      C sum_u[V::kLanes] = {}, sum_uv[V::kLanes] = {};
#pragma unroll 1
      for (int group = 0; group < kGroups && walk.IsAtStep(); ++group) {
        Step u[kInFlight], v[kInFlight], gates[kInFlight];
        Values<C, V::kWeights> weights[kInFlight];
        bool is_step[kInFlight];
        Walk<V> writer = walk;
#pragma unroll
        for (int i = 0; i < kInFlight; ++i) {
          is_step[i] = walk.IsAtStep();
          if (is_step[i]) {
            if (has_u) u[i].Load(operands.u + walk.offset());
            if (has_v) v[i].Load(operands.v + walk.offset());
            if (kForm == Form::kGatedByY) gates[i].Load(operands.gate_y + walk.offset());
            if (V::kHasWeights) weights[i].Load(operands.weights + walk.weight());
          }
          walk.Advance();
        }
#pragma unroll
        for (int i = 0; i < kInFlight; ++i) {
          if (!is_step[i]) continue;
          Step result;
#pragma unroll
          for (int j = 0; j < V::kWidth; ++j) {
            const int lane = j % V::kLanes;
            C centred = has_v ? Widen(v[i].Get(j)) - center[lane] : C(0);
            if (V::kHasWeights) {
              const C weight = weights[i].Get(j / V::kLanes);
              if (!(weight > 0) && !IsFinite(centred)) centred = 0;
            }
            C value = has_u ? Widen(u[i].Get(j)) : centred;
            if (kForm == Form::kGatedByV) {
              value = operands.gate.Gated(value, scale[lane] * centred + shift[lane]);
            }
            if (kForm == Form::kGatedByY) {
              value = operands.gate.Gated(value, Widen(gates[i].Get(j)));
            }
            if (kHasY) {
              typename V::T narrow;
              Narrow(kHasScale ? scale[lane] * value + shift[lane] : value, &narrow);
              result.Set(j, narrow);
            }
            if (V::kHasWeights && operands.weighted) value *= weights[i].Get(j / V::kLanes);
            sum_u[lane] += value;
            sum_uv[lane] += value * centred;
          }
          if (kHasY) {
            result.Store(operands.y + writer.offset());
            writer.Advance();
          }
        }
      }
#pragma unroll
      for (int i = 0; i < V::kLanes; ++i) {
        total->u[i] += sum_u[i];
        total->uv[i] += sum_uv[i];
      }
    }
    WriteChunk<V>(walk, split, segment, total, partials);
  }
}

struct WriteSums {
  double *sum_u, *sum_uv;
  ChannelVector center;
  bool is_exact;  // Whether the centre that was subtracted is the one that was meant.

  __device__ __forceinline__ void operator()(const ChannelLayout& layout, int64_t segment,
                                             int64_t channel, const SumsState<1>& state) const {
    if (channel >= layout.channels) return;
    const int64_t i = segment * layout.channels + channel;
    sum_u[i] = state.u[0];
    if (sum_uv != nullptr) {
      const double low = is_exact ? 0.0 : LowPart(center.at(layout, segment, channel));
      sum_uv[i] = state.uv[0] - low * state.u[0];
    }
  }
};

}  // namespace

int64_t SumsScratchCuda(const SumsArguments& arguments) {
  return PartialBytes<SumsState<1>>(arguments.dtype, Simplified(arguments.layout));
}

const char* SumsCuda(const SumsArguments& arguments, void* scratch, cudaStream_t stream) {
  const ChannelLayout layout = Simplified(arguments.layout);
  if (layout.vector_size() == 0) return nullptr;
  const bool is_vector = IsVector(arguments.dtype, layout, arguments.u, arguments.v,
                                  arguments.weights, arguments.gate.y, arguments.y);
  const bool is_gated = arguments.gate.rectifier.is_given;
  const auto launch = [&](auto variant) {
    using V = decltype(variant);
    const Split split(layout, V::kWidth, kReductionBlocks);
    const Operands<V> operands = {static_cast<const typename V::T*>(arguments.u),
                                  static_cast<const typename V::T*>(arguments.v),
                                  arguments.center,
                                  is_gated ? arguments.gate.scale : arguments.scale,
                                  is_gated ? arguments.gate.shift : arguments.shift,
                                  static_cast<const typename V::C*>(arguments.weights),
                                  arguments.weighted,
                                  RectifierOf<typename V::C>(arguments.gate.rectifier),
                                  static_cast<const typename V::T*>(arguments.gate.y),
                                  static_cast<typename V::T*>(arguments.y)};
    auto kernel = PartialSums<V, Form::kSums>;
    if (arguments.y != nullptr) kernel = PartialSums<V, Form::kWrites>;
    if constexpr (!V::kHasWeights) {  // A gate has none.
      if (is_gated) {
        kernel = arguments.gate.y == nullptr ? PartialSums<V, Form::kGatedByV>
                                             : PartialSums<V, Form::kGatedByY>;
      }
    }
    const char* error = Launch(kernel, split.grid(), split.block(), stream, split, operands,
                               static_cast<SumsState<1>*>(scratch));
    if (error != nullptr) return error;
    const WriteSums write = {arguments.sum_u, arguments.sum_uv, arguments.center,
                             arguments.dtype == DataType::kFloat64 || arguments.u == nullptr};
    return LaunchMergeChunks<SumsState<1>>(split, scratch, write, stream);
  };
  return WithVariant(arguments.dtype, is_vector, layout.inner == 1, arguments.weights != nullptr,
                     launch);
}

}  // namespace keras_norms
