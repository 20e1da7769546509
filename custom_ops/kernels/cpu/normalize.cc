// Normalize and NormalizeGrad on the CPU: two passes of the other kernels, with vectors in between.
//
// Where channels are planes, groups of them whose values fit into the caches of a core go through
// both passes one after the other: memory is read once. Otherwise the second pass goes backwards, so
// that it begins with what the caches still hold of the first.

#include "../normalize.h"

#include "../normalize_steps.h"

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

constexpr int64_t kAlignment = 64;  // Of the pieces of scratch memory.

void MergeParts(const NormalizeArguments& arguments, double* count) {
  *count = MergedCount(arguments);
  for (int64_t c = 0; c < arguments.layout.channels; ++c) MergeParts(arguments, *count, c);
}

// One group, or everything.
void NormalizePart(const NormalizeArguments& arguments, void* scratch, const ThreadPool& pool) {
  const ChannelLayout& layout = arguments.layout;
  Memory memory(scratch, kAlignment);
  double* counts = memory.Vector(layout.segments);
  double* scale = memory.Vector(layout.vector_size());
  if (arguments.parts != nullptr) {
    MergeParts(arguments, counts);
  } else {
    MomentsArguments moments = MomentsOf(arguments);
    moments.count = counts;
    MomentsCpu(moments, memory.Bytes(MomentsScratchCpu(moments)), pool);
  }
  for (int64_t segment = 0; segment < layout.segments; ++segment) {
    const double count = counts[segment];
    if (arguments.count != nullptr) arguments.count[segment] = count;
    for (int64_t c = 0; c < layout.channels; ++c) {
      FinishVariance(arguments, count, segment, c, scale);
    }
  }
  BlendCpu(BlendOf(arguments, scale), nullptr, pool);
}

// Scratch memory of NormalizePart.
int64_t PartBytes(const NormalizeArguments& arguments) {
  Memory memory(nullptr, kAlignment);
  memory.Vector(arguments.layout.segments);
  memory.Vector(arguments.layout.vector_size());
  memory.Bytes(MomentsScratchCpu(MomentsOf(arguments)));
  return memory.size();
}

// One group, or everything.
void NormalizeGradPart(const NormalizeGradArguments& arguments, void* scratch,
                       const ThreadPool& pool) {
  const ChannelLayout& layout = arguments.layout;
  Memory memory(scratch, kAlignment);
  const GradVectors at(&memory, layout.vector_size());
  for (int64_t segment = 0; segment < layout.segments; ++segment) {
    for (int64_t c = 0; c < layout.channels; ++c) {
      at.scale[segment * layout.channels + c] = ScaleAt(arguments, segment, c);
    }
  }
  SumsArguments sums = SumsOf(arguments, at.scale);
  sums.sum_u = at.sum_dy;
  sums.sum_uv = at.sum_dy_centred;
  if (arguments.sums == nullptr) {
    SumsCpu(sums, memory.Bytes(SumsScratchCpu(sums)), pool);
  }
  for (int64_t c = 0; c < layout.channels; ++c) Differentiate(arguments, at, c);
  BlendCpu(BlendOf(arguments, at, sums.gate), nullptr, pool);
}

int64_t PartBytes(const NormalizeGradArguments& arguments) {
  Memory memory(nullptr, kAlignment);
  GradVectors(&memory, arguments.layout.vector_size());
  memory.Bytes(SumsScratchCpu(SumsOf(arguments, nullptr)));
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
  for (int64_t c = 0; c < arguments.layout.channels; ++c) {
    move(moving, c, arguments.mean[c], arguments.variance[c], arguments.count[0]);
  }
}

int64_t NormalizeGradScratchCpu(const NormalizeGradArguments& arguments) {
  return ScratchInParts(arguments, GroupsOf(arguments));
}

void NormalizeGradCpu(const NormalizeGradArguments& arguments, void* scratch,
                      const ThreadPool& pool) {
  RunInParts(arguments, GroupsOf(arguments), scratch, pool, NormalizeGradPart);
}

}  // namespace keras_norms
