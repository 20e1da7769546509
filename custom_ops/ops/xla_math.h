// Moments, sums and blend, and what is made of them, as HLO, for where XLA cannot call the compiled
// kernels.
//
// The same numbers as keras_norms/ops/reference.py: activations are computed in float32 (float64
// for float64), sums run in it over one axis or a block of rows and in float64 beyond, values are
// centred before they are multiplied, and what float32 cannot hold of a centre goes back into the
// vectors. Segments are summed in runs of the batch axis, after centring padded to whole runs.

#ifndef KERAS_NORMS_OPS_XLA_MATH_H_
#define KERAS_NORMS_OPS_XLA_MATH_H_

#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/operands.h"
#include "ops/xla_includes.h"

namespace keras_norms {

class XlaMath {
 public:
  using Op = xla::XlaOp;

  struct Moments {
    Op count, mean, m2;
  };
  struct Sums {
    Op sum_u, sum_uv, y;  // sum_uv is valid only where v is, y only where scale is.
  };

  // Absent operands are invalid XlaOps. `type` and `sizes` are those of the activations.
  XlaMath(xla::XlaBuilder* builder, xla::PrimitiveType type, const Sizes& sizes,
          const CallOptions& options)
      : builder_(builder),
        type_(type),
        compute_(type == xla::F64 ? xla::F64 : xla::F32),
        sizes_(sizes),
        options_(options),
        layout_(LayoutOf(sizes, options)),
        run_(std::min(options.segment_size, std::max<int64_t>(sizes[0], 1))) {}

  Moments ComputeMoments(Op x, Op weights) const {
    x = Compute(x);
    const Op count = weights.valid() ? Total(weights) : Count();
    const Op shift = Split(DivideNoNan(Total(Weigh(x, weights)), count)).high;
    const Op centred = xla::Sub(x, Expand(shift));
    // The shift is the mean up to the rounding of a float32 sum; the rest is exact.
    const Op sum = Total(Weigh(centred, weights));
    const Op residual = DivideNoNan(sum, count);
    const Op mean = xla::Add(shift, residual);
    const Op m2 = xla::Sub(Total(Weigh(xla::Mul(centred, centred), weights)), sum * residual);
    return {count, mean, xla::Max(m2, xla::ZerosLike(m2))};
  }

  Sums ComputeSums(Op u, Op v, Op center, Op scale, Op shift, Op weights) const {
    const Center parts = Split(center);
    const Op centred = v.valid() ? Centred(v, parts.high, weights) : Op();
    const Op values = u.valid() ? Compute(u) : centred;
    const Op weighed = options_.weighted ? xla::Mul(values, ExpandWeights(weights)) : values;
    const Op sum_u = Total(weighed);
    if (!v.valid()) return {sum_u, Op(), Op()};
    Op sum_uv = Total(xla::Mul(weighed, centred));
    if (u.valid() && parts.low.valid()) sum_uv = sum_uv - parts.low * sum_u;
    if (!scale.valid()) return {sum_u, sum_uv, Op()};
    Op y = xla::Mul(values, Expand(Vector(scale)));
    if (shift.valid()) y = xla::Add(y, Expand(Vector(shift)));
    return {sum_u, sum_uv, xla::ConvertElementType(y, type_)};
  }

  Op ComputeBlend(Op u, Op v, Op a, Op b, Op c, Op center, Op weights) const {
    Op y;
    if (v.valid()) {
      const Center parts = Split(center);
      b = Vector(b);
      if (parts.low.valid()) {
        const Op correction = b * parts.low;
        c = c.valid() ? Vector(c) - correction : xla::Neg(correction);
      }
      y = xla::Mul(Centred(v, parts.high, weights), Expand(b));
    }
    if (c.valid()) y = y.valid() ? xla::Add(y, Expand(Vector(c))) : Expand(Vector(c));
    if (options_.weighted && y.valid()) y = xla::Mul(y, ExpandWeights(weights));
    if (u.valid()) {
      const Op scaled = a.valid() ? xla::Mul(Compute(u), Expand(Vector(a))) : Compute(u);
      y = y.valid() ? xla::Add(scaled, y) : scaled;
    }
    if (options_.rectifier.is_given) y = Rectified(y);
    return xla::ConvertElementType(y, type_);
  }

  struct Normalized {
    Op y, count, mean, variance, new_mean, new_variance;  // The last two as `share` is.
  };
  Normalized ComputeNormalize(Op x, Op residual, Op gamma, Op beta, Op parts, Op moving_mean,
                              Op moving_variance, Op share) const {
    const Moments moments = parts.valid() ? Merged(parts) : ComputeMoments(x, Op());
    const Op variance = DivideNoNan(moments.m2, moments.count);
    const Op y =
        ComputeBlend(residual, x, Op(), ScaleOf(gamma, variance), beta, moments.mean, Op());
    if (!share.valid()) return {y, moments.count, moments.mean, variance, Op(), Op()};
    const xla::PrimitiveType type = Type(moving_mean);
    const Op count = xla::Reshape(moments.count, {});
    share = xla::Select(xla::Gt(count, xla::ZerosLike(count)), share, xla::ZerosLike(share));
    const double largest = 0.99 * (type == xla::F64 ? std::numeric_limits<double>::max()
                                                    : std::numeric_limits<float>::max());
    const Op bounded =
        xla::Select(xla::Gt(variance, xla::FullLike(variance, largest)),
                    xla::FullLike(variance, largest), variance);
    const auto mixed = [&](Op old, Op batch) {
      const Op kept = xla::Sub(xla::ScalarLike(share, 1.0), share);
      return MultiplyNoNan(old, kept) +
             MultiplyNoNan(xla::ConvertElementType(batch, type), share);
    };
    return {y,        moments.count, moments.mean,
            variance, mixed(moving_mean, moments.mean), mixed(moving_variance, bounded)};
  }

  struct Gradients {
    Op dx, dresidual, dgamma, dbeta;  // dresidual only where y is.
  };
  Gradients ComputeNormalizeGrad(Op dy, Op x, Op y, Op gamma, Op beta, Op count, Op mean,
                                 Op variance, Op of_mean, Op of_variance, Op own, Op all) const {
    const Op scale = ScaleOf(gamma, variance);
    if (options_.rectifier.is_given) {
      const Op z = y.valid() ? Compute(y)
                             : Compute(Unrectified().ComputeBlend(Op(), x, Op(), scale, beta,
                                                                  mean, Op()));
      dy = xla::ConvertElementType(Gated(Compute(dy), z), type_);
    }
    const Sums own_sums = own.valid() ? Halves(own) : ComputeSums(dy, x, mean, Op(), Op(), Op());
    const Sums sums = all.valid() ? Halves(all) : own_sums;
    const Op inverse = InverseStddev(variance);
    const Op half = xla::ScalarLike(inverse, -0.5);
    Op by_variance = half * Times(gamma, sums.sum_uv) * inverse * inverse * inverse;
    Op by_mean = xla::Neg(scale * sums.sum_u);
    if (of_variance.valid()) by_variance = by_variance + of_variance;
    if (of_mean.valid()) by_mean = by_mean + of_mean;
    const Op b = DivideNoNan(xla::ScalarLike(by_variance, 2.0) * by_variance, count);
    const Op center = xla::Select(xla::IsFinite(mean), mean, xla::ZerosLike(mean));
    const Op dx = Unrectified().ComputeBlend(dy, x, scale, b, DivideNoNan(by_mean, count), center,
                                             Op());
    return {dx, dy, OverSegments(own_sums.sum_uv * inverse), OverSegments(own_sums.sum_u)};
  }

 private:
  struct Center {
    Op high, low;
  };

  // The moments of all parts, from rows of count, mean and m2.
  Moments Merged(Op parts) const {
    const int64_t channels = layout_.channels;
    const Op counts = xla::SliceInDim(parts, 0, 1, 1, 1);
    const Op means = xla::SliceInDim(parts, 1, channels + 1, 1, 1);
    const Op m2s = xla::SliceInDim(parts, channels + 1, 2 * channels + 1, 1, 1);
    const Sizes sizes = SizesOf(means);
    const Op weights = xla::BroadcastInDim(counts, sizes, {0, 1});
    const Op count = xla::Reshape(Sum(counts, {0}), {1});
    const Op mean = DivideNoNan(Sum(weights * means, {0}), count);
    const Op distance = means - xla::BroadcastInDim(mean, sizes, {1});
    return {count, mean, Sum(m2s + weights * distance * distance, {0})};
  }

  Sums Halves(Op sums) const {
    const int64_t channels = layout_.channels;
    return {xla::SliceInDim(sums, 0, channels, 1, 0),
            xla::SliceInDim(sums, channels, 2 * channels, 1, 0), Op()};
  }

  // The same without a rectifier.
  XlaMath Unrectified() const {
    CallOptions options = options_;
    options.rectifier = {};
    return XlaMath(builder_, type_, sizes_, options);
  }

  // NaN stays, and minus infinity times a slope of 0 is 0.
  Op Rectified(Op z) const {
    const Rectifier& rectifier = options_.rectifier;
    const Op zero = xla::ZerosLike(z);
    const Op above = rectifier.cap > 0 ? xla::Min(z, xla::FullLike(z, rectifier.cap)) : z;
    const Op least = rectifier.negative_slope > 0 ? xla::MinValue(builder_, compute_)
                                                  : xla::MinFiniteValue(builder_, compute_);
    const Op below = xla::FullLike(z, rectifier.negative_slope) * xla::Max(z, least) + zero;
    return xla::Select(xla::Gt(z, zero), above, below);
  }

  // The gradient of z from that of the rectified value.
  Op Gated(Op dy, Op z) const {
    const Rectifier& rectifier = options_.rectifier;
    const Op zero = xla::ZerosLike(z);
    Op above = dy;
    if (rectifier.cap > 0) {
      above = xla::Select(xla::Lt(z, xla::FullLike(z, rectifier.cap)), dy, zero);
    }
    const Op below = xla::FullLike(z, rectifier.negative_slope) * dy;
    return xla::Select(xla::Gt(z, zero), above, below);
  }

  Op InverseStddev(Op variance) const {
    const Op one = xla::ScalarLike(variance, 1.0);
    return one / xla::Sqrt(variance + xla::ScalarLike(variance, options_.epsilon));
  }
  Op Times(Op gamma, Op vector) const { return gamma.valid() ? Vector(gamma) * vector : vector; }
  Op ScaleOf(Op gamma, Op variance) const { return Times(gamma, InverseStddev(variance)); }

  // values * factor, and 0 where the factor is.
  Op MultiplyNoNan(Op values, Op factor) const {
    factor = xla::Broadcast(factor, SizesOf(values));
    const Op zero = xla::ZerosLike(values);
    return xla::Select(xla::Eq(factor, zero), zero, values * factor);
  }

  Op OverSegments(Op vector) const {
    return options_.segment_size == 0 ? vector : Sum(vector, {0});
  }

  Op Compute(Op x) const { return xla::ConvertElementType(x, compute_); }

  // A vector in float64, [segments, channels] wherever there are segments.
  Op Vector(Op vector) const {
    vector = xla::ConvertElementType(vector, xla::F64);
    if (options_.segment_size == 0 || SizesOf(vector).size() == 2) return vector;
    return xla::Broadcast(vector, {layout_.segments});
  }

  // A centre rounded to the compute type, and the part of it that does not fit there. XLA may
  // leave out a conversion to and fro, but not this.
  Center Split(Op center) const {
    if (!center.valid()) return {};
    center = Vector(center);
    if (compute_ == xla::F64) return {center, Op()};
    const Op high = xla::ReducePrecision(center, /*exponent_bits=*/8, /*mantissa_bits=*/23);
    return {high, center - high};
  }

  // v - center, and 0 where a position of weight 0 is not finite.
  Op Centred(Op v, Op center, Op weights) const {
    Op centred = Compute(v);
    if (center.valid()) centred = xla::Sub(centred, Expand(center));
    if (!weights.valid()) return centred;
    weights = ExpandWeights(weights);
    const Op valid = xla::Or(xla::Gt(weights, xla::ZerosLike(weights)), xla::IsFinite(centred));
    return xla::Select(valid, centred, xla::ZerosLike(centred));
  }

  // values * weights, and 0 wherever the weight is.
  Op Weigh(Op values, Op weights) const {
    if (!weights.valid()) return values;
    weights = ExpandWeights(weights);
    const Op zero = xla::ZerosLike(values);
    return xla::Select(xla::Eq(weights, zero), zero, xla::Mul(values, weights));
  }

  // A vector in the compute type, broadcast to the activation.
  Op Expand(Op vector) const {
    vector = xla::ConvertElementType(vector, compute_);
    if (options_.segment_size == 0) return xla::BroadcastInDim(vector, sizes_, {options_.axis});
    Op rows = xla::BroadcastInDim(vector, {layout_.segments, run_, layout_.channels}, {0, 2});
    rows = xla::Reshape(rows, {layout_.segments * run_, layout_.channels});
    rows = xla::SliceInDim(rows, 0, sizes_[0], 1, 0);
    return xla::BroadcastInDim(rows, sizes_, {0, options_.axis});
  }

  Op ExpandWeights(Op weights) const {
    Sizes sizes, axes;
    for (int64_t i = 0; i < static_cast<int64_t>(sizes_.size()); ++i) {
      if (i == options_.axis) continue;
      sizes.push_back(sizes_[i]);
      axes.push_back(i);
    }
    return xla::BroadcastInDim(Compute(xla::Reshape(weights, sizes)), sizes_, axes);
  }

  // Sums over all but the channels, [channels] or [segments, channels]; weights have one channel.
  Op Total(Op values) const {
    const int64_t rank = sizes_.size();
    const int64_t last = options_.axis == rank - 1 ? rank - 2 : rank - 1;
    Sizes rows;  // The axes to sum over in float64.
    for (int64_t i = 0; i < rank; ++i) {
      if (i != options_.axis) rows.push_back(i);
    }
    if (compute_ != xla::F64 && rank > 2) {
      // The axis stays, with size 1, so that the others keep their places.
      Sizes sizes = SizesOf(values);
      sizes[last] = 1;
      values = xla::Reshape(Sum(values, {last}), sizes);
    } else if (compute_ != xla::F64 && options_.axis == 1 && options_.segment_size == 0) {
      values = Sum(InRuns(values, kBlockRows), {1});
    }
    values = xla::ConvertElementType(values, xla::F64);
    if (options_.segment_size == 0) return Sum(values, rows);
    const Op samples = Sum(values, Sizes(rows.begin() + 1, rows.end()));
    return Sum(InRuns(samples, run_), {1});
  }

  // [rows, channels] as [runs, size, channels], with zeros after the last row.
  Op InRuns(Op values, int64_t size) const {
    const Sizes sizes = SizesOf(values);
    const int64_t runs = sizes[0] / size + (sizes[0] % size != 0);
    const Op zero = xla::Zero(builder_, Type(values));
    values = xla::PadInDim(values, zero, 0, 0, runs * size - sizes[0]);
    return xla::Reshape(values, {runs, size, sizes[1]});
  }

  Op Sum(Op values, const Sizes& axes) const {
    const xla::PrimitiveType type = Type(values);
    return xla::Reduce(values, xla::Zero(builder_, type),
                       xla::CreateScalarAddComputation(type, builder_), axes);
  }

  // The number of values behind each mean, [1] or [segments, 1].
  Op Count() const {
    const double row = static_cast<double>(layout_.inner);
    std::vector<double> counts;
    for (int64_t i = 0; i < layout_.segments; ++i) {
      counts.push_back(row * static_cast<double>(layout_.end_row(i) - layout_.first_row(i)));
    }
    const Op count = xla::ConstantR1<double>(builder_, counts);
    return options_.segment_size == 0 ? count : xla::Reshape(count, {layout_.segments, 1});
  }

  // a / count, with one count for all channels; 0 where the count is 0.
  Op DivideNoNan(Op a, Op count) const {
    const bool has_segments = options_.segment_size > 0;
    count = xla::Reshape(count, has_segments ? Sizes{layout_.segments} : Sizes{});
    count = xla::BroadcastInDim(count, SizesOf(a), has_segments ? Sizes{0} : Sizes{});
    const Op zero = xla::ZerosLike(a);
    return xla::Select(xla::Eq(count, zero), zero, xla::Div(a, count));
  }

  xla::PrimitiveType Type(Op op) const { return builder_->GetShape(op)->element_type(); }
  Sizes SizesOf(Op op) const {
    const auto shape = builder_->GetShape(op);
    return Sizes(shape->dimensions().begin(), shape->dimensions().end());
  }

  static constexpr int64_t kBlockRows = 64;

  xla::XlaBuilder* const builder_;
  const xla::PrimitiveType type_, compute_;
  const Sizes sizes_;
  const CallOptions options_;
  const ChannelLayout layout_;
  const int64_t run_;  // The segment size; it may be far beyond the batch, but no run is.
};

}  // namespace keras_norms

#endif  // KERAS_NORMS_OPS_XLA_MATH_H_
