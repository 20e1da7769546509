// Normalize and NormalizeGrad on the CPU: two passes of the other kernels, with vectors in between.
//
// Where channels are planes, groups of them whose values fit into the caches of a core go through
// both passes one after the other: memory is read once. Otherwise the second pass goes backwards, so
// that it begins with what the caches still hold of the first.

#include "../normalize.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "../blend.h"
#include "../moments.h"
#include "../sums.h"

namespace keras_norms {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t Min(int64_t a, int64_t b) { return a < b ? a : b; }

int64_t SizeOf(DataType dtype) {
  return dtype == DataType::kFloat64 ? 8 : dtype == DataType::kFloat32 ? 4 : 2;
}

// Pointers at a distance of so many values.
const void* At(const void* data, int64_t values, DataType dtype) {
  return data == nullptr ? nullptr : static_cast<const char*>(data) + values * SizeOf(dtype);
}
void* At(void* data, int64_t values, DataType dtype) {
  return data == nullptr ? nullptr : static_cast<char*>(data) + values * SizeOf(dtype);
}
ChannelVector At(ChannelVector vector, int64_t channel) {
  if (vector.data == nullptr) return vector;
  const int64_t bytes = channel * (vector.is_double ? 8 : 4);
  vector.data = static_cast<const char*>(vector.data) + bytes;
  return vector;
}
void* At(void* vector, int64_t channel, bool is_double) {
  return At(vector, channel, is_double ? DataType::kFloat64 : DataType::kFloat32);
}

void Put(void* vector, bool is_double, int64_t i, double value) {
  if (is_double) {
    static_cast<double*>(vector)[i] = value;
  } else {
    static_cast<float*>(vector)[i] = static_cast<float>(value);
  }
}

// How channels are cut into groups that go through both passes one after the other: where they are
// planes, and all of them together are too large for the caches that cores share.
class Groups {
 public:
  // None.
  Groups() = default;
  // `activations`: how many of them a group brings into the caches.
  Groups(const ChannelLayout& layout, DataType dtype, int64_t activations) : layout_(layout) {
    const int64_t bytes = layout.rows * layout.inner * SizeOf(dtype) * activations;
    if (layout.segments != 1 || layout.inner == 1 || layout.channels < kGroups) return;
    if (bytes > kCacheBytes || bytes * layout.channels < kSharedBytes) return;
    channels_ = Min(kCacheBytes / bytes, layout.channels / kGroups);
  }

  bool exist() const { return channels_ > 0; }
  int64_t count() const { return CeilDiv(layout_.channels, channels_); }
  int64_t first(int64_t group) const { return group * channels_; }
  // The part of the activation that is a group.
  ChannelLayout layout(int64_t group) const {
    ChannelLayout part = layout_;
    part.channels = Min(channels_, layout_.channels - first(group));
    part.row_channels = layout_.channels;
    return part;
  }

 private:
  static constexpr int64_t kCacheBytes = 1 << 20;
  static constexpr int64_t kSharedBytes = 16 << 20;
  static constexpr int64_t kGroups = 16;  // At least, so that threads end at the same time.

  ChannelLayout layout_;
  int64_t channels_ = 0;
};

// Scratch memory of a call, handed out from front to back.
class Memory {
 public:
  explicit Memory(void* begin) : begin_(static_cast<char*>(begin)), next_(begin_) {}
  double* Vector(int64_t size) {
    return reinterpret_cast<double*>(Bytes(size * static_cast<int64_t>(sizeof(double))));
  }
  void* Bytes(int64_t size) {
    char* bytes = next_;
    next_ += CeilDiv(size, 64) * 64;
    return bytes;
  }
  int64_t size() const { return next_ - begin_; }

 private:
  char* const begin_;
  char* next_;
};

MomentsArguments MomentsOf(const NormalizeArguments& arguments, double* count) {
  MomentsArguments moments;
  moments.dtype = arguments.dtype;
  moments.layout = arguments.layout;
  moments.x = arguments.x;
  moments.count = count;
  moments.mean = arguments.mean;
  moments.m2 = arguments.variance;
  return moments;
}

double InverseStddev(double variance, double epsilon) { return 1.0 / std::sqrt(variance + epsilon); }

double GammaAt(const ChannelVector& gamma, const ChannelLayout& layout, int64_t channel) {
  return gamma.data == nullptr ? 1.0 : gamma.at(layout, 0, channel);
}

// The most that is stored, as a share of what the type can hold.
constexpr double kLargest = 0.99;

template <typename F>
void Move(const MovingAverage& moving, const ChannelLayout& layout, const double* mean,
          const double* variance, double count) {
  const F given = *static_cast<const F*>(moving.share);
  const F share = count > 0 ? given : F{0}, kept = 1 - share;
  const double largest = kLargest * static_cast<double>(std::numeric_limits<F>::max());
  const auto mixed = [&](F old, double batch) {
    // A share of 0 lets no NaN pass.
    const F of_old = kept == 0 ? F{0} : old * kept;
    return of_old + (share == 0 ? F{0} : static_cast<F>(batch) * share);
  };
  for (int64_t c = 0; c < layout.channels; ++c) {
    const double bounded = variance[c] > largest ? largest : variance[c];
    static_cast<F*>(moving.new_mean)[c] =
        mixed(static_cast<const F*>(moving.mean.data)[c], mean[c]);
    static_cast<F*>(moving.new_variance)[c] =
        mixed(static_cast<const F*>(moving.variance.data)[c], bounded);
  }
}

// The moments of all parts: exactly, since means are merged and not sums.
void Merge(const NormalizeArguments& arguments, double* count) {
  const int64_t channels = arguments.layout.channels, stride = 2 * channels + 1;
  const auto part = [&](int64_t member) { return arguments.parts + member * stride; };
  *count = 0.0;
  for (int64_t member = 0; member < arguments.members; ++member) *count += part(member)[0];
  for (int64_t c = 0; c < channels; ++c) {
    double mean = 0.0, m2 = 0.0;
    for (int64_t member = 0; member < arguments.members; ++member) {
      mean += part(member)[0] * part(member)[1 + c];
    }
    mean = *count == 0 ? 0.0 : mean / *count;
    for (int64_t member = 0; member < arguments.members; ++member) {
      const double distance = part(member)[1 + c] - mean;
      m2 += part(member)[1 + channels + c] + part(member)[0] * distance * distance;
    }
    arguments.mean[c] = mean;
    arguments.variance[c] = m2;
  }
}

// One group, or everything.
void NormalizePart(const NormalizeArguments& arguments, void* scratch, const ThreadPool& pool) {
  const ChannelLayout& layout = arguments.layout;
  Memory memory(scratch);
  double* counts = memory.Vector(layout.segments);
  double* scale = memory.Vector(layout.vector_size());
  if (arguments.parts != nullptr) {
    Merge(arguments, counts);
  } else {
    const MomentsArguments moments = MomentsOf(arguments, counts);
    MomentsCpu(moments, memory.Bytes(MomentsScratchCpu(moments)), pool);
  }
  for (int64_t segment = 0; segment < layout.segments; ++segment) {
    const double count = counts[segment];
    if (arguments.count != nullptr) arguments.count[segment] = count;
    for (int64_t c = 0; c < layout.channels; ++c) {
      const int64_t i = segment * layout.channels + c;
      const double variance = count == 0 ? 0.0 : arguments.variance[i] / count;
      arguments.variance[i] = variance;
      scale[i] = GammaAt(arguments.gamma, layout, c) * InverseStddev(variance, arguments.epsilon);
    }
  }
  BlendArguments blend;
  blend.dtype = arguments.dtype;
  blend.layout = layout;
  blend.u = arguments.residual;
  blend.v = arguments.x;
  blend.b = {scale, true, true};
  blend.c = arguments.beta;
  blend.center = {arguments.mean, true, true};
  blend.rectifier = arguments.rectifier;
  blend.y = arguments.y;
  blend.backwards = true;
  BlendCpu(blend, nullptr, pool);
}

// Scratch memory of NormalizePart.
int64_t PartBytes(const NormalizeArguments& arguments) {
  Memory memory(nullptr);
  memory.Vector(arguments.layout.segments);
  memory.Vector(arguments.layout.vector_size());
  memory.Bytes(MomentsScratchCpu(MomentsOf(arguments, nullptr)));
  return memory.size();
}

SumsArguments SumsOf(const NormalizeGradArguments& arguments) {
  SumsArguments sums;
  sums.dtype = arguments.dtype;
  sums.layout = arguments.layout;
  sums.u = arguments.dy;
  sums.v = arguments.x;
  sums.center = arguments.mean;
  sums.gate.rectifier = arguments.rectifier;
  sums.gate.y = arguments.y;
  sums.gate.shift = arguments.beta;
  sums.y = arguments.dresidual;
  return sums;
}

struct GradVectors {
  double *scale, *b, *c, *center, *sum_dy, *sum_dy_centred;

  GradVectors(Memory* memory, int64_t size)
      : scale(memory->Vector(size)),
        b(memory->Vector(size)),
        c(memory->Vector(size)),
        center(memory->Vector(size)),
        sum_dy(memory->Vector(size)),
        sum_dy_centred(memory->Vector(size)) {}
};

// The vectors of dx, and the gradients of the parameters, of which segments add up.
void Differentiate(const NormalizeGradArguments& arguments, const GradVectors& at) {
  const ChannelLayout& layout = arguments.layout;
  for (int64_t c = 0; c < layout.channels; ++c) {
    double dgamma = 0.0, dbeta = 0.0;
    for (int64_t segment = 0; segment < layout.segments; ++segment) {
      const int64_t i = segment * layout.channels + c;
      const double gamma = GammaAt(arguments.gamma, layout, c);
      const double mean = arguments.mean.at(layout, segment, c);
      const double variance = arguments.variance.at(layout, segment, c);
      const double inverse = InverseStddev(variance, arguments.epsilon);
      const double of_variance = -0.5 * gamma * at.sum_dy_centred[i] * inverse * inverse * inverse +
                                 arguments.of_variance.at(layout, segment, c);
      const double of_mean =
          -gamma * inverse * at.sum_dy[i] + arguments.of_mean.at(layout, segment, c);
      const double count = arguments.count[segment];
      at.b[i] = count == 0 ? 0.0 : 2.0 * of_variance / count;
      at.c[i] = count == 0 ? 0.0 : of_mean / count;
      at.center[i] = mean - mean == 0.0 ? mean : 0.0;
      const double* own = arguments.own_sums;
      dgamma += (own == nullptr ? at.sum_dy_centred[i] : own[layout.channels + c]) * inverse;
      dbeta += own == nullptr ? at.sum_dy[i] : own[c];
    }
    const bool is_double = arguments.vectors_are_double;
    if (arguments.dgamma != nullptr) Put(arguments.dgamma, is_double, c, dgamma);
    if (arguments.dbeta != nullptr) Put(arguments.dbeta, is_double, c, dbeta);
  }
}

// One group, or everything.
void NormalizeGradPart(const NormalizeGradArguments& arguments, void* scratch,
                       const ThreadPool& pool) {
  const ChannelLayout& layout = arguments.layout;
  Memory memory(scratch);
  const GradVectors at(&memory, layout.vector_size());
  for (int64_t segment = 0; segment < layout.segments; ++segment) {
    for (int64_t c = 0; c < layout.channels; ++c) {
      at.scale[segment * layout.channels + c] =
          GammaAt(arguments.gamma, layout, c) *
          InverseStddev(arguments.variance.at(layout, segment, c), arguments.epsilon);
    }
  }
  const ChannelVector scale = {at.scale, true, true};
  SumsArguments sums = SumsOf(arguments);
  sums.gate.scale = scale;
  sums.sum_u = at.sum_dy;
  sums.sum_uv = at.sum_dy_centred;
  if (arguments.sums == nullptr) {
    SumsCpu(sums, memory.Bytes(SumsScratchCpu(sums)), pool);
  } else {
    std::copy_n(arguments.sums, layout.channels, at.sum_dy);
    std::copy_n(arguments.sums + layout.channels, layout.channels, at.sum_dy_centred);
  }
  Differentiate(arguments, at);

  BlendArguments blend;
  blend.dtype = arguments.dtype;
  blend.layout = layout;
  blend.u = arguments.dresidual == nullptr ? arguments.dy : arguments.dresidual;
  blend.v = arguments.x;
  blend.a = scale;
  blend.b = {at.b, true, true};
  blend.c = {at.c, true, true};
  blend.center = {at.center, true, true};
  if (arguments.dresidual == nullptr) blend.gate = sums.gate;
  blend.y = arguments.dx;
  blend.backwards = true;
  BlendCpu(blend, nullptr, pool);
}

int64_t PartBytes(const NormalizeGradArguments& arguments) {
  Memory memory(nullptr);
  GradVectors at(&memory, arguments.layout.vector_size());
  memory.Bytes(SumsScratchCpu(SumsOf(arguments)));
  return memory.size();
}

// The arguments of a group of channels.
NormalizeArguments PartOf(NormalizeArguments arguments, const Groups& groups, int64_t group) {
  const int64_t first = groups.first(group), values = first * arguments.layout.inner;
  arguments.layout = groups.layout(group);
  arguments.x = At(arguments.x, values, arguments.dtype);
  arguments.residual = At(arguments.residual, values, arguments.dtype);
  arguments.y = At(arguments.y, values, arguments.dtype);
  arguments.gamma = At(arguments.gamma, first);
  arguments.beta = At(arguments.beta, first);
  if (group > 0) arguments.count = nullptr;  // It is the same in all.
  arguments.mean += first;
  arguments.variance += first;
  return arguments;
}

NormalizeGradArguments PartOf(NormalizeGradArguments arguments, const Groups& groups,
                              int64_t group) {
  const int64_t first = groups.first(group), values = first * arguments.layout.inner;
  arguments.layout = groups.layout(group);
  arguments.dy = At(arguments.dy, values, arguments.dtype);
  arguments.x = At(arguments.x, values, arguments.dtype);
  arguments.y = At(arguments.y, values, arguments.dtype);
  arguments.dx = At(arguments.dx, values, arguments.dtype);
  arguments.dresidual = At(arguments.dresidual, values, arguments.dtype);
  ChannelVector* const vectors[] = {&arguments.gamma,    &arguments.beta,    &arguments.mean,
                                    &arguments.variance, &arguments.of_mean, &arguments.of_variance};
  for (ChannelVector* vector : vectors) *vector = At(*vector, first);
  arguments.dgamma = At(arguments.dgamma, first, arguments.vectors_are_double);
  arguments.dbeta = At(arguments.dbeta, first, arguments.vectors_are_double);
  return arguments;
}

// Runs `part` for each group, on memory of its own, or for everything where there are no groups.
template <typename Arguments>
void RunInParts(const Arguments& arguments, const Groups& groups, void* scratch,
                const ThreadPool& pool,
                void (*part)(const Arguments&, void*, const ThreadPool&)) {
  if (!groups.exist()) return part(arguments, scratch, pool);
  const int64_t bytes = PartBytes(PartOf(arguments, groups, 0));  // The first is the largest.
  pool.ForEach(groups.count(), [&](int64_t group) {
    part(PartOf(arguments, groups, group), static_cast<char*>(scratch) + group * bytes,
         ThreadPool());
  });
}

template <typename Arguments>
int64_t ScratchInParts(const Arguments& arguments, const Groups& groups) {
  if (!groups.exist()) return PartBytes(arguments);
  return groups.count() * PartBytes(PartOf(arguments, groups, 0));
}

Groups GroupsOf(const NormalizeArguments& arguments) {
  if (arguments.parts != nullptr) return Groups();
  const int64_t activations = arguments.residual == nullptr ? 1 : 2;
  return Groups(arguments.layout, arguments.dtype, activations);
}

Groups GroupsOf(const NormalizeGradArguments& arguments) {
  if (arguments.sums != nullptr) return Groups();
  return Groups(arguments.layout, arguments.dtype, 2);
}

}  // namespace

int64_t NormalizeScratchCpu(const NormalizeArguments& arguments) {
  return ScratchInParts(arguments, GroupsOf(arguments));
}

void NormalizeCpu(const NormalizeArguments& arguments, void* scratch, const ThreadPool& pool) {
  RunInParts(arguments, GroupsOf(arguments), scratch, pool, NormalizePart);
  const MovingAverage& moving = arguments.moving;
  if (moving.share == nullptr) return;
  const auto move = moving.mean.is_double ? Move<double> : Move<float>;
  move(moving, arguments.layout, arguments.mean, arguments.variance, arguments.count[0]);
}

int64_t NormalizeGradScratchCpu(const NormalizeGradArguments& arguments) {
  return ScratchInParts(arguments, GroupsOf(arguments));
}

void NormalizeGradCpu(const NormalizeGradArguments& arguments, void* scratch,
                      const ThreadPool& pool) {
  RunInParts(arguments, GroupsOf(arguments), scratch, pool, NormalizeGradPart);
}

}  // namespace keras_norms
