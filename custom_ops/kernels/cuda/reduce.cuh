// The second half of a reduction: merging what threads, and then blocks, have summed.
//
// A State is plain memory of doubles, all zero at the start, with Merge(const State&). States are
// merged in an order that only the split decides, so results are the same bits on every run.

#ifndef KERAS_NORMS_KERNELS_CUDA_REDUCE_CUH_
#define KERAS_NORMS_KERNELS_CUDA_REDUCE_CUH_

#include "split.h"
#include "variant.h"

namespace keras_norms::cuda {

// The state of a thread lies in shared memory: registers are for the values in flight.
template <typename State>
__device__ __forceinline__ State* SharedState(int x, int y, int threads_x) {
  // An odd number of doubles apart: neighbours lie in different banks.
  constexpr int kStride = sizeof(State) / sizeof(double) | 1;
  __shared__ double slots[kThreads * kStride];
  return reinterpret_cast<State*>(slots + (y * threads_x + x) * kStride);
}

// Merges the states of all y into that of y = 0, for each x. To be called by the whole block.
template <typename State>
__device__ __forceinline__ void MergeThreads(int x, int y, int threads_x, int threads_y) {
  for (int count = threads_y; count > 1;) {
    const int half = (count + 1) / 2;
    Barrier();
    if (y + half < count) {
      SharedState<State>(x, y, threads_x)->Merge(*SharedState<State>(x, y + half, threads_x));
    }
    count = half;
  }
}

// Merges the states of a block and writes them, one for each of its channels, where its chunk of
// the segment belongs in `partials`. To be called by the whole block, with a walk that is done.
template <typename V, typename Walk, typename State, typename Partial>
__device__ __forceinline__ void WriteChunk(const Walk& walk, const Split& split, int64_t segment,
                                           const State* state, Partial* partials) {
  MergeThreads<State>(walk.x(), walk.y(), split.threads_x, split.threads_y);
  if (walk.y() == 0) {
    const int64_t channel = walk.channel(split);
    const int64_t first = (segment * split.chunks + BlockIndex().y) * split.layout.channels;
#pragma unroll
    for (int i = 0; i < V::kLanes; ++i) {
      if (channel + i < split.layout.channels) partials[first + channel + i] = state->Lane(i);
    }
  }
  Barrier();  // Before the next segment's states.
}

// Merges partial states (segments, chunks, channels) and hands each result to `finish`.
template <typename State, typename Finish>
__global__ void __launch_bounds__(kThreads)
    MergeChunks(ChannelLayout layout, int64_t chunks, int threads_x, int threads_y,
                const State* partials, Finish finish) {
  const int x = ThreadIndex().x, y = ThreadIndex().y;
  const int64_t channel = static_cast<int64_t>(BlockIndex().x) * threads_x + x;
  for (int64_t segment = BlockIndex().z; segment < layout.segments; segment += GridSize().z) {
    State* state = SharedState<State>(x, y, threads_x);
    *state = {};
    if (channel < layout.channels) {
      const State* partial = partials + segment * chunks * layout.channels + channel;
#pragma unroll 4
      for (int64_t chunk = y; chunk < chunks; chunk += threads_y) {
        state->Merge(partial[chunk * layout.channels]);
      }
    }
    MergeThreads<State>(x, y, threads_x, threads_y);
    if (y == 0) finish(layout, segment, channel, *state);
    Barrier();  // Before the next segment's states.
  }
}

template <typename State, typename Finish>
const char* LaunchMergeChunks(const Split& split, const void* partials, const Finish& finish,
                              cudaStream_t stream) {
  int threads_y = 1;
  while (threads_y < split.chunks && threads_y < kThreads / 4) threads_y *= 2;
  const int threads_x = kThreads / threads_y;
  Dimensions grid = split.grid();
  grid.x = static_cast<unsigned>(
      std::max<int64_t>(1, CeilDivide(split.layout.channels, threads_x)));
  grid.y = 1;
  return Launch(MergeChunks<State, Finish>, grid, Dimensions(threads_x, threads_y), stream,
                split.layout, split.chunks, threads_x, threads_y,
                static_cast<const State*>(partials), finish);
}

// Bytes of the partial states, whatever the width that the pointers will allow.
template <typename State>
int64_t PartialBytes(DataType dtype, const ChannelLayout& layout) {
  if (layout.vector_size() == 0) return 0;
  const Split narrow(layout, 1, kReductionBlocks);
  const Split wide(layout, VectorWidth(dtype, layout), kReductionBlocks);
  return layout.vector_size() * std::max(narrow.chunks, wide.chunks) *
         static_cast<int64_t>(sizeof(State));
}

}  // namespace keras_norms::cuda

#endif  // KERAS_NORMS_KERNELS_CUDA_REDUCE_CUH_
