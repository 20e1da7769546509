// How an activation is split over the threads of a grid, the same way for all reductions and blend.
//
// A step is what a thread reads at once: `width` neighbours, 16 bytes or a single value. With
// channels last they are `width` channels of a row, and threads side by side (x) take channels side
// by side. With channels first they are values of one channel, and threads side by side (y) follow
// each other in it. Either way the threads of one x divide the steps of their channels among them:
// a segment's steps first into chunks, one a block, then a chunk's by turns.

#ifndef KERAS_NORMS_KERNELS_CUDA_SPLIT_H_
#define KERAS_NORMS_KERNELS_CUDA_SPLIT_H_

#include <algorithm>

#include "../channel_layout.h"
#include "device.h"

namespace keras_norms::cuda {

constexpr int kTurns = 8;        // A chunk has that many at least, where the segment has.
constexpr int kMinThreads = kThreads / 8;        // Of a channel (y), or of channels (x).
constexpr int kMaxThreadsX = std::max(kMinThreads, kThreads / kMinThreads);
constexpr int64_t kMaxGrid = 65535;              // In y and z.
constexpr int64_t kMaxSteps = int64_t{1} << 30;  // Of a chunk: threads count them in 32 bits.

inline int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Split {
  ChannelLayout layout;
  int64_t row_steps;  // Steps of a channel in a row.
  int threads_x, threads_y;
  int64_t channel_blocks;  // Blocks side by side that cover the channels.
  int64_t chunks, chunk_steps;
  int64_t turn_steps;   // Where a turn of threads_y steps leads: on within the row,
  int64_t turn_offset;  // and on in memory,
  int64_t wrap_offset;  // and further on in memory if that passed the end of the row.

  // `blocks`: how many should share the work; fewer where it is small.
  Split(const ChannelLayout& layout, int width, int64_t blocks) : layout(layout) {
    const bool channels_last = layout.inner == 1;
    const int64_t columns = channels_last ? layout.channels / width : layout.channels;
    row_steps = channels_last ? 1 : layout.inner / width;
    const int64_t steps = layout.segment_rows * row_steps;
    if (channels_last) {
      threads_x = static_cast<int>(std::clamp<int64_t>(columns, 1, kMinThreads));
      threads_y = kThreads / threads_x;
    } else {
      threads_y = kMinThreads;
      while (threads_y < kThreads && threads_y * kTurns < steps) threads_y *= 2;
      threads_x = kThreads / threads_y;
    }
    channel_blocks = std::max<int64_t>(1, CeilDivide(columns, threads_x));
    const int64_t most = std::max<int64_t>(1, blocks / (channel_blocks * layout.segments));
    const int64_t wanted = std::clamp<int64_t>(steps / (threads_y * kTurns), 1, most);
    chunk_steps = std::clamp<int64_t>(CeilDivide(steps, wanted), 1, kMaxSteps);
    chunk_steps = CeilDivide(chunk_steps, threads_y) * threads_y;
    chunks = std::max<int64_t>(1, CeilDivide(steps, chunk_steps));
    const int64_t row_size = layout.channels * layout.inner;
    turn_steps = threads_y % row_steps;
    turn_offset = threads_y / row_steps * row_size + (channels_last ? 0 : turn_steps * width);
    wrap_offset = row_size - layout.inner;
  }

  Dimensions grid() const {
    return Dimensions(static_cast<unsigned>(channel_blocks), static_cast<unsigned>(chunks),
                      static_cast<unsigned>(std::min(layout.segments, kMaxGrid)));
  }
  // Threads that read neighbours in memory are neighbours in their warp.
  Dimensions block() const {
    return layout.inner == 1 ? Dimensions(threads_x, threads_y) : Dimensions(threads_y, threads_x);
  }
};

// The same values in the same order, in a form that is quicker to read or easier to split.
inline ChannelLayout Simplified(ChannelLayout layout) {
  if (layout.inner == 0) {
    layout.inner = 1;
    layout.rows = layout.segment_rows = 0;
  } else if (layout.channels == 1 && layout.segments == 1 && layout.rows > 0) {
    layout.inner *= layout.rows;  // One run of memory needs no width that divides a row.
    layout.rows = layout.segment_rows = 1;
  }
  return layout;
}

}  // namespace keras_norms::cuda

#endif  // KERAS_NORMS_KERNELS_CUDA_SPLIT_H_
