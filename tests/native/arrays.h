// Arrays of any dtype that the kernels take, for the checks: exactly as large as they claim to be.

#ifndef KERAS_NORMS_TESTS_NATIVE_ARRAYS_H_
#define KERAS_NORMS_TESTS_NATIVE_ARRAYS_H_

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>

#include "channel_layout.h"

namespace keras_norms::testing {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

inline int64_t SizeOf(DataType dtype) {
  return dtype == DataType::kFloat64 ? 8 : dtype == DataType::kFloat32 ? 4 : 2;
}
inline const char* NameOf(DataType dtype) {
  const char* const names[] = {"float32", "float64", "float16", "bfloat16"};
  return names[static_cast<int>(dtype)];
}
// The distance from 1 to the next number.
inline double EpsilonOf(DataType dtype) {
  const int bits[] = {23, 52, 10, 7};
  return std::ldexp(1.0, -bits[static_cast<int>(dtype)]);
}
// The dtype that an activation is computed in, and that its weights have.
inline DataType ComputeTypeOf(DataType dtype) {
  return dtype == DataType::kFloat64 ? DataType::kFloat64 : DataType::kFloat32;
}

class Array {
 public:
  // All NaN, at an address that is `misaligned` elements past a multiple of 64 bytes.
  Array(DataType dtype, int64_t size, int64_t misaligned = 0)
      : dtype_(dtype),
        size_(size),
        memory_(Allocate((size + misaligned) * SizeOf(dtype)), std::free),
        data_(memory_.get() + misaligned * SizeOf(dtype)) {
    for (int64_t i = 0; i < size; ++i) Set(i, kNaN);
  }

  void* data() { return data_; }
  int64_t size() const { return size_; }

  double Get(int64_t i) const {
    const char* from = data_ + i * SizeOf(dtype_);
    if (dtype_ == DataType::kFloat64) return As<double>(from);
    if (dtype_ == DataType::kFloat32) return As<float>(from);
    if (dtype_ == DataType::kFloat16) return static_cast<double>(As<_Float16>(from));
    const uint32_t bits = static_cast<uint32_t>(As<uint16_t>(from)) << 16;
    return As<float>(reinterpret_cast<const char*>(&bits));
  }

  void Set(int64_t i, double value) {
    char* to = data_ + i * SizeOf(dtype_);
    const float narrow = static_cast<float>(value);
    const _Float16 half = static_cast<_Float16>(narrow);
    if (dtype_ == DataType::kFloat64) std::memcpy(to, &value, 8);
    if (dtype_ == DataType::kFloat32) std::memcpy(to, &narrow, 4);
    if (dtype_ == DataType::kFloat16) std::memcpy(to, &half, 2);
    if (dtype_ == DataType::kBFloat16) {
      uint32_t bits;
      std::memcpy(&bits, &narrow, 4);
      // Cut off, not rounded: any numbers will do as input. NaN keeps its upper bits.
      const uint16_t upper = static_cast<uint16_t>(bits >> 16);
      std::memcpy(to, &upper, 2);
    }
  }

 private:
  static char* Allocate(int64_t bytes) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 64, bytes) != 0) std::abort();
    return static_cast<char*>(memory);
  }
  template <typename T>
  static T As(const char* from) {
    T value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }

  DataType dtype_;
  int64_t size_;
  std::unique_ptr<char, void (*)(void*)> memory_;
  char* data_;
};

// The same numbers on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2654435761u + 1) {}
  double Uniform() {  // In [0, 1).
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(state_ >> 11) * 0x1p-53;
  }
  double Normal() {  // Close enough: the sum of twelve, less its mean.
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += Uniform();
    return sum;
  }

 private:
  uint64_t state_;
};

// A vector that the kernels read: (channels) or (segments, channels), float or double.
struct Vector {
  Vector(const ChannelLayout& layout, double mean, double deviation, bool is_double,
         bool per_segment)
      : layout(layout),
        values(is_double ? DataType::kFloat64 : DataType::kFloat32,
               per_segment ? layout.vector_size() : layout.channels) {
    Random random(values.size() + 3);
    for (int64_t i = 0; i < values.size(); ++i) values.Set(i, mean + deviation * random.Normal());
    view = {values.data(), is_double, per_segment};
  }
  double Get(int64_t segment, int64_t channel) const { return view.at(layout, segment, channel); }

  ChannelLayout layout;
  Array values;
  ChannelVector view;  // Its data may be set to null: all 0.
};

}  // namespace keras_norms::testing

#endif  // KERAS_NORMS_TESTS_NATIVE_ARRAYS_H_
