// The ops inside XLA programs, on CPU and GPU.
//
// On the CPU they call the compiled kernels (xla_ffi/) where XLA can, elsewhere they are HLO
// (xla_math.h). The environment variable KERAS_NORMS_XLA=hlo chooses HLO everywhere. XLA compiles
// for one shape at a time, so all sizes are known here.
//
// These are plain kernels of the JIT devices, not REGISTER_XLA_OP: XLA freezes that registry at the
// first compilation of a process, and a library loaded later would have no kernels.

#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/add_at.h"
#include "ops/op_helpers.h"
#include "ops/xla_extremes.h"
#include "ops/xla_includes.h"
#include "ops/xla_math.h"
#include "ops/xla_round.h"

namespace keras_norms {
namespace {

using tensorflow::XlaOpKernelContext;
using xla::XlaOp;

bool CanCallCompiledKernels(const tensorflow::DeviceType& device) {
#ifdef KERAS_NORMS_XLA_FFI
  const char* choice = std::getenv("KERAS_NORMS_XLA");
  const bool hlo = choice != nullptr && std::string(choice) == "hlo";
  return device.type_string() == "XLA_CPU_JIT" && !hlo;
#else
  (void)device;
  return false;
#endif
}

// The operands of one call in the order of the signature; those that are absent are invalid.
struct Operands {
  std::vector<XlaOp> ops;
  std::vector<OperandShape> shapes;
  std::vector<xla::PrimitiveType> types;  // Of the operands that are there.
  xla::PrimitiveType type;                // Of the activations.
  Sizes sizes;              // Of the activations.
};

// What is the same for all but AddAt. How HLO computes them is in the derived classes.
class XlaKernel : public tensorflow::XlaOpKernel {
 public:
  XlaKernel(tensorflow::OpKernelConstruction* construction, const Signature& signature)
      : XlaOpKernel(construction),
        signature_(signature),
        calls_compiled_kernels_(CanCallCompiledKernels(construction->device_type())) {
    OP_REQUIRES_OK(construction, ReadOptions(construction, signature, &options_));
  }

  void Compile(XlaOpKernelContext* context) override {
    Operands operands;
    OP_REQUIRES_OK(context, Read(context, &operands));
    std::vector<XlaOp> results;
    if (calls_compiled_kernels_) {
      results = CallCompiledKernel(context->builder(), operands);
    } else {
      const XlaMath math(context->builder(), operands.type, operands.sizes, options_);
      results = Emit(math, operands.ops);
    }
    for (int i = 0; i < context->num_outputs(); ++i) context->SetOutput(i, results[i]);
  }

 protected:
  virtual std::vector<XlaOp> Emit(const XlaMath& math, const std::vector<XlaOp>& ops) const = 0;
  virtual const char* Target() const = 0;
  virtual std::vector<xla::Shape> ResultShapes(const Operands& operands) const = 0;

  // Of a result with `channels` values for each segment.
  xla::Shape VectorShape(const Operands& operands, int64_t channels) const {
    if (options_.segment_size == 0) return xla::ShapeUtil::MakeShape(xla::F64, {channels});
    const int64_t segments = LayoutOf(operands.sizes, options_).segments;
    return xla::ShapeUtil::MakeShape(xla::F64, {segments, channels});
  }
  xla::Shape VectorShape(const Operands& operands) const {
    return VectorShape(operands, operands.sizes[options_.axis]);
  }

 private:
  absl::Status Read(XlaOpKernelContext* context, Operands* operands) const {
    for (int i = 0; i < signature_.size; ++i) {
      const Operand& operand = signature_.operands[i];
      std::vector<XlaOp> list;
      std::vector<tensorflow::TensorShape> shapes;
      TF_RETURN_IF_ERROR(context->InputList(operand.name, &list, &shapes));
      operands->ops.push_back(list.empty() ? XlaOp() : list[0]);
      operands->shapes.emplace_back();
      if (list.empty()) continue;
      operands->shapes[i] = {true, true, SizesOf(shapes[0])};
      const auto shape = context->builder()->GetShape(list[0]);
      TF_RETURN_IF_ERROR(shape.status());
      if (shape->is_dynamic()) {
        return absl::UnimplementedError(absl::StrCat(
            signature_.op, ": XLA must know every size when it compiles. Received: ",
            operand.name, ".shape=", shape->ToString(), "."));
      }
      operands->types.push_back(shape->element_type());
      if (operand.role == Role::kActivation) {
        operands->type = shape->element_type();
        operands->sizes = operands->shapes[i].sizes;
      }
    }
    return CheckShapes(signature_, operands->shapes.data(), options_);
  }

  // Calls a handler of xla_ffi/. Its buffers are dense and row-major.
  std::vector<XlaOp> CallCompiledKernel(xla::XlaBuilder* builder, const Operands& operands) const {
    std::vector<XlaOp> results;
#ifdef KERAS_NORMS_XLA_FFI
    std::vector<XlaOp> ops;
    std::vector<xla::Shape> shapes;
    std::vector<std::string> names;
    for (int i = 0; i < signature_.size; ++i) {
      if (!operands.ops[i].valid()) continue;
      const xla::PrimitiveType type = builder->GetShape(operands.ops[i])->element_type();
      ops.push_back(operands.ops[i]);
      shapes.push_back(xla::ShapeUtil::MakeShape(type, operands.shapes[i].sizes));
      names.push_back(signature_.operands[i].name);
    }
    const std::string attributes = absl::StrCat(
        "{operands = \"", absl::StrJoin(names, " "), "\", axis = ", options_.axis,
        " : i64, segment_size = ", options_.segment_size,
        " : i64, chunks = ", options_.chunks, " : i64, weighted = ", Text(options_.weighted),
        ", rectified = ", Text(options_.rectifier.is_given),
        absl::StrFormat(", negative_slope = %.9e : f32, cap = %.9e : f32, epsilon = %.17e : f64}",
                        options_.rectifier.negative_slope, options_.rectifier.cap,
                        options_.epsilon));
    const std::vector<xla::Shape> result_shapes = ResultShapes(operands);
    const XlaOp call = xla::CustomCallWithLayout(
        builder, Target(), ops, xla::ShapeUtil::MakeTupleShape(result_shapes), shapes, attributes,
        /*has_side_effect=*/false, /*output_operand_aliasing=*/{}, /*literal=*/nullptr,
        xla::CustomCallSchedule::SCHEDULE_NONE,
        xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
    for (size_t i = 0; i < result_shapes.size(); ++i) {
      results.push_back(xla::GetTupleElement(call, i));
    }
#else
    (void)builder, (void)operands;
#endif
    return results;
  }

  static const char* Text(bool value) { return value ? "true" : "false"; }

  const Signature signature_;
  const bool calls_compiled_kernels_;

 protected:
  CallOptions options_;
};

class MomentsXla : public XlaKernel {
 public:
  explicit MomentsXla(tensorflow::OpKernelConstruction* construction)
      : XlaKernel(construction, kMoments) {}

 private:
  std::vector<XlaOp> Emit(const XlaMath& math, const std::vector<XlaOp>& ops) const override {
    const XlaMath::Moments moments = math.ComputeMoments(ops[0], ops[1]);
    return {moments.count, moments.mean, moments.m2};
  }
  const char* Target() const override { return "keras_norms_moments"; }
  std::vector<xla::Shape> ResultShapes(const Operands& operands) const override {
    return {VectorShape(operands, 1), VectorShape(operands), VectorShape(operands)};
  }
};

class ExtremesXla : public XlaKernel {
 public:
  explicit ExtremesXla(tensorflow::OpKernelConstruction* construction)
      : XlaKernel(construction, kExtremes) {}

 private:
  std::vector<XlaOp> Emit(const XlaMath& math, const std::vector<XlaOp>& ops) const override {
    (void)math;
    return EmitExtremes(ops[0], ops[1], options_);
  }
  const char* Target() const override { return "keras_norms_extremes"; }
  std::vector<xla::Shape> ResultShapes(const Operands& operands) const override {
    const auto shape = [&](xla::PrimitiveType type, int64_t values) {
      std::vector<int64_t> sizes = {options_.chunks, values};
      if (options_.segment_size > 0) {
        sizes.insert(sizes.begin(), LayoutOf(operands.sizes, options_).segments);
      }
      return xla::ShapeUtil::MakeShape(type, sizes);
    };
    const int64_t channels = operands.sizes[options_.axis];
    const xla::Shape number = shape(xla::F64, channels), place = shape(xla::S64, channels);
    return {shape(xla::F64, 1), number, number, number, place, place};
  }
};

// Additions at single places. Its operands are no activations and vectors, but y and three lists.
class AddAtXla : public tensorflow::XlaOpKernel {
 public:
  explicit AddAtXla(tensorflow::OpKernelConstruction* construction)
      : XlaOpKernel(construction),
        calls_compiled_kernels_(CanCallCompiledKernels(construction->device_type())) {}

  void Compile(XlaOpKernelContext* context) override {
    const tensorflow::TensorShape shape = context->InputShape(1);
    for (int i : {2, 3}) {
      OP_REQUIRES(context, context->InputShape(i) == shape,
                  absl::InvalidArgumentError(PlacesProblem(context->InputShape(i).DebugString(),
                                                           shape.DebugString())));
    }
    const XlaOp y = context->Input(0);
    const auto list = [&](int i) {
      const xla::Shape shape = *context->builder()->GetShape(context->Input(i));
      return xla::Reshape(context->Input(i), {xla::ShapeUtil::ElementsIn(shape)});
    };
    const XlaOp values = list(1), high_at = list(2), low_at = list(3);
    context->SetOutput(0, calls_compiled_kernels_
                              ? CallCompiledKernel(context->builder(), {y, values, high_at, low_at})
                              : Scatter(context->builder(), y, values, high_at, low_at));
  }

 private:
  static XlaOp Scatter(xla::XlaBuilder* builder, XlaOp y, XlaOp values, XlaOp high_at,
                       XlaOp low_at) {
    const xla::Shape shape = *builder->GetShape(y);
    const int64_t count = 2 * builder->GetShape(values)->dimensions(0);
    const XlaOp places =
        xla::Reshape(xla::ConcatInDim(builder, {high_at, low_at}, 0), {count, 1});
    const XlaOp updates = xla::ConvertElementType(
        xla::ConcatInDim(builder, {values, xla::Neg(values)}, 0), shape.element_type());
    xla::ScatterDimensionNumbers numbers;
    numbers.add_inserted_window_dims(0);
    numbers.add_scatter_dims_to_operand_dims(0);
    numbers.set_index_vector_dim(1);
    const XlaOp flat = xla::Reshape(y, {xla::ShapeUtil::ElementsIn(shape)});
    const auto add = xla::CreateScalarAddComputation(shape.element_type(), builder);
    return xla::Reshape(xla::Scatter(flat, places, updates, add, numbers), shape.dimensions());
  }

  // The result may lie where y does; XLA copies y if somebody else needs it.
  static XlaOp CallCompiledKernel(xla::XlaBuilder* builder, const std::vector<XlaOp>& operands) {
#ifdef KERAS_NORMS_XLA_FFI
    std::vector<xla::Shape> shapes;
    for (const XlaOp& operand : operands) {
      const xla::Shape shape = *builder->GetShape(operand);
      shapes.push_back(xla::ShapeUtil::MakeShape(shape.element_type(), shape.dimensions()));
    }
    return xla::CustomCallWithLayout(
        builder, "keras_norms_add_at", operands, shapes[0], shapes, /*opaque=*/"{}",
        /*has_side_effect=*/false, {{{}, {0, {}}}}, /*literal=*/nullptr,
        xla::CustomCallSchedule::SCHEDULE_NONE,
        xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
#else
    (void)builder;
    return operands[0];
#endif
  }

  const bool calls_compiled_kernels_;
};

class SumsXla : public XlaKernel {
 public:
  explicit SumsXla(tensorflow::OpKernelConstruction* construction)
      : XlaKernel(construction, kSums) {}

 private:
  std::vector<XlaOp> Emit(const XlaMath& math, const std::vector<XlaOp>& ops) const override {
    const XlaMath::Sums sums =
        math.ComputeSums(ops[0], ops[1], ops[2], ops[3], ops[4], ops[5]);
    if (!ops[1].valid()) return {sums.sum_u};
    return {sums.sum_u, sums.sum_uv, sums.y};
  }
  const char* Target() const override { return "keras_norms_sums"; }
  std::vector<xla::Shape> ResultShapes(const Operands& operands) const override {
    std::vector<xla::Shape> shapes(operands.ops[1].valid() ? 2 : 1, VectorShape(operands));
    if (operands.ops[3].valid()) {
      shapes.push_back(xla::ShapeUtil::MakeShape(operands.type, operands.sizes));
    }
    return shapes;
  }
};

class BlendXla : public XlaKernel {
 public:
  explicit BlendXla(tensorflow::OpKernelConstruction* construction)
      : XlaKernel(construction, kBlend) {}

 private:
  std::vector<XlaOp> Emit(const XlaMath& math, const std::vector<XlaOp>& ops) const override {
    return {math.ComputeBlend(ops[0], ops[1], ops[2], ops[3], ops[4], ops[5], ops[6])};
  }
  const char* Target() const override { return "keras_norms_blend"; }
  std::vector<xla::Shape> ResultShapes(const Operands& operands) const override {
    return {xla::ShapeUtil::MakeShape(operands.type, operands.sizes)};
  }
};

class NormalizeXla : public XlaKernel {
 public:
  explicit NormalizeXla(tensorflow::OpKernelConstruction* construction)
      : XlaKernel(construction, kNormalize) {}

 private:
  std::vector<XlaOp> Emit(const XlaMath& math, const std::vector<XlaOp>& ops) const override {
    const XlaMath::Normalized found =
        math.ComputeNormalize(ops[0], ops[1], ops[2], ops[3], ops[4], ops[5], ops[6], ops[7]);
    return {found.y, found.count, found.mean, found.variance, found.new_mean, found.new_variance};
  }
  const char* Target() const override { return "keras_norms_normalize"; }
  std::vector<xla::Shape> ResultShapes(const Operands& operands) const override {
    std::vector<xla::Shape> shapes = {xla::ShapeUtil::MakeShape(operands.type, operands.sizes),
                                      VectorShape(operands, 1), VectorShape(operands),
                                      VectorShape(operands)};
    if (operands.ops[7].valid()) {  // The share, the last one that is there.
      const int64_t channels = operands.sizes[options_.axis];
      shapes.resize(6, xla::ShapeUtil::MakeShape(operands.types.back(), {channels}));
    }
    return shapes;
  }
};

class NormalizeGradXla : public XlaKernel {
 public:
  explicit NormalizeGradXla(tensorflow::OpKernelConstruction* construction)
      : XlaKernel(construction, kNormalizeGrad) {
    tensorflow::DataType type;
    OP_REQUIRES_OK(construction, construction->GetAttr("P", &type));
    vectors_ = type == tensorflow::DT_DOUBLE ? xla::F64 : xla::F32;
  }

 private:
  std::vector<XlaOp> Emit(const XlaMath& math, const std::vector<XlaOp>& ops) const override {
    const XlaMath::Gradients found =
        math.ComputeNormalizeGrad(ops[0], ops[1], ops[2], ops[3], ops[4], ops[5], ops[6], ops[7],
                                  ops[8], ops[9], ops[10], ops[11]);
    std::vector<XlaOp> results = {found.dx};
    if (ops[2].valid()) results.push_back(found.dresidual);
    results.push_back(xla::ConvertElementType(found.dgamma, vectors_));
    results.push_back(xla::ConvertElementType(found.dbeta, vectors_));
    return results;
  }
  const char* Target() const override { return "keras_norms_normalize_grad"; }
  std::vector<xla::Shape> ResultShapes(const Operands& operands) const override {
    const int64_t activations = operands.ops[2].valid() ? 2 : 1;
    std::vector<xla::Shape> shapes(
        activations, xla::ShapeUtil::MakeShape(operands.type, operands.sizes));
    const int64_t channels = operands.sizes[options_.axis];
    shapes.resize(activations + 2, xla::ShapeUtil::MakeShape(vectors_, {channels}));
    return shapes;
  }

  xla::PrimitiveType vectors_;
};

class RoundOnDevice : public RoundXla {
 public:
  explicit RoundOnDevice(tensorflow::OpKernelConstruction* construction)
      : RoundXla(construction, CanCallCompiledKernels(construction->device_type())) {}
};

#define REGISTER(name, device, kernel)                                       \
  REGISTER_KERNEL_BUILDER(                                                   \
      Name(name).Device(device).TypeConstraint("T", kActivationTypes), kernel)
REGISTER("KerasNorms>Moments", "XLA_CPU_JIT", MomentsXla);
REGISTER("KerasNorms>Moments", "XLA_GPU_JIT", MomentsXla);
REGISTER("KerasNorms>Extremes", "XLA_CPU_JIT", ExtremesXla);
REGISTER("KerasNorms>Extremes", "XLA_GPU_JIT", ExtremesXla);
REGISTER("KerasNorms>AddAt", "XLA_CPU_JIT", AddAtXla);
REGISTER("KerasNorms>AddAt", "XLA_GPU_JIT", AddAtXla);
REGISTER("KerasNorms>Normalize", "XLA_CPU_JIT", NormalizeXla);
REGISTER("KerasNorms>Normalize", "XLA_GPU_JIT", NormalizeXla);
REGISTER("KerasNorms>NormalizeGrad", "XLA_CPU_JIT", NormalizeGradXla);
REGISTER("KerasNorms>NormalizeGrad", "XLA_GPU_JIT", NormalizeGradXla);
REGISTER("KerasNorms>Sums", "XLA_CPU_JIT", SumsXla);
REGISTER("KerasNorms>Sums", "XLA_GPU_JIT", SumsXla);
REGISTER("KerasNorms>Blend", "XLA_CPU_JIT", BlendXla);
REGISTER("KerasNorms>Blend", "XLA_GPU_JIT", BlendXla);
#undef REGISTER
REGISTER_KERNEL_BUILDER(
    Name("KerasNorms>Round").Device("XLA_CPU_JIT").TypeConstraint("T", kRoundTypes), RoundOnDevice);
REGISTER_KERNEL_BUILDER(
    Name("KerasNorms>Round").Device("XLA_GPU_JIT").TypeConstraint("T", kRoundTypes), RoundOnDevice);

}  // namespace
}  // namespace keras_norms
