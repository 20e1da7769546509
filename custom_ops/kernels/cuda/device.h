// What the kernels use of CUDA: a launch, the place of a thread, a barrier, 16-bit numbers.
//
// Nothing else in this folder names the CUDA runtime. So a host compiler can build the kernels
// against an emulation (KERAS_NORMS_EMULATE_CUDA) and execute them on a machine without a GPU.

#ifndef KERAS_NORMS_KERNELS_CUDA_DEVICE_H_
#define KERAS_NORMS_KERNELS_CUDA_DEVICE_H_

#include <cstdint>
#include <cstring>

#ifdef KERAS_NORMS_EMULATE_CUDA
#include "cuda_emulation.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace keras_norms::cuda {

constexpr int kThreads = 256;  // Of a block: the most; a block may have a few less.
// Blocks that share the work of a reduction, and of an elementwise kernel. A constant, not the
// size of the card at hand, so that results have the same bits on every card.
constexpr int64_t kReductionBlocks = 1024;
constexpr int64_t kElementwiseBlocks = 4096;

using Half = __half;
using BFloat16 = __nv_bfloat16;
using Dimensions = dim3;
using Piece = uint4;  // What a thread can move at once.

__device__ __forceinline__ float Widen(Half x) { return __half2float(x); }
__device__ __forceinline__ float Widen(BFloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ void Narrow(float from, Half* to) { *to = __float2half_rn(from); }
__device__ __forceinline__ void Narrow(float from, BFloat16* to) {
  *to = __float2bfloat16_rn(from);
}

// As instructions, because the compiler may take the copy of a structure apart.
__device__ __forceinline__ Piece LoadPiece(const Piece* from) {
  Piece piece;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(piece.x), "=r"(piece.y), "=r"(piece.z), "=r"(piece.w)
               : "l"(from));
  return piece;
}
__device__ __forceinline__ void StorePiece(Piece piece, Piece* to) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(piece.x), "r"(piece.y),
               "r"(piece.z), "r"(piece.w)
               : "memory");
}

__device__ __forceinline__ Dimensions ThreadIndex() { return threadIdx; }
__device__ __forceinline__ Dimensions BlockIndex() { return blockIdx; }
__device__ __forceinline__ Dimensions GridSize() { return gridDim; }
__device__ __forceinline__ void Barrier() { __syncthreads(); }  // For all threads of the block.

// Returns null, or what went wrong.
template <typename... Parameters, typename... Arguments>
const char* Launch(void (*kernel)(Parameters...), Dimensions grid, Dimensions block,
                   cudaStream_t stream, const Arguments&... arguments) {
  kernel<<<grid, block, 0, stream>>>(arguments...);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// Copies within the memory of the device. Returns null, or what went wrong.
inline const char* CopyMemory(void* to, const void* from, size_t bytes, cudaStream_t stream) {
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace keras_norms::cuda

#endif  // KERAS_NORMS_EMULATE_CUDA

namespace keras_norms::cuda {

__device__ __forceinline__ float Widen(float x) { return x; }
__device__ __forceinline__ double Widen(double x) { return x; }
__device__ __forceinline__ void Narrow(float from, float* to) { *to = from; }
__device__ __forceinline__ void Narrow(double from, double* to) { *to = from; }

// What a dtype is computed in.
template <typename T>
struct ComputeType {
  using Type = float;
};
template <>
struct ComputeType<double> {
  using Type = double;
};
template <typename T>
using Compute = typename ComputeType<T>::Type;

template <typename C>
__device__ __forceinline__ bool IsFinite(C x) {
  return x - x == 0;
}

// What float cannot hold of a double.
__device__ __forceinline__ double LowPart(double x) {
  return x - static_cast<double>(static_cast<float>(x));
}

// Neighbours in memory, moved in pieces of 16 bytes. Values of 16 bits stay packed, two a register,
// until they are asked for.
template <typename T, int kWidth>
struct Values {
  static_assert(sizeof(T) * kWidth % sizeof(Piece) == 0);
  static constexpr int kPieces = sizeof(T) * kWidth / sizeof(Piece);
  Piece pieces[kPieces];

  __device__ __forceinline__ T Get(int i) const {
    T value;
    memcpy(&value, reinterpret_cast<const char*>(pieces) + i * sizeof(T), sizeof(T));
    return value;
  }
  __device__ __forceinline__ void Set(int i, T value) {
    memcpy(reinterpret_cast<char*>(pieces) + i * sizeof(T), &value, sizeof(T));
  }
  __device__ __forceinline__ void Load(const T* from) {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      pieces[i] = LoadPiece(reinterpret_cast<const Piece*>(from) + i);
    }
  }
  __device__ __forceinline__ void Store(T* to) const {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) StorePiece(pieces[i], reinterpret_cast<Piece*>(to) + i);
  }
};

// A single value.
template <typename T>
struct Values<T, 1> {
  T value;

  __device__ __forceinline__ T Get(int) const { return value; }
  __device__ __forceinline__ void Set(int, T from) { value = from; }
  __device__ __forceinline__ void Load(const T* from) { value = *from; }
  __device__ __forceinline__ void Store(T* to) const { *to = value; }
};

}  // namespace keras_norms::cuda

#endif  // KERAS_NORMS_KERNELS_CUDA_DEVICE_H_
