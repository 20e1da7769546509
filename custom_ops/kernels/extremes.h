// extremes(x; w): count, mean, smallest and largest value of each chunk, and where these are.
//
// Reads x once. A segment is cut into `chunks` runs of consecutive positions of a channel, rows and
// inner ones counted in the order of memory. A position counts where its weight is above 0. Places
// are those of the first of equals, in elements of x. Where nothing counts, numbers and places are
// 0. Infinity or NaN among values that count makes a mean that is not finite either; the extremes
// may then be anything, but places lie in x.

#ifndef KERAS_NORMS_KERNELS_EXTREMES_H_
#define KERAS_NORMS_KERNELS_EXTREMES_H_

#include "channel_layout.h"
#include "thread_pool.h"

typedef struct CUstream_st* cudaStream_t;

namespace keras_norms {

// The chunks of all segments, one after the other, as runs of positions of a channel.
//
// n positions are cut into as few chunks as leave each two positions, and at most `chunks`: the
// first n mod chunks have one position more than the others. What is left over is empty.
struct Chunks {
  int64_t positions = 0;          // Of a channel.
  int64_t segment_positions = 0;  // Of every segment but the last.
  int64_t segments = 1;
  int64_t chunks = 1;             // Of a segment.

  KERAS_NORMS_HD Chunks(const ChannelLayout& layout, int64_t chunks)
      : positions(layout.rows * layout.inner),
        segment_positions(layout.segment_rows * layout.inner),
        segments(layout.segments),
        chunks(chunks) {}

  KERAS_NORMS_HD int64_t size() const { return segments * chunks; }
  KERAS_NORMS_HD int64_t first(int64_t run) const { return Begin(run / chunks, run % chunks); }
  KERAS_NORMS_HD int64_t end(int64_t run) const { return Begin(run / chunks, run % chunks + 1); }
  // Positions of the longest. It is the first of a segment; the last segment, of fewer positions,
  // may have fewer and longer ones.
  KERAS_NORMS_HD int64_t longest() const {
    if (segments == 0) return 0;
    const int64_t last = (segments - 1) * chunks;
    const int64_t m = end(0) - first(0), n = end(last) - first(last);
    return m < n ? n : m;
  }

 private:
  KERAS_NORMS_HD int64_t Begin(int64_t segment, int64_t chunk) const {
    const int64_t first = segment * segment_positions;
    const int64_t left = positions - first;
    const int64_t n = left < segment_positions ? left : segment_positions;
    int64_t used = n / 2 < chunks ? n / 2 : chunks;
    if (used < 1) used = 1;
    if (chunk > used) chunk = used;
    const int64_t longer = n % used;
    return first + chunk * (n / used) + (chunk < longer ? chunk : longer);
  }
};

struct ExtremesArguments {
  DataType dtype = DataType::kFloat32;
  ChannelLayout layout;
  int64_t chunks = 1;
  const void* x = nullptr;        // (rows, channels, inner) of dtype.
  const void* weights = nullptr;  // Null, or (rows, inner); float, double for kFloat64.
  double* count = nullptr;        // (segments, chunks)
  double* mean = nullptr;         // (segments, chunks, channels), like all that follow.
  double* low = nullptr;
  double* high = nullptr;
  int64_t* low_at = nullptr;
  int64_t* high_at = nullptr;
};

// Where in x a channel's position is, in elements.
KERAS_NORMS_HD inline int64_t PlaceOf(const ChannelLayout& layout, int64_t position,
                                      int64_t channel) {
  const int64_t row = position / layout.inner;
  return (row * layout.channels + channel) * layout.inner + position % layout.inner;
}

// Bytes of scratch memory that the call needs, aligned to 64; small beside the activation.
int64_t ExtremesScratchCpu(const ExtremesArguments& arguments);
void ExtremesCpu(const ExtremesArguments& arguments, void* scratch, const ThreadPool& pool);

// These return null, or what went wrong. The work is queued on the stream.
int64_t ExtremesScratchCuda(const ExtremesArguments& arguments);
const char* ExtremesCuda(const ExtremesArguments& arguments, void* scratch, cudaStream_t stream);

}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_EXTREMES_H_
