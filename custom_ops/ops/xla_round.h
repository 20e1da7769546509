// Round inside XLA programs: a call of the compiled kernel, or the arithmetic of
// kernels/rounding_math.h as HLO.

#ifndef KERAS_NORMS_OPS_XLA_ROUND_H_
#define KERAS_NORMS_OPS_XLA_ROUND_H_

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/rounding_math.h"
#include "ops/round_kernel.h"
#include "ops/xla_includes.h"

namespace keras_norms {

using namespace KERAS_NORMS_LEVEL;  // NOLINT: where rounding_math.h is, for the least processor.

// Emits the operations for one x. Patterns are S32, of which the sign is kept apart.
class XlaRound {
 public:
  using Op = xla::XlaOp;

  XlaRound(const RoundOptions& options, xla::PrimitiveType type, const Sizes& sizes)
      : options_(options), type_(type), sizes_(sizes) {}

  Op Emit(Op x, Op seed) const {
    const Op bits = BitsOf(x);
    const Op magnitude = And(bits, kMagnitudeBits);
    Op result = magnitude;
    if (options_.has_format()) result = ToFormat(result, seed);
    if (options_.block_size > 0) result = InBlocks(result);
    const Op y = NumbersOf(xla::Or(xla::Sub(bits, magnitude), result));
    return xla::Select(xla::Lt(magnitude, Like(magnitude, kInfinityBits)), y, x);
  }

 private:
  static Op Like(Op op, int64_t value) { return xla::ScalarLike(op, value); }
  static Op And(Op op, int64_t mask) { return xla::And(op, Like(op, mask)); }
  static Op AddTo(Op op, int64_t value) { return xla::Add(op, Like(op, value)); }
  static Op Clamped(Op op, int64_t low, int64_t high) {
    return xla::Min(xla::Max(op, Like(op, low)), Like(op, high));
  }
  static Op RightBy(Op op, int64_t count) {
    return xla::ShiftRightLogical(op, Like(op, count));
  }
  static Op Unsigned(Op op) { return xla::ConvertElementType(op, xla::U32); }

  Op BitsOf(Op x) const {
    if (type_ == xla::BF16) {
      const Op upper = Unsigned(xla::BitcastConvertType(x, xla::U16));
      return xla::BitcastConvertType(xla::ShiftLeft(upper, Like(upper, 16)), xla::S32);
    }
    return xla::BitcastConvertType(xla::ConvertElementType(x, xla::F32), xla::S32);
  }
  Op NumbersOf(Op bits) const {
    if (type_ == xla::BF16) {
      const Op upper = RightBy(xla::BitcastConvertType(bits, xla::U32), 16);
      return xla::BitcastConvertType(xla::ConvertElementType(upper, xla::U16), xla::BF16);
    }
    return xla::ConvertElementType(xla::BitcastConvertType(bits, xla::F32), type_);
  }

  static Op Biased(Op magnitude) { return RightBy(magnitude, kFractionBits); }
  static Op Significand(Op magnitude) {
    const Op fraction = And(magnitude, kImplicitOne - 1);
    return xla::Select(xla::Ge(magnitude, Like(magnitude, kImplicitOne)),
                       AddTo(fraction, kImplicitOne), fraction);
  }

  Op ToFormat(Op magnitude, Op seed) const {
    const FormatPatterns format(options_, type_ == xla::F16    ? DataType::kFloat16
                                          : type_ == xla::BF16 ? DataType::kBFloat16
                                                               : DataType::kFloat32);
    const Op zero = xla::ZerosLike(magnitude);
    const Op biased = Biased(magnitude), significand = Significand(magnitude);
    const Op below = xla::Select(xla::Gt(biased, zero),
                                 xla::Max(xla::Sub(Like(biased, format.lowest), biased), zero),
                                 Like(biased, format.lowest - 1));
    const Op dropped = xla::Max(AddTo(below, format.dropped), zero);
    const Op few = Clamped(dropped, 0, kFractionBits + 2);
    Op kept = xla::ShiftRightLogical(significand, few);
    if (options_.mode == RoundingMode::kNearestEven) {
      const Op half = RightBy(xla::ShiftLeft(Like(few, 1), few), 1);
      const Op upwards = xla::Add(AddTo(half, -1), And(kept, 1));
      const Op added = xla::Select(xla::Gt(few, zero), upwards, zero);
      kept = xla::ShiftRightLogical(xla::Add(significand, added), few);
    } else if (options_.mode == RoundingMode::kStochastic) {
      const Op integer = Unsigned(significand);
      const Op left = xla::ShiftLeft(
          xla::ShiftLeft(integer, Unsigned(Clamped(xla::Sub(Like(dropped, 31), dropped), 0, 31))),
          Like(integer, 1));
      const Op right =
          xla::ShiftRightLogical(integer, Unsigned(Clamped(AddTo(dropped, -32), 0, 31)));
      const Op share = xla::Select(xla::Lt(dropped, Like(dropped, 32)), left, right);
      const Op up = xla::Lt(Random(magnitude.builder(), seed), share);
      kept = xla::Add(kept, xla::ConvertElementType(up, xla::S32));
    }
    Op result = xla::Add(magnitude, xla::Sub(xla::ShiftLeft(kept, few), significand));
    result = xla::Select(xla::Gt(dropped, Like(dropped, kFractionBits + 1)),
                         Like(result, format.tiny), result);
    result = xla::Select(xla::Gt(kept, zero), result, zero);
    result = xla::Select(xla::Lt(result, Like(result, format.smallest)), zero, result);
    result = xla::Min(result, Like(result, format.largest));
    return xla::Select(xla::Lt(magnitude, Like(magnitude, kInfinityBits)), result, magnitude);
  }

  static Op Mixed(Op x) {
    x = xla::Xor(x, RightBy(x, 16));
    x = xla::Mul(x, Like(x, 0x7feb352d));
    x = xla::Xor(x, RightBy(x, 15));
    x = xla::Mul(x, Like(x, 0x846ca68b));
    return xla::Xor(x, RightBy(x, 16));
  }

  // As RandomBits does, for every position.
  Op Random(xla::XlaBuilder* builder, Op seed) const {
    const xla::Shape flat =
        xla::ShapeUtil::MakeShape(xla::U64, {Product(&sizes_[0], &sizes_[0] + sizes_.size())});
    const Op position = xla::Reshape(xla::Iota(builder, flat, 0), sizes_);
    seed = xla::Broadcast(xla::BitcastConvertType(seed, xla::U64), sizes_);
    const Op upper = Mixed(AddTo(Unsigned(RightBy(position, 32)), 0x3c6ef372));
    const Op of_seed = Mixed(xla::Xor(Unsigned(RightBy(seed, 32)), upper));
    const Op first = Mixed(xla::Xor(Unsigned(seed), of_seed));
    const Op second = Mixed(AddTo(first, 0x9e3779b9));
    return Mixed(xla::Add(Mixed(xla::Xor(Unsigned(position), first)), second));
  }

  static Op Exponent(Op magnitude) {
    const Op number = xla::ConvertElementType(Significand(magnitude), xla::F32);
    const Op of_significand = RightBy(xla::BitcastConvertType(number, xla::S32), kFractionBits);
    const Op biased = xla::Max(Biased(magnitude), Like(magnitude, 1));
    const Op exponent = AddTo(xla::Add(biased, of_significand), -127 - kFractionBits);
    return xla::Select(xla::Lt(magnitude, Like(magnitude, kInfinityBits)), exponent,
                       Like(exponent, kNoExponent));
  }

  // Blocks have an axis of their own, behind the channels.
  Op InBlocks(Op magnitude) const {
    const int64_t axis = options_.axis, channels = sizes_[axis];
    const int64_t size = std::min(options_.block_size, std::max<int64_t>(channels, 1));
    const int64_t blocks = (channels + size - 1) / size;
    Sizes padded = sizes_, blocked = sizes_;
    padded[axis] = blocks * size;
    blocked[axis] = blocks;
    blocked.insert(blocked.begin() + axis + 1, size);
    xla::XlaBuilder* builder = magnitude.builder();
    const Op zero = xla::Zero(builder, xla::S32);
    const Op values = xla::Reshape(
        xla::PadInDim(magnitude, zero, axis, 0, blocks * size - channels), blocked);
    const Op exponent = Exponent(values);
    Op first = Largest(exponent, blocked), shared = first, untouched;
    if (options_.second_largest) {
      untouched = xla::Eq(exponent, first);
      const Op often = Sum(xla::ConvertElementType(untouched, xla::S32), blocked);
      const Op others = xla::Select(untouched, Like(exponent, kNoExponent), exponent);
      shared = xla::Select(xla::Gt(often, Like(often, 1)), first, Largest(others, blocked));
    }
    const Op biased = xla::Max(Biased(values), Like(values, 1));
    const int64_t places = options_.block_mantissa_bits - 1;
    const Op dropped = Clamped(xla::Sub(AddTo(shared, kFractionBits - places), biased), 0,
                               kFractionBits + 1);
    const Op significand = Significand(values);
    const Op kept = xla::ShiftRightLogical(significand, dropped);
    Op result = xla::Add(values, xla::Sub(xla::ShiftLeft(kept, dropped), significand));
    result = xla::Select(xla::Gt(kept, xla::ZerosLike(kept)), result, xla::ZerosLike(kept));
    if (untouched.valid()) result = xla::Select(untouched, values, result);
    return xla::SliceInDim(xla::Reshape(result, padded), 0, channels, 1, axis);
  }

  // Over a block, for each of its values.
  Op Largest(Op values, const Sizes& blocked) const {
    xla::XlaBuilder* builder = values.builder();
    const Op lowest = xla::ConstantR0<int32_t>(builder, kNoExponent);
    return Expanded(xla::Reduce(values, lowest, xla::CreateScalarMaxComputation(xla::S32, builder),
                                {options_.axis + 1}),
                    blocked);
  }
  Op Sum(Op values, const Sizes& blocked) const {
    xla::XlaBuilder* builder = values.builder();
    return Expanded(xla::Reduce(values, xla::Zero(builder, xla::S32),
                                xla::CreateScalarAddComputation(xla::S32, builder),
                                {options_.axis + 1}),
                    blocked);
  }
  Op Expanded(Op reduced, const Sizes& blocked) const {
    Sizes axes;
    for (int64_t i = 0; i < static_cast<int64_t>(blocked.size()); ++i) {
      if (i != options_.axis + 1) axes.push_back(i);
    }
    return xla::BroadcastInDim(reduced, blocked, axes);
  }

  const RoundOptions options_;
  const xla::PrimitiveType type_;
  const Sizes sizes_;
};

class RoundXla : public tensorflow::XlaOpKernel {
 public:
  // `calls_compiled_kernel`: on this kind of device, rather than HLO.
  RoundXla(tensorflow::OpKernelConstruction* construction, bool calls_compiled_kernel)
      : XlaOpKernel(construction), calls_compiled_kernel_(calls_compiled_kernel) {
    OP_REQUIRES_OK(construction, ReadRoundOptions(construction, &options_));
  }

  void Compile(tensorflow::XlaOpKernelContext* context) override {
    std::vector<xla::XlaOp> seeds;
    std::vector<tensorflow::TensorShape> seed_shapes;
    OP_REQUIRES_OK(context, context->InputList("seed", &seeds, &seed_shapes));
    OperandShape seed_shape;
    if (!seeds.empty()) seed_shape = {true, true, SizesOf(seed_shapes[0])};
    const auto shape = context->builder()->GetShape(context->Input(0));
    OP_REQUIRES_OK(context, shape.status());
    OP_REQUIRES(context, !shape->is_dynamic(),
                absl::UnimplementedError(absl::StrCat(
                    "KerasNorms>Round: XLA must know every size when it compiles. Received: "
                    "x.shape=", shape->ToString(), ".")));
    const Sizes sizes(shape->dimensions().begin(), shape->dimensions().end());
    OP_REQUIRES_OK(context, CheckRound(options_, {true, true, sizes}, seed_shape));
    const xla::XlaOp x = context->Input(0), seed = seeds.empty() ? xla::XlaOp() : seeds[0];
    if (calls_compiled_kernel_) {
      context->SetOutput(0, CallCompiledKernel(x, seed, shape->element_type(), sizes));
    } else {
      context->SetOutput(0, XlaRound(options_, shape->element_type(), sizes).Emit(x, seed));
    }
  }

 private:
  // Calls the handler of xla_ffi/. Its buffers are dense and row-major.
  xla::XlaOp CallCompiledKernel(xla::XlaOp x, xla::XlaOp seed, xla::PrimitiveType type,
                                const Sizes& sizes) const {
#ifdef KERAS_NORMS_XLA_FFI
    const xla::Shape shape = xla::ShapeUtil::MakeShape(type, sizes);
    std::vector<xla::XlaOp> ops = {x};
    std::vector<xla::Shape> shapes = {shape};
    if (seed.valid()) {
      ops.push_back(seed);
      shapes.push_back(xla::ShapeUtil::MakeShape(xla::S64, {}));
    }
    const auto number = [](const char* name, int64_t value) {
      return absl::StrCat(name, " = ", value, " : i64, ");
    };
    const std::string attributes = absl::StrCat(
        "{", number("axis", options_.axis), number("exponent_bits", options_.exponent_bits),
        number("mantissa_bits", options_.mantissa_bits),
        number("mode", static_cast<int64_t>(options_.mode)),
        number("block_size", options_.block_size),
        number("block_mantissa_bits", options_.block_mantissa_bits),
        "subnormals = ", options_.subnormals ? "true" : "false",
        ", second_largest = ", options_.second_largest ? "true" : "false", "}");
    // In the memory of x, which XLA copies if somebody else needs it.
    return xla::CustomCallWithLayout(
        x.builder(), "keras_norms_round", ops, shape, shapes, attributes,
        /*has_side_effect=*/false, {{{}, {0, {}}}}, /*literal=*/nullptr,
        xla::CustomCallSchedule::SCHEDULE_NONE,
        xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
#else
    (void)seed, (void)type, (void)sizes;
    return x;
#endif
  }

  const bool calls_compiled_kernel_;
  RoundOptions options_;
};

}  // namespace keras_norms

#endif  // KERAS_NORMS_OPS_XLA_ROUND_H_
