// What the kernels see: activations as rows x channels x inner, vectors per channel.
//
// An activation is a C-ordered array (rows, channels, inner). Channels-last has inner = 1, and for
// channels-first images inner = height * width; nothing is transposed. Segments are runs of
// segment_rows rows with vectors of their own; the last one takes what is left.
// Included by host and device code, with and without TensorFlow.

#ifndef KERAS_NORMS_KERNELS_CHANNEL_LAYOUT_H_
#define KERAS_NORMS_KERNELS_CHANNEL_LAYOUT_H_

#include <cstdint>

#ifdef __CUDACC__
#define KERAS_NORMS_HD __host__ __device__
#else
#define KERAS_NORMS_HD
#endif

namespace keras_norms {

enum class DataType { kFloat32, kFloat64, kFloat16, kBFloat16 };

struct ChannelLayout {
  int64_t rows = 0;
  int64_t channels = 0;
  int64_t inner = 1;
  int64_t segments = 1;      // 0 only where there are no rows.
  int64_t segment_rows = 0;  // Rows of every segment but the last; `rows` for a single segment.
  int64_t row_channels = 0;  // For some channels of an activation: how many a row of it has. CPU.

  KERAS_NORMS_HD int64_t first_row(int64_t segment) const { return segment * segment_rows; }
  KERAS_NORMS_HD int64_t end_row(int64_t segment) const {
    const int64_t end = (segment + 1) * segment_rows;
    return end < rows ? end : rows;
  }
  KERAS_NORMS_HD int64_t size() const { return rows * channels * inner; }
  // The distance of rows in memory, in planes of `inner` values.
  int64_t stride() const { return row_channels > 0 ? row_channels : channels; }
  // With the channels that are not ours.
  int64_t whole_size() const { return rows * stride() * inner; }
  // The length of a vector that every segment has its own of: (segments, channels).
  KERAS_NORMS_HD int64_t vector_size() const { return segments * channels; }
};

// A vector that a kernel reads: float or double, one value a channel, or one a segment and channel.
struct ChannelVector {
  const void* data = nullptr;  // Null where it is absent.
  bool is_double = true;
  bool per_segment = false;

  KERAS_NORMS_HD double at(const ChannelLayout& layout, int64_t segment, int64_t channel) const {
    if (data == nullptr) return 0.0;
    const int64_t i = per_segment ? segment * layout.channels + channel : channel;
    return is_double ? static_cast<const double*>(data)[i]
                     : static_cast<double>(static_cast<const float*>(data)[i]);
  }
};

}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_CHANNEL_LAYOUT_H_
