// moments(x; w): count = sum w, mean = sum w x / count, m2 = sum w (x - mean)^2, per channel.
//
// Reads x once. Where the count is 0, mean and m2 are 0. A position of weight 0 is not looked at,
// so NaN there reaches nothing. Sums run in float32 (float64 for float64) over short blocks around
// a value of the block, and in float64 beyond: exact at any offset, and the same bits for any
// number of threads.

#ifndef KERAS_NORMS_KERNELS_MOMENTS_H_
#define KERAS_NORMS_KERNELS_MOMENTS_H_

#include "channel_layout.h"
#include "thread_pool.h"

typedef struct CUstream_st* cudaStream_t;

namespace keras_norms {

struct MomentsArguments {
  DataType dtype = DataType::kFloat32;
  ChannelLayout layout;
  const void* x = nullptr;        // (rows, channels, inner) of dtype.
  const void* weights = nullptr;  // Null, or (rows, inner) >= 0; float, double for kFloat64.
  double* count = nullptr;        // (segments)
  double* mean = nullptr;         // (segments, channels)
  double* m2 = nullptr;           // (segments, channels)
};

// Bytes of scratch memory that the call needs, aligned to 64; small beside the activation.
int64_t MomentsScratchCpu(const MomentsArguments& arguments);
void MomentsCpu(const MomentsArguments& arguments, void* scratch, const ThreadPool& pool);

// These return null, or what went wrong. The work is queued on the stream.
int64_t MomentsScratchCuda(const MomentsArguments& arguments);
const char* MomentsCuda(const MomentsArguments& arguments, void* scratch, cudaStream_t stream);

}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_MOMENTS_H_
