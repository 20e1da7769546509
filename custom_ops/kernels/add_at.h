// add_at(x, values, high_at, low_at): y = x; y[high_at[i]] += values[i], y[low_at[i]] -= values[i].
//
// The gradient of a range: a value at the largest number of a chunk, its negative at the smallest. The
// memory of y may be that of x. No place may be met by two i with values other than 0; places that are
// not in y are left out.

#ifndef KERAS_NORMS_KERNELS_ADD_AT_H_
#define KERAS_NORMS_KERNELS_ADD_AT_H_

#include <string>

#include "channel_layout.h"
#include "thread_pool.h"

typedef struct CUstream_st* cudaStream_t;

namespace keras_norms {

struct AddAtArguments {
  DataType dtype = DataType::kFloat32;
  int64_t size = 0;   // Of y, in elements.
  int64_t count = 0;  // Of the values.
  const void* x = nullptr;
  void* y = nullptr;
  const double* values = nullptr;
  const int64_t* high_at = nullptr;
  const int64_t* low_at = nullptr;
};

// What is wrong with a list of places of another shape than the values; shapes are given as text.
inline std::string PlacesProblem(const std::string& places, const std::string& values) {
  return "KerasNorms>AddAt: places must have the shape of the values. Received: places.shape=" +
         places + ", values.shape=" + values + ".";
}

void AddAtCpu(const AddAtArguments& arguments, const ThreadPool& pool);

// Returns null, or what went wrong. The work is queued on the stream.
const char* AddAtCuda(const AddAtArguments& arguments, cudaStream_t stream);

}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_ADD_AT_H_
