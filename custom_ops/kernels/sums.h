// sums(u, v, center; w): sum w u and, where v is given, sum w u (v - center), per channel. Without u
// they are those of v - center: sum w (v - center) and sum w (v - center)^2.
// With `scale`, in the same pass and without w: y = scale u, or y = scale (v - center) + shift.
//
// Reads u and v once. With weights, a (v - center) that is not finite at a position of weight 0
// is read as 0. The weights weigh only where `weighted` is set; otherwise that rule is all that
// they are used for. The centre is subtracted as float32(center) before anything is multiplied; what
// float32 cannot hold of it is put right in the result (low * sum w u), without u it is left out.

#ifndef KERAS_NORMS_KERNELS_SUMS_H_
#define KERAS_NORMS_KERNELS_SUMS_H_

#include "channel_layout.h"
#include "rectifier.h"
#include "thread_pool.h"

typedef struct CUstream_st* cudaStream_t;

namespace keras_norms {

struct SumsArguments {
  DataType dtype = DataType::kFloat32;
  ChannelLayout layout;
  const void* u = nullptr;        // Null, or (rows, channels, inner).
  const void* v = nullptr;        // Null, or like u. At least one of the two is there.
  ChannelVector center;           // Absent: 0.
  ChannelVector scale, shift;     // Scale is there exactly where y is, which needs v; shift needs y
                                  // and no u.
  const void* weights = nullptr;  // Null, or (rows, inner) >= 0; float, double for kFloat64.
  bool weighted = false;
  Gate gate;  // For u and v, without weights. With a y of its own, our y is what u is read as.
  double* sum_u = nullptr;   // (segments, channels)
  double* sum_uv = nullptr;  // Null exactly where v is.
  void* y = nullptr;         // Null, or (rows, channels, inner); it may be the memory of u or of v.
};

int64_t SumsScratchCpu(const SumsArguments& arguments);
void SumsCpu(const SumsArguments& arguments, void* scratch, const ThreadPool& pool);

int64_t SumsScratchCuda(const SumsArguments& arguments);
const char* SumsCuda(const SumsArguments& arguments, void* scratch, cudaStream_t stream);

}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_SUMS_H_
