// The op kernel of Sums; Run computes it on a device.

#ifndef KERAS_NORMS_OPS_SUMS_KERNEL_H_
#define KERAS_NORMS_OPS_SUMS_KERNEL_H_

#include "kernels/sums.h"
#include "ops/op_helpers.h"

namespace keras_norms {

template <void (*Run)(tensorflow::OpKernelContext*, const SumsArguments&)>
class SumsOp : public tensorflow::OpKernel {
 public:
  explicit SumsOp(tensorflow::OpKernelConstruction* construction) : OpKernel(construction) {
    OP_REQUIRES_OK(construction, ReadOptions(construction, kSums, &options_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    std::array<const tensorflow::Tensor*, SizeOf(kSumsOperands)> inputs;
    OP_REQUIRES_OK(context, ReadInputs(context, kSums, options_, &inputs));
    const auto [u, v, center, scale, shift, weights] = inputs;
    const tensorflow::Tensor& like = v != nullptr ? *v : *u;

    SumsArguments arguments;
    arguments.dtype = KernelType(like.dtype());
    arguments.layout = LayoutOf(SizesOf(like.shape()), options_);
    arguments.u = DataOf(u);
    arguments.v = DataOf(v);
    arguments.center = VectorOf(center);
    arguments.scale = VectorOf(scale);
    arguments.shift = VectorOf(shift);
    arguments.weights = DataOf(weights);
    arguments.weighted = options_.weighted;

    tensorflow::Tensor *sum_u, *sum_uv, *y;
    OP_REQUIRES_OK(context,
                   context->allocate_output(0, VectorShape(arguments.layout, options_), &sum_u));
    arguments.sum_u = static_cast<double*>(sum_u->data());
    if (v != nullptr) {
      OP_REQUIRES_OK(context, context->allocate_output(1, sum_u->shape(), &sum_uv));
      arguments.sum_uv = static_cast<double*>(sum_uv->data());
    }
    if (scale != nullptr) {
      OP_REQUIRES_OK(context, context->forward_input_or_allocate_output(
                                  ActivationInputs(u, v), 2, like.shape(), &y));
      arguments.y = const_cast<void*>(DataOf(y));
    }
    Run(context, arguments);
  }

 private:
  CallOptions options_;
};

}  // namespace keras_norms

#endif  // KERAS_NORMS_OPS_SUMS_KERNEL_H_
