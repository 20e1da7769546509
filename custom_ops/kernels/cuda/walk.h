// A thread's way through its chunk of a segment, step by step.

#ifndef KERAS_NORMS_KERNELS_CUDA_WALK_H_
#define KERAS_NORMS_KERNELS_CUDA_WALK_H_

#include "split.h"

namespace keras_norms::cuda {

template <typename V>
class Walk {
 public:
  __device__ __forceinline__ Walk(const Split& split, int64_t segment)
      : turn_(split.threads_y),
        row_steps_(split.row_steps),
        turn_steps_(split.turn_steps),
        turn_offset_(split.turn_offset),
        wrap_offset_(split.wrap_offset) {
    const ChannelLayout& layout = split.layout;
    const int64_t chunk = BlockIndex().y;
    const int64_t first_row = layout.first_row(segment);
    const int64_t first = chunk * split.chunk_steps;
    const int64_t left = (layout.end_row(segment) - first_row) * split.row_steps - first;
    const bool has_channel = channel(split) < layout.channels;
    end_ = has_channel ? static_cast<int>(left < split.chunk_steps ? left : split.chunk_steps) : 0;
    position_ = y();
    const int64_t step = first + position_;
    const int64_t row = first_row + (V::kChannelsLast ? step : step / split.row_steps);
    row_step_ = V::kChannelsLast ? 0 : step - (row - first_row) * split.row_steps;
    offset_ = (row * layout.channels + channel(split)) * layout.inner + row_step_ * V::kWidth;
    weight_ = row * layout.inner + row_step_ * V::kWidth;
  }

  __device__ __forceinline__ bool IsAtStep() const { return position_ < end_; }
  __device__ __forceinline__ int64_t offset() const { return offset_; }  // In the activation.
  __device__ __forceinline__ int64_t weight() const { return weight_; }  // In (rows, inner).

  __device__ __forceinline__ void Advance() {
    position_ += turn_;
    offset_ += turn_offset_;
    weight_ += turn_ * V::kWeights;
    if (V::kChannelsLast) return;
    row_step_ += turn_steps_;
    if (row_step_ >= row_steps_) {
      row_step_ -= row_steps_;
      offset_ += wrap_offset_;
    }
  }

  // The first of the thread's channels.
  static __device__ __forceinline__ int64_t channel(const Split& split) {
    return (static_cast<int64_t>(BlockIndex().x) * split.threads_x + x()) * V::kLanes;
  }
  static __device__ __forceinline__ int x() {
    return static_cast<int>(V::kChannelsLast ? ThreadIndex().x : ThreadIndex().y);
  }
  static __device__ __forceinline__ int y() {
    return static_cast<int>(V::kChannelsLast ? ThreadIndex().y : ThreadIndex().x);
  }

 private:
  int position_, end_, turn_;
  int64_t offset_, weight_, row_step_;
  int64_t row_steps_, turn_steps_, turn_offset_, wrap_offset_;
};

}  // namespace keras_norms::cuda

#endif  // KERAS_NORMS_KERNELS_CUDA_WALK_H_
