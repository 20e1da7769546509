// blend(u, v, a, b, c, center; w): y = a u + w (b (v - center) + c), per channel.
//
// One pass; y may be the memory of u or of v. With weights, a (v - center) that is not finite at a
// position of weight 0 is read as 0. The weights multiply only where `weighted` is set. The centre is
// subtracted as float32(center); what float32 cannot hold of it is folded into c.

#ifndef KERAS_NORMS_KERNELS_BLEND_H_
#define KERAS_NORMS_KERNELS_BLEND_H_

#include "channel_layout.h"
#include "thread_pool.h"

typedef struct CUstream_st* cudaStream_t;

namespace keras_norms {

struct BlendArguments {
  DataType dtype = DataType::kFloat32;
  ChannelLayout layout;
  const void* u = nullptr;  // Null, or (rows, channels, inner); then `a` is given.
  const void* v = nullptr;  // Null, or like u; then `b` is given. At least one of the two is there.
  ChannelVector a, b, c, center;
  const void* weights = nullptr;  // Null, or (rows, inner) >= 0; float, double for kFloat64.
  bool weighted = false;
  void* y = nullptr;  // (rows, channels, inner)
};

int64_t BlendScratchCpu(const BlendArguments& arguments);
void BlendCpu(const BlendArguments& arguments, void* scratch, const ThreadPool& pool);

int64_t BlendScratchCuda(const BlendArguments& arguments);
const char* BlendCuda(const BlendArguments& arguments, void* scratch, cudaStream_t stream);

}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_BLEND_H_
