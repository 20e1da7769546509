// The op kernel of Extremes; Run computes it on a device.

#ifndef KERAS_NORMS_OPS_EXTREMES_KERNEL_H_
#define KERAS_NORMS_OPS_EXTREMES_KERNEL_H_

#include "kernels/extremes.h"
#include "ops/op_helpers.h"

namespace keras_norms {

template <void (*Run)(tensorflow::OpKernelContext*, const ExtremesArguments&)>
class ExtremesOp : public tensorflow::OpKernel {
 public:
  explicit ExtremesOp(tensorflow::OpKernelConstruction* construction) : OpKernel(construction) {
    OP_REQUIRES_OK(construction, ReadOptions(construction, kExtremes, &options_));
  }

  void Compute(tensorflow::OpKernelContext* context) override {
    std::array<const tensorflow::Tensor*, SizeOf(kExtremesOperands)> inputs;
    OP_REQUIRES_OK(context, ReadInputs(context, kExtremes, options_, &inputs));
    const auto [x, weights] = inputs;

    ExtremesArguments arguments;
    arguments.dtype = KernelType(x->dtype());
    arguments.layout = LayoutOf(SizesOf(x->shape()), options_);
    arguments.chunks = options_.chunks;
    arguments.x = DataOf(x);
    arguments.weights = DataOf(weights);

    tensorflow::Tensor* outputs[6];
    for (int i = 0; i < 6; ++i) {
      const int64_t values = i == 0 ? 1 : arguments.layout.channels;
      OP_REQUIRES_OK(context, context->allocate_output(i, Shape(arguments, values), &outputs[i]));
    }
    double** numbers[] = {&arguments.count, &arguments.mean, &arguments.low, &arguments.high};
    for (int i = 0; i < 4; ++i) *numbers[i] = static_cast<double*>(outputs[i]->data());
    arguments.low_at = static_cast<int64_t*>(outputs[4]->data());
    arguments.high_at = static_cast<int64_t*>(outputs[5]->data());
    Run(context, arguments);
  }

 private:
  tensorflow::TensorShape Shape(const ExtremesArguments& arguments, int64_t values) const {
    if (options_.segment_size == 0) return tensorflow::TensorShape({arguments.chunks, values});
    return tensorflow::TensorShape({arguments.layout.segments, arguments.chunks, values});
  }

  CallOptions options_;
};

}  // namespace keras_norms

#endif  // KERAS_NORMS_OPS_EXTREMES_KERNEL_H_
