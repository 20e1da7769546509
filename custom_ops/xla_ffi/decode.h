// The buffers and attributes of an XLA call as the operands of a kernel.
//
// Attributes: operands, the names of those that are passed, in the order of kernels/operands.h and
// with a space between them; axis; segment_size; chunks (extremes); weighted (sums and blend); of
// what rectifies, rectified, negative_slope and cap, which are false and 0 where they are missing; of
// normalize and its gradient epsilon. Vectors that a kernel writes are float64, and with
// PairedVectors as these say. Every buffer is checked against the rules before a kernel sees it; what is wrong comes back as an error.
// The same for TensorFlow and JAX, host and CUDA: includes only xla/ffi/api/ffi.h and the kernels.

#ifndef KERAS_NORMS_XLA_FFI_DECODE_H_
#define KERAS_NORMS_XLA_FFI_DECODE_H_

#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/operands.h"
#include "xla/ffi/api/ffi.h"
#include "xla_ffi/paired_vectors.h"

namespace keras_norms {

namespace ffi = xla::ffi;

// Whether the kernels know a dtype, and which it is.
inline bool KernelType(ffi::DataType type, DataType* dtype) {
  switch (type) {
    case ffi::F32:
      *dtype = DataType::kFloat32;
      return true;
    case ffi::F64:
      *dtype = DataType::kFloat64;
      return true;
    case ffi::F16:
      *dtype = DataType::kFloat16;
      return true;
    case ffi::BF16:
      *dtype = DataType::kBFloat16;
      return true;
    default:
      return false;
  }
}

class Decoder {
 public:
  Decoder(const Signature& signature, ffi::RemainingArgs args, ffi::RemainingRets rets,
          ffi::Dictionary attributes, PairedVectors* pairs = nullptr)
      : signature_(signature),
        args_(args),
        rets_(rets),
        pairs_(pairs),
        buffers_(signature.size) {
    problem_ = Read(attributes);
    if (problem_.empty()) problem_ = Check();
  }

  const std::string& problem() const { return problem_; }
  DataType dtype() const { return dtype_; }
  const ChannelLayout& layout() const { return layout_; }
  const CallOptions& options() const { return options_; }
  bool weighted() const { return options_.weighted; }
  int64_t chunks() const { return options_.chunks; }

  // Operand i of the signature; null where absent.
  const void* Data(int i) const {
    return shapes_[i].present ? NotNull(buffers_[i].data) : nullptr;
  }
  ChannelVector Vector(int i) const {
    if (!shapes_[i].present) return {};
    if (IsPair(i)) {
      const Sizes& sizes = shapes_[i].sizes;
      const int64_t size = Product(sizes.data(), sizes.data() + sizes.size());
      const bool is_double = buffers_[i].type == ffi::F64;
      return {pairs_->Joined(buffers_[i].data, is_double, size), true, sizes.size() == 2};
    }
    return {buffers_[i].data, buffers_[i].type == ffi::F64, shapes_[i].sizes.size() == 2};
  }

  // The size of its first axis; 0 where absent.
  int64_t FirstSize(int i) const { return shapes_[i].present ? shapes_[i].sizes[0] : 0; }

  // Results, null where one is not as it has to be; the problem then says so.
  double* VectorResult(size_t i, int64_t size) {
    if (pairs_ == nullptr) return static_cast<double*>(Result(i, ffi::F64, size));
    return NarrowResult(i, size, false);
  }
  double* MeanResult(size_t i, int64_t size) {
    return pairs_ == nullptr ? VectorResult(i, size) : NarrowResult(i, size, true);
  }
  int64_t* PlaceResult(size_t i, int64_t size) {
    return static_cast<int64_t*>(Result(i, ffi::S64, size));
  }
  void* ActivationResult(size_t i) { return Result(i, type_, layout_.size()); }
  // Of the type of operand k.
  void* VectorResultLike(int k, size_t i, int64_t size) {
    return Result(i, buffers_[k].type, size);
  }
  bool IsDouble(size_t i) {
    auto result = rets_.get<ffi::AnyBuffer>(i);
    return result.has_value() && (*result)->element_type() == ffi::F64;
  }
  void* Result(size_t i, ffi::DataType type, int64_t size) {
    if (!problem_.empty()) return nullptr;
    auto result = rets_.get<ffi::AnyBuffer>(i);
    if (!result.has_value() || (*result)->element_type() != type ||
        static_cast<int64_t>((*result)->element_count()) != size) {
      const char* dtype = type == type_      ? "the activation's dtype."
                          : type == ffi::S64 ? "int64."
                          : type == ffi::F32 ? "float32."
                                             : "float64.";
      problem_ = Sentence("result " + std::to_string(i) + " must have " + std::to_string(size) +
                              " values of " + dtype,
                          "another size or dtype");
      return nullptr;
    }
    return (*result)->untyped_data();
  }

 private:
  struct Buffer {
    void* data = nullptr;
    ffi::DataType type = ffi::DataType::INVALID;
  };

  bool IsPair(int i) const {
    return pairs_ != nullptr && std::string_view(signature_.operands[i].name) == "center";
  }

  double* NarrowResult(size_t i, int64_t size, bool is_pair) {
    const ffi::DataType type = type_ == ffi::F64 ? ffi::F64 : ffi::F32;
    void* target = Result(i, type, is_pair ? 2 * size : size);
    if (target == nullptr) return nullptr;
    return pairs_->Result(target, type == ffi::F64, is_pair, size);
  }

  std::string Read(const ffi::Dictionary& attributes) {
    const auto names = attributes.get<std::string_view>("operands");
    const auto axis = attributes.get<int64_t>("axis");
    const auto segment_size = attributes.get<int64_t>("segment_size");
    const auto weighted = attributes.get<bool>("weighted");
    const auto chunks = attributes.get<int64_t>("chunks");
    if (!names.has_value() || !axis.has_value() || !segment_size.has_value() ||
        (signature_.weighs && !weighted.has_value()) ||
        (signature_.has_chunks && !chunks.has_value())) {
      return Sentence("the attributes are operands (a string), axis and segment_size (int64), for "
                      "sums and blend weighted (bool), and for extremes chunks (int64).", "others");
    }
    options_ = {*axis, *segment_size, signature_.weighs && *weighted,
                signature_.has_chunks ? *chunks : 1, RectifierOf(attributes)};
    if (signature_.has_epsilon) {
      const auto epsilon = attributes.get<double>("epsilon");
      if (!epsilon.has_value()) {
        return Sentence("the attribute epsilon (float64) must be given.", "none");
      }
      options_.epsilon = *epsilon;
    }
    std::istringstream words{std::string(*names)};
    std::string word;
    shapes_.resize(signature_.size);
    size_t count = 0;
    words >> word;
    for (int i = 0; i < signature_.size; ++i) {
      if (!words || word != signature_.operands[i].name) continue;
      const auto buffer = args_.get<ffi::AnyBuffer>(count++);
      if (!buffer.has_value()) break;
      const auto sizes = buffer->dimensions();
      shapes_[i] = {true, true, Sizes(sizes.begin(), sizes.end())};
      buffers_[i] = {buffer->untyped_data(), buffer->element_type()};
      if (IsPair(i)) {
        Sizes* pair = &shapes_[i].sizes;
        if (pair->empty() || pair->front() != 2) {
          return Sentence("a center must be [2, channels] or [2, segments, channels], high and low.",
                          "another shape");
        }
        pair->erase(pair->begin());
      }
      words >> word;
    }
    if (words || count != args_.size()) {
      return Sentence("`operands` must name the operands that are passed, in order.",
                      "operands=\"" + std::string(*names) + "\" and " +
                          std::to_string(args_.size()) + " buffers");
    }
    return "";
  }

  Rectifier RectifierOf(const ffi::Dictionary& attributes) const {
    const auto rectified = attributes.get<bool>("rectified");
    const auto slope = attributes.get<float>("negative_slope");
    const auto cap = attributes.get<float>("cap");
    if (!signature_.rectifies || !rectified.has_value()) return {};
    return {*rectified, slope.has_value() ? *slope : 0.0f, cap.has_value() ? *cap : 0.0f};
  }

  std::string Check() {
    const std::string problem = ShapeProblem(signature_, shapes_.data(), options_);
    if (!problem.empty()) return problem;
    for (int i = 0; i < signature_.size; ++i) {
      if (!shapes_[i].present || signature_.operands[i].role != Role::kActivation) continue;
      if (type_ != ffi::DataType::INVALID && type_ != buffers_[i].type) {
        return Sentence("activations must have the same dtype.", "different ones");
      }
      type_ = buffers_[i].type;
      layout_ = LayoutOf(shapes_[i].sizes, options_);
    }
    if (!KernelType(type_, &dtype_)) {
      return Sentence("activations must be float16, bfloat16, float32 or float64.",
                      "another dtype");
    }
    for (int i = 0; i < signature_.size; ++i) {
      if (!shapes_[i].present) continue;
      const ffi::DataType type = buffers_[i].type;
      const Role role = signature_.operands[i].role;
      const bool is_vector = role == Role::kVector || role == Role::kParameter;
      if (is_vector && type != ffi::F32 && type != ffi::F64) {
        return Sentence("vectors must be float32 or float64.", "another dtype");
      }
      const bool is_exact = role == Role::kCount || role == Role::kParts || role == Role::kSums;
      if (is_exact && type != ffi::F64) {
        return Sentence("counts, parts and sums must be float64.", "another dtype");
      }
      if (role == Role::kScalar && type != buffers_[i - 1].type) {
        return Sentence("a share must be of the dtype of the moving statistics.", "another dtype");
      }
      if (role == Role::kWeights && type != (type_ == ffi::F64 ? ffi::F64 : ffi::F32)) {
        return Sentence("weights must be float32, and float64 for float64 activations.",
                        "another dtype");
      }
    }
    return "";
  }

  std::string Sentence(const std::string& rule, const std::string& received) const {
    return std::string(signature_.op) + ": " + rule + " Received: " + received + ".";
  }

  const Signature signature_;
  const ffi::RemainingArgs args_;
  const ffi::RemainingRets rets_;
  PairedVectors* const pairs_;
  CallOptions options_;
  std::vector<OperandShape> shapes_;
  std::vector<Buffer> buffers_;
  ffi::DataType type_ = ffi::DataType::INVALID;
  DataType dtype_ = DataType::kFloat32;
  ChannelLayout layout_;
  std::string problem_;
};

}  // namespace keras_norms

#endif  // KERAS_NORMS_XLA_FFI_DECODE_H_
