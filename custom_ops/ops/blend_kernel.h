// The op kernel of Blend; Run computes it on a device.

#ifndef KERAS_NORMS_OPS_BLEND_KERNEL_H_
#define KERAS_NORMS_OPS_BLEND_KERNEL_H_

#include "kernels/blend.h"
#include "ops/op_helpers.h"

namespace keras_norms {

template <void (*Run)(tensorflow::OpKernelContext*, const BlendArguments&)>
class BlendOp : public tensorflow::OpKernel {
 public:
  explicit BlendOp(tensorflow::OpKernelConstruction* construction) : OpKernel(construction) {
    OP_REQUIRES_OK(construction, ReadOptions(construction, kBlend, &options_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    std::array<const tensorflow::Tensor*, SizeOf(kBlendOperands)> inputs;
    OP_REQUIRES_OK(context, ReadInputs(context, kBlend, options_, &inputs));
    const auto [u, v, a, b, c, center, weights] = inputs;
    const tensorflow::Tensor& like = v != nullptr ? *v : *u;

    BlendArguments arguments;
    arguments.dtype = KernelType(like.dtype());
    arguments.layout = LayoutOf(SizesOf(like.shape()), options_);
    arguments.u = DataOf(u);
    arguments.v = DataOf(v);
    arguments.a = VectorOf(a);
    arguments.b = VectorOf(b);
    arguments.c = VectorOf(c);
    arguments.center = VectorOf(center);
    arguments.weights = DataOf(weights);
    arguments.weighted = options_.weighted;
    arguments.rectifier = options_.rectifier;

    tensorflow::Tensor* y;
    OP_REQUIRES_OK(context, context->forward_input_or_allocate_output(ActivationInputs(u, v), 0,
                                                                      like.shape(), &y));
    arguments.y = y->data();
    Run(context, arguments);
  }

 private:
  CallOptions options_;
};

}  // namespace keras_norms

#endif  // KERAS_NORMS_OPS_BLEND_KERNEL_H_
