// The vectors of a program without float64, which JAX's are unless they ask for it.
//
// Kernels read a centre and write vectors as double. In such a program vectors are float32 (float64
// beside float64 activations), and a mean or a centre is a pair of them, [2, segments, channels]:
// high, the nearest number, and low, what is left of it. The kernels' double vectors are kept here
// for the time of a call; beside activations they are tiny.

#ifndef KERAS_NORMS_XLA_FFI_PAIRED_VECTORS_H_
#define KERAS_NORMS_XLA_FFI_PAIRED_VECTORS_H_

#include <cstdint>
#include <deque>
#include <vector>

namespace keras_norms {

class PairedVectors {
 public:
  // high + low of an operand of `size` pairs.
  const double* Joined(const void* pairs, bool is_double, int64_t size) {
    return is_double ? Join(static_cast<const double*>(pairs), size)
                     : Join(static_cast<const float*>(pairs), size);
  }

  // Where a kernel writes `size` numbers that `Write` brings to `target`, there as pairs or alone.
  double* Result(void* target, bool is_double, bool is_pair, int64_t size) {
    memory_.emplace_back(size);
    results_.push_back({target, is_double, is_pair, &memory_.back()});
    return memory_.back().data();
  }

  void Write() const {
    for (const Target& result : results_) {
      if (result.is_double) {
        Split(result, static_cast<double*>(result.data));
      } else {
        Split(result, static_cast<float*>(result.data));
      }
    }
  }

 private:
  struct Target {
    void* data;
    bool is_double, is_pair;
    const std::vector<double>* values;
  };

  template <typename T>
  const double* Join(const T* pairs, int64_t size) {
    std::vector<double>& joined = memory_.emplace_back(size);
    for (int64_t i = 0; i < size; ++i) {
      joined[i] = static_cast<double>(pairs[i]) + static_cast<double>(pairs[size + i]);
    }
    return joined.data();
  }

  template <typename T>
  static void Split(const Target& result, T* target) {
    const std::vector<double>& values = *result.values;
    for (size_t i = 0; i < values.size(); ++i) {
      const T high = static_cast<T>(values[i]);
      target[i] = high;
      if (!result.is_pair) continue;
      // Of a number that is not finite nothing is left: infinity minus itself would be NaN.
      const double low = values[i] - static_cast<double>(high);
      target[values.size() + i] = low == low ? static_cast<T>(low) : T{0};
    }
  }

  std::deque<std::vector<double>> memory_;  // Its elements stay where they are.
  std::vector<Target> results_;
};

}  // namespace keras_norms

#endif  // KERAS_NORMS_XLA_FFI_PAIRED_VECTORS_H_
