// What differs between the versions of TensorFlow whose XLA the ops compile with.

#ifndef KERAS_NORMS_OPS_XLA_INCLUDES_H_
#define KERAS_NORMS_OPS_XLA_INCLUDES_H_

#if KERAS_NORMS_TENSORFLOW_MINOR == 19
// Its stream executor names a class whose header includes LLVM, which the package lacks. Nothing
// here uses the class.
#define XLA_STREAM_EXECUTOR_GPU_TMA_METADATA_H_
namespace stream_executor::gpu {
class TmaDescriptor {};
}  // namespace stream_executor::gpu
#endif

#if __has_include("xla/hlo/builder/xla_builder.h")
#include "xla/hlo/builder/lib/arithmetic.h"
#include "xla/hlo/builder/lib/constants.h"
#include "xla/hlo/builder/xla_builder.h"
#else
#include "xla/client/lib/arithmetic.h"
#include "xla/client/lib/constants.h"
#include "xla/client/xla_builder.h"
#endif

#include "tensorflow/compiler/tf2xla/shape_util.h"
#include "tensorflow/compiler/tf2xla/type_util.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "tensorflow/compiler/tf2xla/xla_op_registry.h"

#endif  // KERAS_NORMS_OPS_XLA_INCLUDES_H_
