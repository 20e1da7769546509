// Extremes on the GPU: blocks write what they find in a piece of each chunk, then pieces are merged.
//
// A thread reads single values, neighbours in memory beside each other in a warp, several at a time.
// It sums up to 64 of them in the compute type around the first; where that overflows, they are read
// again and summed in double. Beyond that numbers are float64, and of equal extremes the one at the
// smallest position stays.

#include "../extremes.h"

#include "reduce.cuh"
#include "variant.h"

namespace keras_norms {
namespace {

using namespace cuda;  // NOLINT: the kernels are written in its terms.

struct ExtremesState {
  double count, shift, sum, low, low_at, high, high_at;

  __device__ __forceinline__ void Merge(const ExtremesState& other) {
    if (other.count == 0) return;
    if (count == 0) {
      *this = other;
      return;
    }
    count += other.count;
    sum += other.sum + other.count * (other.shift - shift);
    if (other.low < low || (other.low == low && other.low_at < low_at)) {
      low = other.low;
      low_at = other.low_at;
    }
    if (other.high > high || (other.high == high && other.high_at < high_at)) {
      high = other.high;
      high_at = other.high_at;
    }
  }

  __device__ __forceinline__ const ExtremesState& Lane(int) const { return *this; }
};

// Chunks as segments of a layout that Split divides over threads: of rows where channels come last,
// otherwise of planes.
ChannelLayout ChunkLayout(const ChannelLayout& layout, int64_t chunks) {
  const Chunks all(layout, chunks);
  const int64_t longest = all.longest();
  if (layout.inner == 1) return {all.positions, layout.channels, 1, all.size(), longest};
  return {all.size(), layout.channels, std::max<int64_t>(longest, 2), all.size(), 1};
}

// A thread's way through the positions of its piece of a chunk.
template <typename V>
class PositionWalk {
 public:
  __device__ __forceinline__ PositionWalk(const Split& split, const ChannelLayout& layout,
                                          int64_t first, int64_t end)
      : turn_(split.threads_y), layout_(layout) {
    const int64_t begin = first + BlockIndex().y * split.chunk_steps;
    const int64_t last = begin + split.chunk_steps;
    end_ = channel(split) < layout.channels ? (last < end ? last : end) : 0;
    position_ = begin + y();
    const int64_t row = position_ / layout.inner;
    in_row_ = position_ - row * layout.inner;
    offset_ = (row * layout.channels + channel(split)) * layout.inner + in_row_;
    const int64_t turn_rows = turn_ / layout.inner;
    turn_in_row_ = turn_ - turn_rows * layout.inner;
    turn_offset_ = turn_rows * layout.channels * layout.inner + turn_in_row_;
  }

  __device__ __forceinline__ bool IsAtPosition() const { return position_ < end_; }
  __device__ __forceinline__ int64_t position() const { return position_; }
  __device__ __forceinline__ int64_t offset() const { return offset_; }  // In the activation.

  __device__ __forceinline__ void Advance() {
    position_ += turn_;
    offset_ += turn_offset_;
    if (V::kChannelsLast) return;
    in_row_ += turn_in_row_;
    if (in_row_ >= layout_.inner) {
      in_row_ -= layout_.inner;
      offset_ += (layout_.channels - 1) * layout_.inner;
    }
  }

  static __device__ __forceinline__ int64_t channel(const Split& split) {
    return static_cast<int64_t>(BlockIndex().x) * split.threads_x + x();
  }
  static __device__ __forceinline__ int x() {
    return static_cast<int>(V::kChannelsLast ? ThreadIndex().x : ThreadIndex().y);
  }
  static __device__ __forceinline__ int y() {
    return static_cast<int>(V::kChannelsLast ? ThreadIndex().y : ThreadIndex().x);
  }

 private:
  const int64_t turn_;
  const ChannelLayout layout_;
  int64_t position_, end_, offset_, in_row_, turn_in_row_, turn_offset_;
};

template <typename V>
__global__ void __launch_bounds__(kThreads, 2)
    PartialExtremes(Split split, ChannelLayout layout, Chunks chunks, const typename V::T* x,
                    const typename V::C* weights, ExtremesState* partials) {
  using C = typename V::C;
  constexpr int kInFlight = 8, kGroups = 64 / kInFlight;
  for (int64_t run = BlockIndex().z; run < chunks.size(); run += GridSize().z) {
    PositionWalk<V> walk(split, layout, chunks.first(run), chunks.end(run));
    ExtremesState* state = SharedState<ExtremesState>(walk.x(), walk.y(), split.threads_x);
    *state = {};
    while (walk.IsAtPosition()) {
      const PositionWalk<V> start = walk;
      C shift = 0, sum = 0, low = 0, high = 0;
      int64_t low_at = 0, high_at = 0;
      int count = 0;
#pragma unroll 1
      for (int group = 0; group < kGroups && walk.IsAtPosition(); ++group) {
        typename V::T loaded[kInFlight];
        bool is_counted[kInFlight];
        int64_t positions[kInFlight];
#pragma unroll
        for (int i = 0; i < kInFlight; ++i) {
          positions[i] = walk.position();
          is_counted[i] = walk.IsAtPosition();
          if (is_counted[i]) {
            loaded[i] = x[walk.offset()];
            if (V::kHasWeights) is_counted[i] = weights[positions[i]] > 0;
          }
          walk.Advance();
        }
#pragma unroll
        for (int i = 0; i < kInFlight; ++i) {
          if (!is_counted[i]) continue;
          const C value = Widen(loaded[i]);
          if (count == 0) shift = value;
          sum += value - shift;
          if (count == 0 || value < low) {
            low = value;
            low_at = positions[i];
          }
          if (count == 0 || value > high) {
            high = value;
            high_at = positions[i];
          }
          ++count;
        }
      }
      if (IsFinite(sum)) {
        state->Merge({static_cast<double>(count), static_cast<double>(shift),
                      static_cast<double>(sum), static_cast<double>(low),
                      static_cast<double>(low_at), static_cast<double>(high),
                      static_cast<double>(high_at)});
        continue;
      }
#pragma unroll 1
      for (PositionWalk<V> again = start;
           again.IsAtPosition() && again.position() < walk.position(); again.Advance()) {
        if (V::kHasWeights && !(weights[again.position()] > 0)) continue;
        const double value = static_cast<double>(Widen(x[again.offset()]));
        const double at = static_cast<double>(again.position());
        state->Merge({1, value, 0, value, at, value, at});
      }
    }
    WriteChunk<V>(walk, split, run, state, partials);
  }
}

struct WriteExtremes {
  ChannelLayout layout;
  double *count, *mean, *low, *high;
  int64_t *low_at, *high_at;

  __device__ __forceinline__ void operator()(const ChannelLayout&, int64_t run, int64_t channel,
                                             const ExtremesState& state) const {
    if (channel == 0) count[run] = state.count;
    if (channel >= layout.channels) return;
    const int64_t i = run * layout.channels + channel;
    const bool has_any = state.count > 0;
    mean[i] = has_any ? state.shift + state.sum / state.count : 0;
    low[i] = state.low;
    high[i] = state.high;
    low_at[i] = has_any ? PlaceOf(layout, static_cast<int64_t>(state.low_at), channel) : 0;
    high_at[i] = has_any ? PlaceOf(layout, static_cast<int64_t>(state.high_at), channel) : 0;
  }
};

}  // namespace

int64_t ExtremesScratchCuda(const ExtremesArguments& arguments) {
  return PartialBytes<ExtremesState>(arguments.dtype,
                                     ChunkLayout(arguments.layout, arguments.chunks));
}

const char* ExtremesCuda(const ExtremesArguments& arguments, void* scratch, cudaStream_t stream) {
  ChannelLayout layout = arguments.layout;
  const Chunks chunks(layout, arguments.chunks);
  if (chunks.size() == 0) return nullptr;
  const Split split(ChunkLayout(layout, arguments.chunks), 1, kReductionBlocks);
  if (layout.inner == 0) layout.inner = 1;  // There are no positions, but places are divided by it.
  const auto launch = [&](auto variant) {
    using V = decltype(variant);
    const char* error =
        Launch(PartialExtremes<V>, split.grid(), split.block(), stream, split, layout, chunks,
               static_cast<const typename V::T*>(arguments.x),
               static_cast<const typename V::C*>(arguments.weights),
               static_cast<ExtremesState*>(scratch));
    if (error != nullptr) return error;
    const WriteExtremes write = {layout,         arguments.count,  arguments.mean,   arguments.low,
                                 arguments.high, arguments.low_at, arguments.high_at};
    return LaunchMergeChunks<ExtremesState>(split, scratch, write, stream);
  };
  // Whether a plane or a row has neighbours was decided by the split.
  return WithVariant(arguments.dtype, /*is_vector=*/false, split.layout.inner == 1,
                     arguments.weights != nullptr, launch);
}

}  // namespace keras_norms
