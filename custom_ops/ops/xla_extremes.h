// Extremes as HLO, for where XLA cannot call the compiled kernel: one reduction of six numbers for
// each chunk, which reads each value once. All in float64, since XLA mixes no precisions in one.

#ifndef KERAS_NORMS_OPS_XLA_EXTREMES_H_
#define KERAS_NORMS_OPS_XLA_EXTREMES_H_

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

#include "kernels/extremes.h"
#include "kernels/operands.h"
#include "ops/xla_includes.h"

namespace keras_norms {

class XlaExtremes {
 public:
  using Op = xla::XlaOp;

  explicit XlaExtremes(xla::XlaBuilder* builder) : builder_(builder) {
    const double infinity = std::numeric_limits<double>::infinity();
    empty_ = {Number(0), Number(0), Number(infinity), Place(kNowhere), Number(-infinity),
              Place(kNowhere)};
  }

  // Count, mean, low, high and where these are, [channels] each, of float64 values [n, channels] from
  // position `first` on. `counts` are bools of the same shape.
  std::vector<Op> Compute(Op values, Op counts, int64_t first) const {
    const xla::Shape shape = *builder_->GetShape(values);
    const Op position = xla::Add(
        xla::Iota(builder_, xla::ShapeUtil::MakeShape(xla::S64, shape.dimensions()), 0),
        Place(first));
    const auto counted = [&](Op op, int i) {
      return xla::Select(counts, op, xla::Broadcast(empty_[i], shape.dimensions()));
    };
    const Op ones = xla::Broadcast(Number(1), shape.dimensions());
    const Op results = xla::Reduce(
        builder_,
        {counted(ones, 0), counted(values, 1), counted(values, 2), counted(position, 3),
         counted(values, 4), counted(position, 5)},
        empty_, Merged(), {0});
    std::vector<Op> found;
    for (int i = 0; i < 6; ++i) found.push_back(xla::GetTupleElement(results, i));
    const Op zero = xla::ZerosLike(found[0]), has_any = xla::Gt(found[0], zero);
    const Op mean = xla::Select(has_any, xla::Div(found[1], found[0]), zero);
    const Op low = xla::Select(has_any, found[2], zero);
    const Op high = xla::Select(has_any, found[4], zero);
    return {found[0], mean, low, high, found[3], found[5]};
  }

  static constexpr int64_t kNowhere = std::numeric_limits<int64_t>::max();

 private:
  Op Number(double value) const { return xla::ConstantR0<double>(builder_, value); }
  Op Place(int64_t value) const { return xla::ConstantR0<int64_t>(builder_, value); }

  // Merges two lots of count, sum, low, place, high, place; of equals the first stays.
  xla::XlaComputation Merged() const {
    const auto builder = builder_->CreateSubBuilder("merge_extremes");
    std::vector<Op> a, b;
    const xla::PrimitiveType types[] = {xla::F64, xla::F64, xla::F64,
                                        xla::S64, xla::F64, xla::S64};
    for (auto* side : {&a, &b}) {
      for (const xla::PrimitiveType type : types) {
        const int64_t number = a.size() + b.size();
        side->push_back(xla::Parameter(builder.get(), number, xla::ShapeUtil::MakeShape(type, {}),
                                       "p" + std::to_string(number)));
      }
    }
    const auto first_at = [&](int i, Op is_beyond) {
      return xla::Or(is_beyond, xla::And(xla::Eq(a[i], b[i]), xla::Lt(a[i + 1], b[i + 1])));
    };
    const Op keeps_low = first_at(2, xla::Lt(a[2], b[2]));
    const Op keeps_high = first_at(4, xla::Gt(a[4], b[4]));
    xla::Tuple(builder.get(), {xla::Add(a[0], b[0]), xla::Add(a[1], b[1]),
                               xla::Select(keeps_low, a[2], b[2]),
                               xla::Select(keeps_low, a[3], b[3]),
                               xla::Select(keeps_high, a[4], b[4]),
                               xla::Select(keeps_high, a[5], b[5])});
    return *builder->Build();
  }

  xla::XlaBuilder* const builder_;
  std::vector<Op> empty_;  // What nothing counts as.
};

// The results of the operation, in order. `weights` may be invalid.
inline std::vector<xla::XlaOp> EmitExtremes(xla::XlaOp x, xla::XlaOp weights,
                                            const CallOptions& options) {
  using xla::XlaOp;
  xla::XlaBuilder* builder = x.builder();
  const xla::Shape shape = *builder->GetShape(x);
  const Sizes sizes(shape.dimensions().begin(), shape.dimensions().end());
  const ChannelLayout layout = LayoutOf(sizes, options);
  const Chunks chunks(layout, options.chunks);
  const auto by_position = [&](XlaOp op, int64_t channels) {
    op = xla::Reshape(xla::ConvertElementType(op, xla::F64), {layout.rows, channels, layout.inner});
    return xla::Reshape(xla::Transpose(op, {0, 2, 1}), {layout.rows * layout.inner, channels});
  };
  // Without channels there is still a count.
  const int64_t columns = std::max<int64_t>(layout.channels, 1);
  const XlaOp values = layout.channels > 0
                           ? by_position(x, columns)
                           : xla::Broadcast(xla::Zero(builder, xla::F64), {chunks.positions, 1});
  XlaOp counts = xla::ConstantR0<bool>(builder, true);
  if (weights.valid()) {
    const XlaOp positive = by_position(weights, 1);
    counts = xla::Reshape(xla::Gt(positive, xla::ZerosLike(positive)), {chunks.positions});
    counts = xla::BroadcastInDim(counts, {chunks.positions, columns}, {0});
  } else {
    counts = xla::Broadcast(counts, {chunks.positions, columns});
  }

  const XlaExtremes extremes(builder);
  std::vector<std::vector<XlaOp>> results(6);
  for (int64_t run = 0; run < chunks.size(); ++run) {
    const int64_t first = chunks.first(run), end = chunks.end(run);
    const std::vector<XlaOp> found =
        extremes.Compute(xla::SliceInDim(values, first, end, 1, 0),
                         xla::SliceInDim(counts, first, end, 1, 0), first);
    for (int i = 0; i < 6; ++i) {
      results[i].push_back(xla::Reshape(found[i], {1, columns}));
    }
  }
  std::vector<XlaOp> outputs;
  for (int i = 0; i < 6; ++i) {
    const bool is_place = i >= 4;
    XlaOp all = chunks.size() > 0
                    ? xla::ConcatInDim(builder, results[i], 0)
                    : xla::Broadcast(xla::Zero(builder, is_place ? xla::S64 : xla::F64),
                                     {0, columns});
    if (is_place) {
      const auto constant = [&](int64_t value) {
        return xla::ConstantR0<int64_t>(builder, std::max<int64_t>(value, 1));  // For division.
      };
      const XlaOp channel = xla::Iota(
          builder, xla::ShapeUtil::MakeShape(xla::S64, {chunks.size(), columns}), 1);
      const XlaOp inner = constant(layout.inner);
      const XlaOp row = xla::Div(all, inner);
      const XlaOp place =
          (row * constant(layout.channels) + channel) * inner + xla::Rem(all, inner);
      const XlaOp is_nowhere =
          xla::Eq(all, xla::ConstantR0<int64_t>(builder, XlaExtremes::kNowhere));
      all = xla::Select(is_nowhere, xla::ZerosLike(all), place);
    }
    Sizes result_sizes = {options.chunks, layout.channels};
    if (options.segment_size > 0) result_sizes.insert(result_sizes.begin(), layout.segments);
    if (i == 0) result_sizes.back() = 1;  // The count is that of any channel.
    all = xla::SliceInDim(all, 0, result_sizes.back(), 1, 1);
    outputs.push_back(xla::Reshape(all, result_sizes));
  }
  return outputs;
}

}  // namespace keras_norms

#endif  // KERAS_NORMS_OPS_XLA_EXTREMES_H_
