// Checks the CPU kernels of one instruction set, the one that KERAS_NORMS_CPU allows, against plain
// loops, alone and with a pool of threads. Exit code 1 where one is wrong. The argument "short"
// leaves out the large cases, for sanitizers that slow everything down.

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <cstring>
#include <thread>

#include "cpu/helpers.h"
#include "cpu/plan.h"
#include "kernel_checks.h"
#include "normalize_checks.h"
#include "round_checks.h"

namespace keras_norms {
namespace {

using testing::Array;
using testing::Case;
using testing::Weights;

// Runs a kernel with this many threads, and scratch that ends where the kernel said it would.
template <typename Arguments>
const char* Run(int64_t (*scratch_bytes)(const Arguments&),
                void (*kernel)(const Arguments&, void*, const ThreadPool&),
                const Arguments& arguments, int64_t threads = 3) {
  Array scratch(DataType::kFloat64, (scratch_bytes(arguments) + 7) / 8);
  Helpers helpers(threads);
  kernel(arguments, scratch.data(), threads == 1 ? ThreadPool{} : helpers.pool());
  return nullptr;
}

int64_t NoScratch(const AddAtArguments&) { return 0; }
void AddAt(const AddAtArguments& arguments, void*, const ThreadPool& pool) {
  AddAtCpu(arguments, pool);
}

const testing::Kernels kKernels = {
    [](const MomentsArguments& a) { return Run(MomentsScratchCpu, MomentsCpu, a); },
    [](const SumsArguments& a) { return Run(SumsScratchCpu, SumsCpu, a); },
    [](const BlendArguments& a) { return Run(BlendScratchCpu, BlendCpu, a); },
    [](const ExtremesArguments& a) { return Run(ExtremesScratchCpu, ExtremesCpu, a); },
    [](const AddAtArguments& a) { return Run(NoScratch, AddAt, a); },
};

const testing::NormalizeKernels kNormalizeKernels = {
    kKernels.sums,
    kKernels.blend,
    [](const NormalizeArguments& a) { return Run(NormalizeScratchCpu, NormalizeCpu, a); },
    [](const NormalizeGradArguments& a) {
      return Run(NormalizeGradScratchCpu, NormalizeGradCpu, a);
    },
};

const std::vector<Case> kCases = {
    // Rows, channels, inner; rows per segment. Few channels are folded, many are tiled.
    {5000, 1, 1},
    {5000, 3, 1, 3341},  // The last segment ends within a chunk and within a folded row.
    {40000, 3, 1, 0, Weights::kNone, 1e4, 0.1},
    {301, 7, 1, 100, Weights::kFractions, 3, 1, true},
    {333, 31, 1, 100},
    {700, 65, 1, 0, Weights::kMask, 1e4, 0.1, true},
    {130, 513, 1, 7, Weights::kFractions},
    {70, 1280, 1},
    {200, 2048, 1},
    {9, 10007, 1, 4, Weights::kMask, 1, 2, true},
    {64, 33, 1, 1},
    {500, 96, 1, 0, Weights::kFractions, 1, 2, false, true},
    {5, 3, 784},
    {2, 3, 700, 1, Weights::kFractions, 1e4, 0.1, true},
    {4, 5, 49, 3, Weights::kMask, 1, 2, true},
    {1, 2, 70000},  // A plane in several pieces.
    {1, 2, 70000, 0, Weights::kMask, -1e4, 0.1, true},
    {3, 600, 5, 2},
    {0, 5, 1},
    {0, 5, 4, 0, Weights::kMask},
    {3, 5, 0},
    {3, 0, 4},
    {2, 0, 1, 0, Weights::kMask},
    {50, 4, 1, 0, Weights::kNone, 5, 0},  // Constant channels.
};

constexpr DataType kTypes[] = {DataType::kFloat32, DataType::kFloat64, DataType::kFloat16,
                               DataType::kBFloat16};

bool SameBytes(Array& a, Array& b, DataType dtype) {
  return std::memcmp(a.data(), b.data(), a.size() * testing::SizeOf(dtype)) == 0;
}

// The same bits for any number of threads.
int CheckThreads(DataType dtype, ChannelLayout layout) {
  Array x(dtype, layout.size());
  testing::Random random(5);
  for (int64_t i = 0; i < x.size(); ++i) x.Set(i, 100 + random.Normal());
  int failures = 0;
  const int64_t vectors = layout.vector_size();
  const DataType f64 = DataType::kFloat64;
  Array mean(f64, vectors), m2(f64, vectors), sum(f64, vectors), product(f64, vectors);
  constexpr int64_t kChunks = 3, kResults = 6;
  Array extremes(f64, kResults * kChunks * vectors), other_extremes(f64, extremes.size());
  Array other_mean(f64, vectors), other_m2(f64, vectors), other_sum(f64, vectors),
      other_product(f64, vectors), count(f64, layout.segments);
  for (const int64_t threads : {1, 2, 5}) {
    const bool is_first = threads == 1;
    const auto to = [&](Array& first, Array& other) {
      return static_cast<double*>((is_first ? first : other).data());
    };
    MomentsArguments moments;
    moments.dtype = dtype;
    moments.layout = layout;
    moments.x = x.data();
    moments.count = static_cast<double*>(count.data());
    moments.mean = to(mean, other_mean);
    moments.m2 = to(m2, other_m2);
    Run(MomentsScratchCpu, MomentsCpu, moments, threads);
    SumsArguments sums;
    sums.dtype = dtype;
    sums.layout = layout;
    sums.u = sums.v = x.data();
    sums.center = {mean.data(), true, layout.segments > 1};
    sums.sum_u = to(sum, other_sum);
    sums.sum_uv = to(product, other_product);
    Run(SumsScratchCpu, SumsCpu, sums, threads);
    ExtremesArguments found;
    found.dtype = dtype;
    found.layout = layout;
    found.chunks = kChunks;
    found.x = x.data();
    double* results[kResults];
    for (int i = 0; i < kResults; ++i) {
      results[i] = to(extremes, other_extremes) + i * kChunks * vectors;
    }
    found.count = results[0];
    found.mean = results[1];
    found.low = results[2];
    found.high = results[3];
    found.low_at = reinterpret_cast<int64_t*>(results[4]);
    found.high_at = reinterpret_cast<int64_t*>(results[5]);
    Run(ExtremesScratchCpu, ExtremesCpu, found, threads);
    if (is_first) continue;
    failures += !SameBytes(extremes, other_extremes, f64);
    failures += !SameBytes(mean, other_mean, f64) + !SameBytes(m2, other_m2, f64) +
                !SameBytes(sum, other_sum, f64) + !SameBytes(product, other_product, f64);
  }
  if (failures > 0) {
    std::printf("%d results of %s depend on the number of threads\n", failures,
                testing::NameOf(dtype));
  }
  return failures;
}

// A result that is written past the caches is that of the same call in place, which is not.
int CheckStreams(DataType dtype, ChannelLayout layout, bool weighted, int64_t misaligned) {
  Array v(dtype, layout.size(), misaligned), y(dtype, layout.size(), misaligned);
  for (int64_t i = 0; i < v.size(); ++i) v.Set(i, 1 + i % 1000 / 64.0);
  Array weights(testing::ComputeTypeOf(dtype), layout.rows * layout.inner);
  for (int64_t i = 0; i < weights.size(); ++i) weights.Set(i, i % 3 / 2.0);
  testing::Vector b(layout, 1, 0.2, true, false), center(layout, 3, 0.5, true, false);
  BlendArguments blend;
  blend.dtype = dtype;
  blend.layout = layout;
  blend.v = v.data();
  blend.b = b.view;
  blend.center = center.view;
  blend.weights = weighted ? weights.data() : nullptr;
  blend.weighted = weighted;
  blend.y = y.data();
  Run(BlendScratchCpu, BlendCpu, blend);
  Array scaled(dtype, layout.size(), misaligned), sum_u(DataType::kFloat64, layout.vector_size()),
      sum_uv(DataType::kFloat64, layout.vector_size());
  SumsArguments sums;
  sums.dtype = dtype;
  sums.layout = layout;
  sums.v = v.data();
  sums.center = center.view;
  sums.scale = b.view;
  sums.weights = blend.weights;
  sums.weighted = weighted;
  sums.sum_u = static_cast<double*>(sum_u.data());
  sums.sum_uv = static_cast<double*>(sum_uv.data());
  sums.y = scaled.data();
  Run(SumsScratchCpu, SumsCpu, sums);
  Array source(dtype, layout.size(), misaligned);
  std::memcpy(source.data(), v.data(), v.size() * testing::SizeOf(dtype));
  blend.y = v.data();
  Run(BlendScratchCpu, BlendCpu, blend);
  sums.v = sums.y = source.data();
  Run(SumsScratchCpu, SumsCpu, sums);
  if (SameBytes(y, v, dtype) && SameBytes(scaled, source, dtype)) return 0;
  std::printf("a result past the caches differs, %s\n", testing::NameOf(dtype));
  return 1;
}

// Every float16 and bfloat16 there is passes through `blend` unchanged; NaN stays NaN.
int CheckConversions(DataType dtype) {
  std::vector<uint16_t> x(65536), y(65536);
  for (int i = 0; i < 65536; ++i) x[i] = static_cast<uint16_t>(i);
  const double one = 1;
  BlendArguments blend;
  blend.dtype = dtype;
  blend.layout = {65536, 1, 1, 1, 65536};
  blend.u = x.data();
  blend.a = {&one, true, false};
  blend.y = y.data();
  Run(BlendScratchCpu, BlendCpu, blend);
  const int infinity = dtype == DataType::kFloat16 ? 0x7c00 : 0x7f80;
  int failures = 0;
  for (int i = 0; i < 65536; ++i) {
    const bool is_nan = (i & 0x7fff) > infinity;
    // a u + 0: the sum of -0 and 0 is 0.
    const bool is_zero = (i & 0x7fff) == 0;
    const bool holds = is_nan    ? (y[i] & 0x7fff) > infinity
                       : is_zero ? (y[i] & 0x7fff) == 0
                                 : y[i] == x[i];
    failures += !holds;
  }
  if (failures > 0) {
    std::printf("%d of 65536 values of %s change on their way through blend\n", failures,
                testing::NameOf(dtype));
  }
  return failures;
}

// The same on threads that take subnormal numbers for 0, as those of TensorFlow do: a float16 that is
// subnormal is a normal float32. Threads begin with the mode of the thread that starts them.
int CheckConversionsWithoutSubnormals() {
#if defined(__SSE2__)
  const unsigned mode = _mm_getcsr();
  _mm_setcsr(mode | 0x8040);
  const int failures = CheckConversions(DataType::kFloat16);
  _mm_setcsr(mode);
  return failures;
#else
  return 0;
#endif
}

// Layouts that are a run of blocks, rows with a rest, planes; those past the caches as well.
int CheckRounding(bool is_short) {
  testing::RoundChecker checker(
      [](const RoundArguments& arguments) { return Run(RoundScratchCpu, RoundCpu, arguments); });
  for (const DataType dtype : {DataType::kFloat32, DataType::kFloat16, DataType::kBFloat16}) {
    checker.CheckAll(dtype, {31, 64, 1, 1, 31});
    checker.CheckAll(dtype, {9, 37, 1, 1, 9}, 1);
    checker.CheckAll(dtype, {2, 33, 19, 1, 2});
    checker.CheckAll(dtype, {3, 5, 700, 1, 3});
    checker.CheckAll(dtype, {0, 5, 3, 1, 0});
    if (is_short) continue;
    checker.CheckAll(dtype, {(4 << 20) / 64 / testing::SizeOf(dtype), 64, 1, 1, 1});
    checker.CheckAll(dtype, {3, 70, 20000 / testing::SizeOf(dtype) * 2, 1, 3});
  }
  return checker.failures();
}

// The units of work cover an activation exactly, those larger than any test can allocate as well.
int CheckUnits(ChannelLayout layout, bool may_fold) {
  const KERAS_NORMS_LEVEL::Plan plan(layout, may_fold, 256);
  int64_t total = 0, end = 0;
  for (int64_t i = 0; i < plan.units(); ++i) {
    const auto unit = plan.unit(i);
    total += (unit.rows * unit.columns + unit.tail_columns) * unit.inner;
    if (unit.rows > 0 && unit.columns > 0) {
      const int64_t last_row = plan.offset(unit, unit.first_row + unit.rows - 1);
      end = std::max(end, last_row + (unit.columns - 1) * layout.inner + unit.inner);
    }
    if (unit.tail_columns > 0) {
      end = std::max(end, plan.offset(unit, unit.tail_row) + unit.tail_columns);
    }
  }
  if (total == layout.size() && end == layout.size()) return 0;
  std::printf("units cover %lld of %lld values, the last is %lld\n", static_cast<long long>(total),
              static_cast<long long>(layout.size()), static_cast<long long>(end));
  return 1;
}

// Billions of rows or positions that hold nothing cost nothing.
int CheckEmpty(ChannelLayout layout) {
  const DataType f64 = DataType::kFloat64;
  Array count(f64, 1), mean(f64, layout.channels), m2(f64, layout.channels), x(f64, 0);
  MomentsArguments moments;
  moments.dtype = f64;
  moments.layout = layout;
  moments.x = x.data();
  moments.count = static_cast<double*>(count.data());
  moments.mean = static_cast<double*>(mean.data());
  moments.m2 = static_cast<double*>(m2.data());
  Run(MomentsScratchCpu, MomentsCpu, moments);
  const double expected = static_cast<double>(layout.rows * layout.inner);
  bool holds = count.Get(0) == (layout.channels == 0 ? expected : 0.0);
  for (int64_t i = 0; i < layout.channels; ++i) holds &= mean.Get(i) == 0 && m2.Get(i) == 0;
  SumsArguments sums;
  sums.dtype = f64;
  sums.layout = layout;
  sums.u = sums.v = x.data();
  sums.sum_u = moments.mean;
  sums.sum_uv = moments.m2;
  Run(SumsScratchCpu, SumsCpu, sums);
  for (int64_t i = 0; i < layout.channels; ++i) holds &= mean.Get(i) == 0 && m2.Get(i) == 0;
  BlendArguments blend;
  blend.dtype = f64;
  blend.layout = layout;
  blend.v = blend.y = x.data();
  Run(BlendScratchCpu, BlendCpu, blend);
  ExtremesArguments extremes;
  extremes.dtype = f64;
  extremes.layout = layout;
  extremes.x = x.data();
  extremes.count = static_cast<double*>(count.data());
  extremes.mean = extremes.low = extremes.high = moments.mean;
  std::vector<int64_t> places(layout.channels, 1);
  extremes.low_at = extremes.high_at = places.data();
  Run(ExtremesScratchCpu, ExtremesCpu, extremes);
  holds &= count.Get(0) == (layout.channels == 0 ? expected : 0.0);
  for (int64_t i = 0; i < layout.channels; ++i) holds &= mean.Get(i) == 0 && places[i] == 0;
  if (!holds) std::printf("an empty activation gives more than nothing\n");
  return holds ? 0 : 1;
}

int Main(bool is_short) {
  testing::Checker checker(kKernels);
  testing::NormalizeChecker normalize_checker(kNormalizeKernels);
  normalize_checker.CheckMovingAverages<float>(DataType::kFloat32);
  normalize_checker.CheckMovingAverages<double>(DataType::kFloat64);
  int failures = 0;
  for (const DataType dtype : kTypes) {
    for (const Case& given : kCases) {
      const bool is_large = given.rows * given.channels * given.inner > 20000;
      if (!is_short || !is_large) checker.Check(given, dtype);
      // The large ones in one type: it is the same walk through them in all.
      if (!is_large || (!is_short && dtype == DataType::kFloat32)) {
        normalize_checker.Check(given, dtype);
      }
    }
    failures += CheckThreads(dtype, {3000, 48, 1, 1, 3000});
    failures += CheckThreads(dtype, {3000, 5, 1, 4, 900});
    failures += CheckThreads(dtype, {7, 20, 784, 1, 7});
  }
  if (!is_short) {  // Planes that go through both passes in groups, the last one a smaller one.
    for (const bool has_residual : {false, true}) {
      normalize_checker.CheckOnce({3, 67, 22000}, DataType::kFloat32, has_residual);
    }
  }
  for (const DataType dtype : kTypes) {
    if (is_short) break;
    // Rows and planes that begin with a line of the cache, and that do not.
    const int64_t rows = 54000 / testing::SizeOf(dtype), images = rows / 196;
    failures += CheckStreams(dtype, {rows, 64, 1, 1, rows}, false, 0);
    failures += CheckStreams(dtype, {rows, 64, 1, 1, rows}, false, 1);
    failures += CheckStreams(dtype, {rows / 11, 740, 1, 3, rows / 30}, true, 0);
    failures += CheckStreams(dtype, {images, 64, 196, 1, images}, true, 0);
    failures += CheckStreams(dtype, {images / 4, 64, 784, 1, images / 4}, false, 0);
  }
  failures += CheckConversions(DataType::kFloat16) + CheckConversions(DataType::kBFloat16) +
              CheckConversionsWithoutSubnormals() + CheckRounding(is_short);
  const int64_t large = (int64_t{1} << 31) + 64;
  failures += CheckEmpty({64 * large, 0, 1, 1, 64 * large}) + CheckEmpty({large, 3, 0, 1, large}) +
              CheckEmpty({0, 3, 64 * large, 1, 0});
  failures += CheckUnits({large, 3, 1, 1, large}, true);
  failures += CheckUnits({large, 8, 1, 1, large}, false);
  failures += CheckUnits({3, 5, large, 1, 3}, true);
  failures += CheckUnits({large, 2, 8, 9, large / 9 + 1}, true);
  failures += CheckUnits({large, 7, 1, 3, large / 3 + 5}, true);
  failures += checker.failures() + normalize_checker.failures();
  std::printf("%d kernel calls checked, %d failures\n",
              checker.checks() + normalize_checker.checks(), failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace keras_norms

int main(int argc, char** argv) {
  return keras_norms::Main(argc > 1 && std::strcmp(argv[1], "short") == 0);
}
