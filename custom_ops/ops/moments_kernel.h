// The op kernel of Moments; Run computes it on a device.

#ifndef KERAS_NORMS_OPS_MOMENTS_KERNEL_H_
#define KERAS_NORMS_OPS_MOMENTS_KERNEL_H_

#include "kernels/moments.h"
#include "ops/op_helpers.h"

namespace keras_norms {

template <void (*Run)(tensorflow::OpKernelContext*, const MomentsArguments&)>
class MomentsOp : public tensorflow::OpKernel {
 public:
  explicit MomentsOp(tensorflow::OpKernelConstruction* construction) : OpKernel(construction) {
    OP_REQUIRES_OK(construction, ReadOptions(construction, kMoments, &options_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    std::array<const tensorflow::Tensor*, SizeOf(kMomentsOperands)> inputs;
    OP_REQUIRES_OK(context, ReadInputs(context, kMoments, options_, &inputs));
    const auto [x, weights] = inputs;

    MomentsArguments arguments;
    arguments.dtype = KernelType(x->dtype());
    arguments.layout = LayoutOf(SizesOf(x->shape()), options_);
    arguments.x = DataOf(x);
    arguments.weights = DataOf(weights);

    tensorflow::TensorShape count_shape = VectorShape(arguments.layout, options_);
    count_shape.set_dim(count_shape.dims() - 1, 1);
    tensorflow::Tensor *count, *mean, *m2;
    OP_REQUIRES_OK(context, context->allocate_output(0, count_shape, &count));
    OP_REQUIRES_OK(context,
                   context->allocate_output(1, VectorShape(arguments.layout, options_), &mean));
    OP_REQUIRES_OK(context, context->allocate_output(2, mean->shape(), &m2));
    arguments.count = static_cast<double*>(count->data());
    arguments.mean = static_cast<double*>(mean->data());
    arguments.m2 = static_cast<double*>(m2->data());
    Run(context, arguments);
  }

 private:
  CallOptions options_;
};

}  // namespace keras_norms

#endif  // KERAS_NORMS_OPS_MOMENTS_KERNEL_H_
