// The op kernels of Normalize and NormalizeGrad; Run computes them on a device.

#ifndef KERAS_NORMS_OPS_NORMALIZE_KERNEL_H_
#define KERAS_NORMS_OPS_NORMALIZE_KERNEL_H_

#include "kernels/normalize.h"
#include "ops/op_helpers.h"

namespace keras_norms {

// The arguments that are inputs, in the order of the signatures.
inline NormalizeArguments NormalizeInputs(
    const std::array<const tensorflow::Tensor*, SizeOf(kNormalizeOperands)>& inputs,
    const CallOptions& options) {
  const auto [x, residual, gamma, beta, parts, moving_mean, moving_variance, share] = inputs;
  NormalizeArguments arguments;
  arguments.dtype = KernelType(x->dtype());
  arguments.layout = LayoutOf(SizesOf(x->shape()), options);
  arguments.x = DataOf(x);
  arguments.residual = DataOf(residual);
  arguments.gamma = VectorOf(gamma);
  arguments.beta = VectorOf(beta);
  arguments.parts = static_cast<const double*>(DataOf(parts));
  arguments.members = parts == nullptr ? 0 : parts->dim_size(0);
  arguments.epsilon = options.epsilon;
  arguments.rectifier = options.rectifier;
  arguments.moving.mean = VectorOf(moving_mean);
  arguments.moving.variance = VectorOf(moving_variance);
  arguments.moving.share = DataOf(share);
  return arguments;
}

inline NormalizeGradArguments NormalizeGradInputs(
    const std::array<const tensorflow::Tensor*, SizeOf(kNormalizeGradOperands)>& inputs,
    const CallOptions& options) {
  const auto [dy, x, y, gamma, beta, count, mean, variance, of_mean, of_variance, own_sums, sums] =
      inputs;
  NormalizeGradArguments arguments;
  arguments.dtype = KernelType(x->dtype());
  arguments.layout = LayoutOf(SizesOf(x->shape()), options);
  arguments.dy = DataOf(dy);
  arguments.x = DataOf(x);
  arguments.y = DataOf(y);
  arguments.gamma = VectorOf(gamma);
  arguments.beta = VectorOf(beta);
  arguments.epsilon = options.epsilon;
  arguments.rectifier = options.rectifier;
  arguments.count = static_cast<const double*>(DataOf(count));
  arguments.mean = VectorOf(mean);
  arguments.variance = VectorOf(variance);
  arguments.of_mean = VectorOf(of_mean);
  arguments.of_variance = VectorOf(of_variance);
  arguments.own_sums = static_cast<const double*>(DataOf(own_sums));
  arguments.sums = static_cast<const double*>(DataOf(sums));
  return arguments;
}

template <void (*Run)(tensorflow::OpKernelContext*, const NormalizeArguments&)>
class NormalizeOp : public tensorflow::OpKernel {
 public:
  explicit NormalizeOp(tensorflow::OpKernelConstruction* construction) : OpKernel(construction) {
    OP_REQUIRES_OK(construction, ReadOptions(construction, kNormalize, &options_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    std::array<const tensorflow::Tensor*, SizeOf(kNormalizeOperands)> inputs;
    OP_REQUIRES_OK(context, ReadInputs(context, kNormalize, options_, &inputs));
    NormalizeArguments arguments = NormalizeInputs(inputs, options_);
    const tensorflow::TensorShape shape = inputs[0]->shape();
    const tensorflow::TensorShape vector = VectorShape(arguments.layout, options_);
    tensorflow::TensorShape count_shape = vector;
    count_shape.set_dim(count_shape.dims() - 1, 1);

    tensorflow::Tensor *y, *count, *mean, *variance;
    const std::vector<int> forwarded = inputs[1] == nullptr ? std::vector<int>{} :
                                                              std::vector<int>{1};
    OP_REQUIRES_OK(context,
                   context->forward_input_or_allocate_output(forwarded, 0, shape, &y));
    OP_REQUIRES_OK(context, context->allocate_output(1, count_shape, &count));
    OP_REQUIRES_OK(context, context->allocate_output(2, vector, &mean));
    OP_REQUIRES_OK(context, context->allocate_output(3, vector, &variance));
    arguments.y = y->data();
    arguments.count = static_cast<double*>(count->data());
    arguments.mean = static_cast<double*>(mean->data());
    arguments.variance = static_cast<double*>(variance->data());
    if (arguments.moving.share != nullptr) {
      tensorflow::Tensor *new_mean, *new_variance;
      OP_REQUIRES_OK(context, context->allocate_output(4, vector, &new_mean));
      OP_REQUIRES_OK(context, context->allocate_output(5, vector, &new_variance));
      arguments.moving.new_mean = new_mean->data();
      arguments.moving.new_variance = new_variance->data();
    }
    Run(context, arguments);
  }

 private:
  CallOptions options_;
};

template <void (*Run)(tensorflow::OpKernelContext*, const NormalizeGradArguments&)>
class NormalizeGradOp : public tensorflow::OpKernel {
 public:
  explicit NormalizeGradOp(tensorflow::OpKernelConstruction* construction)
      : OpKernel(construction) {
    OP_REQUIRES_OK(construction, ReadOptions(construction, kNormalizeGrad, &options_));
    OP_REQUIRES_OK(construction, construction->GetAttr("P", &vector_type_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    std::array<const tensorflow::Tensor*, SizeOf(kNormalizeGradOperands)> inputs;
    OP_REQUIRES_OK(context, ReadInputs(context, kNormalizeGrad, options_, &inputs));
    NormalizeGradArguments arguments = NormalizeGradInputs(inputs, options_);
    const tensorflow::TensorShape shape = inputs[1]->shape();
    const tensorflow::TensorShape vector({arguments.layout.channels});

    int output = 0;
    tensorflow::Tensor *dx, *dresidual, *dgamma, *dbeta;
    OP_REQUIRES_OK(context,
                   context->forward_input_or_allocate_output({0}, output++, shape, &dx));
    if (arguments.y != nullptr) {
      OP_REQUIRES_OK(context, context->allocate_output(output++, shape, &dresidual));
      arguments.dresidual = dresidual->data();
    }
    OP_REQUIRES_OK(context, context->allocate_output(output++, vector, &dgamma));
    OP_REQUIRES_OK(context, context->allocate_output(output++, vector, &dbeta));
    arguments.dx = dx->data();
    arguments.dgamma = dgamma->data();
    arguments.dbeta = dbeta->data();
    arguments.vectors_are_double = vector_type_ == tensorflow::DT_DOUBLE;
    Run(context, arguments);
  }

 private:
  CallOptions options_;
  tensorflow::DataType vector_type_;
};

}  // namespace keras_norms

#endif  // KERAS_NORMS_OPS_NORMALIZE_KERNEL_H_
