// The CUDA kernels as C functions, which Python calls through ctypes. For benchmarks/gpu.py only.

#include "blend.h"
#include "moments.h"
#include "normalize.h"
#include "sums.h"

using namespace keras_norms;  // NOLINT: C symbols lie outside of it.

// Size: what a structure takes here, to be compared with what ctypes makes of it.
#define DEFINE_KERNEL(Name)                                                         \
  int64_t Name##Size() { return sizeof(Name##Arguments); }                          \
  int64_t Name##Scratch(const Name##Arguments* a) { return Name##ScratchCuda(*a); } \
  const char* Name(const Name##Arguments* a, void* scratch, void* stream) {         \
    return Name##Cuda(*a, scratch, static_cast<cudaStream_t>(stream));              \
  }

extern "C" {
DEFINE_KERNEL(Moments)
DEFINE_KERNEL(Sums)
DEFINE_KERNEL(Blend)
DEFINE_KERNEL(Normalize)
DEFINE_KERNEL(NormalizeGrad)
}
