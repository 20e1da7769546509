// The op kernel of AddAt; Run computes it on a device.

#ifndef KERAS_NORMS_OPS_ADD_AT_KERNEL_H_
#define KERAS_NORMS_OPS_ADD_AT_KERNEL_H_

#include "kernels/add_at.h"
#include "ops/op_helpers.h"

namespace keras_norms {

template <void (*Run)(tensorflow::OpKernelContext*, const AddAtArguments&)>
class AddAtOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* context) override {
    const tensorflow::Tensor &x = context->input(0), &values = context->input(1);
    for (int i : {2, 3}) {
      OP_REQUIRES(context, context->input(i).shape() == values.shape(),
                  absl::InvalidArgumentError(PlacesProblem(
                      context->input(i).shape().DebugString(), values.shape().DebugString())));
    }
    tensorflow::Tensor* y;
    OP_REQUIRES_OK(context,
                   context->forward_input_or_allocate_output({0}, 0, x.shape(), &y));
    AddAtArguments arguments;
    arguments.dtype = KernelType(y->dtype());
    arguments.size = y->NumElements();
    arguments.count = values.NumElements();
    arguments.x = x.data();
    arguments.y = y->data();
    arguments.values = static_cast<const double*>(values.data());
    arguments.high_at = static_cast<const int64_t*>(context->input(2).data());
    arguments.low_at = static_cast<const int64_t*>(context->input(3).data());
    Run(context, arguments);
  }
};

}  // namespace keras_norms

#endif  // KERAS_NORMS_OPS_ADD_AT_KERNEL_H_
