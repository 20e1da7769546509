// normalize(x): the moments of x and y = rectifier(gamma (x - mean) / sqrt(variance + epsilon) +
// beta + residual), per channel, and what moves the moving statistics. normalize_grad(dy): all
// gradients of that.
//
// The plain formula of batch normalization as one call each way. It is moments, then blend; and
// sums, then blend. In between are vectors. Where the channels of an activation can be computed one
// group after the other, a group stays in the caches of a core from the first pass to the second.

#ifndef KERAS_NORMS_KERNELS_NORMALIZE_H_
#define KERAS_NORMS_KERNELS_NORMALIZE_H_

#include "channel_layout.h"
#include "rectifier.h"
#include "thread_pool.h"

typedef struct CUstream_st* cudaStream_t;

namespace keras_norms {

// new = (1 - share) old + share batch, in the type of the vectors; old where the count is 0.
struct MovingAverage {
  ChannelVector mean, variance;  // The old ones, of one type; absent where there is no average.
  const void* share = nullptr;   // One number of that type.
  void* new_mean = nullptr;
  void* new_variance = nullptr;
};

struct NormalizeArguments {
  DataType dtype = DataType::kFloat32;
  ChannelLayout layout;
  const void* x = nullptr;         // (rows, channels, inner)
  const void* residual = nullptr;  // Null, or like x.
  ChannelVector gamma, beta;       // Absent: 1 and 0.
  // Null, or the moments of each of some batches, which are taken together: (members, count, mean of
  // every channel, m2 of every channel). Then x is not asked for its own. Without segments only.
  const double* parts = nullptr;
  int64_t members = 0;
  double epsilon = 0.0;
  Rectifier rectifier;
  MovingAverage moving;  // Without segments only.
  void* y = nullptr;     // Like x; it may be the memory of the residual.
  double* count = nullptr;     // (segments)
  double* mean = nullptr;      // (segments, channels)
  double* variance = nullptr;  // (segments, channels)
};

struct NormalizeGradArguments {
  DataType dtype = DataType::kFloat32;
  ChannelLayout layout;
  const void* dy = nullptr;  // (rows, channels, inner)
  const void* x = nullptr;   // Like dy.
  const void* y = nullptr;   // With a rectifier and a residual: the result. Otherwise null.
  // Null, or sums of dy and then of dy (x - mean): of this batch, for gamma and beta, and of all that
  // were taken together. Then there is no rectifier. Without segments only.
  const double* own_sums = nullptr;
  const double* sums = nullptr;
  ChannelVector gamma, beta;  // beta only with a rectifier and without y.
  double epsilon = 0.0;
  Rectifier rectifier;
  const double* count = nullptr;
  ChannelVector mean, variance;        // Those of normalize.
  ChannelVector of_mean, of_variance;  // Gradients of these, or absent.
  void* dx = nullptr;         // Like dy; it may be the memory of dy.
  void* dresidual = nullptr;  // Where y is given: like dy, and not the memory of dx.
  void* dgamma = nullptr;     // (channels), of the type of gamma; null where that is absent.
  void* dbeta = nullptr;      // (channels), double unless `vectors_are_double` says otherwise.
  bool vectors_are_double = false;
};

int64_t NormalizeScratchCpu(const NormalizeArguments& arguments);
void NormalizeCpu(const NormalizeArguments& arguments, void* scratch, const ThreadPool& pool);
int64_t NormalizeGradScratchCpu(const NormalizeGradArguments& arguments);
void NormalizeGradCpu(const NormalizeGradArguments& arguments, void* scratch,
                      const ThreadPool& pool);

// These return null, or what went wrong. The work is queued on the stream.
int64_t NormalizeScratchCuda(const NormalizeArguments& arguments);
const char* NormalizeCuda(const NormalizeArguments& arguments, void* scratch, cudaStream_t stream);
int64_t NormalizeGradScratchCuda(const NormalizeGradArguments& arguments);
const char* NormalizeGradCuda(const NormalizeGradArguments& arguments, void* scratch,
                              cudaStream_t stream);

}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_NORMALIZE_H_
