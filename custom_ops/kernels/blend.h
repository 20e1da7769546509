// blend(u, v, a, b, c, center; w): y = a u + w (b (v - center) + c), per channel, or with a rectifier
// that of this.
//
// One pass; y may be the memory of u or of v. With weights, a (v - center) that is not finite at a
// position of weight 0 is read as 0. The weights multiply only where `weighted` is set. The centre is
// subtracted as float32(center); what float32 cannot hold of it is folded into c.

#ifndef KERAS_NORMS_KERNELS_BLEND_H_
#define KERAS_NORMS_KERNELS_BLEND_H_

#include "channel_layout.h"
#include "rectifier.h"
#include "thread_pool.h"

typedef struct CUstream_st* cudaStream_t;

namespace keras_norms {

struct BlendArguments {
  DataType dtype = DataType::kFloat32;
  ChannelLayout layout;
  const void* u = nullptr;  // Null, or (rows, channels, inner); without `a` it is taken as it is.
  const void* v = nullptr;  // Null, or like u; then `b` is given. At least one of the two is there.
  ChannelVector a, b, c, center;
  const void* weights = nullptr;  // Null, or (rows, inner) >= 0; float, double for kFloat64.
  bool weighted = false;
  Rectifier rectifier;
  Gate gate;          // For u and v, without weights and y.
  void* y = nullptr;  // (rows, channels, inner)
  bool backwards = false;  // On the CPU: from the last rows to the first, which were read last.
};

int64_t BlendScratchCpu(const BlendArguments& arguments);
void BlendCpu(const BlendArguments& arguments, void* scratch, const ThreadPool& pool);

int64_t BlendScratchCuda(const BlendArguments& arguments);
const char* BlendCuda(const BlendArguments& arguments, void* scratch, cudaStream_t stream);

}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_BLEND_H_
