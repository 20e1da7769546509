// Executes the CUDA kernels on the host, against plain loops. Exit code 1 where one is wrong.
//
// The split of the emulation is small (16 threads, 6 blocks), so these shapes have what large ones
// have on a GPU: several chunks, blocks of 64 values, segments that end within a chunk.
// An argument "short" leaves out most of the cases: threads are slow under ThreadSanitizer.

#include <cstring>

#include "cuda/split.h"
#include "cuda/variant.h"
#include "cuda/walk.h"
#include "kernel_checks.h"
#include "normalize_checks.h"
#include "round_checks.h"

namespace keras_norms {
namespace {

using testing::Case;
using testing::Weights;

// Scratch that ends where the kernel said it would; NaN in it would show.
template <typename Arguments>
const char* Run(int64_t (*scratch_bytes)(const Arguments&),
                const char* (*kernel)(const Arguments&, void*, cudaStream_t),
                const Arguments& arguments) {
  testing::Array scratch(DataType::kFloat64, (scratch_bytes(arguments) + 7) / 8);
  return kernel(arguments, scratch.data(), nullptr);
}

const testing::Kernels kKernels = {
    [](const MomentsArguments& a) { return Run(MomentsScratchCuda, MomentsCuda, a); },
    [](const SumsArguments& a) { return Run(SumsScratchCuda, SumsCuda, a); },
    [](const BlendArguments& a) { return Run(BlendScratchCuda, BlendCuda, a); },
    [](const ExtremesArguments& a) { return Run(ExtremesScratchCuda, ExtremesCuda, a); },
    [](const AddAtArguments& a) { return AddAtCuda(a, nullptr); },
};

const testing::NormalizeKernels kNormalizeKernels = {
    kKernels.sums,
    kKernels.blend,
    [](const NormalizeArguments& a) { return Run(NormalizeScratchCuda, NormalizeCuda, a); },
    [](const NormalizeGradArguments& a) {
      return Run(NormalizeGradScratchCuda, NormalizeGradCuda, a);
    },
};

std::vector<Case> Cases(bool is_short) {
  std::vector<Case> cases = {
      // Rows, channels, inner. Vectors of 16 bytes for some dtypes, single values for others.
      {700, 8, 1},
      {9, 24, 8, 4, Weights::kMask, 3, 1, true},
      {2, 3, 700, 0, Weights::kFractions, 1e4, 0.1, true},
      {13, 65, 1, 5, Weights::kFractions, -20, 1, true},
  };
  if (is_short) return cases;
  const std::vector<Case> more = {
      {6000, 1, 1},
      {3000, 4, 1, 0, Weights::kMask, 1e4, 0.1, true},
      {400, 3, 1, 150},
      {301, 7, 1, 0, Weights::kFractions},
      {64, 16, 1, 1},
      {3, 2048, 1},
      {2, 1003, 1, 0, Weights::kMask, 1, 2, true},
      {40, 8, 1, 16, Weights::kMask, 1, 2, false, true},
      {1, 1, 5000},
      {7, 1, 8, 3, Weights::kMask},
      {4, 5, 49, 0, Weights::kMask, 1e4, 0.1, true},
      {6, 17, 1, 6, Weights::kFractions},
      {33, 2, 16, 8},
      {5, 40, 2, 0, Weights::kFractions, 0, 1, false, true},
      {2, 3, 4096, 1, Weights::kMask, -1e4, 0.1, true},
      {500, 2, 9, 0},
      {300, 8, 1, 0, Weights::kMask, 1, 2, true, false, 1},
      {4, 3, 64, 0, Weights::kFractions, 1, 2, false, false, 1},
      {0, 5, 1},
      {0, 5, 4, 0, Weights::kMask},
      {3, 5, 0},
      {3, 0, 4},
      {50, 4, 1, 0, Weights::kNone, 5, 0},  // Constant channels.
  };
  cases.insert(cases.end(), more.begin(), more.end());
  return cases;
}

// Activations that no test can allocate: the last thread ends at the last value.
template <typename V>
bool EndsAtTheEnd(const ChannelLayout& layout) {
  const cuda::Split split(layout, V::kWidth, cuda::kMaxGrid);  // Short chunks: all are alike.
  const cuda::Dimensions grid = split.grid(), block = split.block();
  int64_t end = 0;
  for (unsigned thread = 0; thread < block.x * block.y; ++thread) {
    cuda::place.thread = {thread % block.x, thread / block.x, 0};
    cuda::place.block = {grid.x - 1, grid.y - 1, 0};
    for (cuda::Walk<V> walk(split, layout.segments - 1); walk.IsAtStep(); walk.Advance()) {
      end = std::max(end, walk.offset() + V::kWidth);
    }
  }
  return end == layout.size();
}

int CheckLargeSizes() {
  const int64_t large = (int64_t{3} << 30) + 64;
  const bool results[] = {
      EndsAtTheEnd<cuda::Variant<cuda::Half, true, true, true>>({large, 8, 1, 1, large}),
      EndsAtTheEnd<cuda::Variant<cuda::Half, true, false, true>>({3, 5, large, 1, 3}),
      EndsAtTheEnd<cuda::Variant<cuda::Half, true, false, true>>({large, 2, 8, 2, large / 2 + 1}),
  };
  int failures = 0;
  for (const bool result : results) failures += !result;
  if (failures > 0) std::printf("A walk through more than 2^31 values does not end at the last.\n");
  return failures;
}

int CheckRounding() {
  testing::RoundChecker checker(
      [](const RoundArguments& arguments) { return Run(RoundScratchCuda, RoundCuda, arguments); });
  for (const DataType dtype : {DataType::kFloat32, DataType::kFloat16, DataType::kBFloat16}) {
    checker.CheckAll(dtype, {40, 32, 1, 1, 40});
    checker.CheckAll(dtype, {5, 37, 1, 1, 5}, 1);
    checker.CheckAll(dtype, {2, 9, 19, 1, 2});
    checker.CheckAll(dtype, {0, 5, 3, 1, 0});
  }
  return checker.failures();
}

int Main(bool is_short) {
  testing::Checker checker(kKernels);
  testing::NormalizeChecker normalize_checker(kNormalizeKernels);
  normalize_checker.CheckMovingAverages<float>(DataType::kFloat32);
  normalize_checker.CheckMovingAverages<double>(DataType::kFloat64);
  bool is_even = true;
  for (const Case& given : Cases(is_short)) {
    // The last two differ in how a number is converted only, so they take turns.
    for (const DataType dtype : {DataType::kFloat32, DataType::kFloat64,
                                 is_even ? DataType::kFloat16 : DataType::kBFloat16}) {
      checker.Check(given, dtype);
      normalize_checker.Check(given, dtype);
    }
    is_even = !is_even;
  }
  const int failures = checker.failures() + normalize_checker.failures() + CheckRounding() +
                       (is_short ? 0 : CheckLargeSizes());
  std::printf("%d kernel calls checked, %d failures\n",
              checker.checks() + normalize_checker.checks(), failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace keras_norms

int main(int argc, char** argv) {
  return keras_norms::Main(argc > 1 && std::strcmp(argv[1], "short") == 0);
}
