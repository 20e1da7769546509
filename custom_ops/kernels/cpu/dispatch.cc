// Chooses the instruction set once: the kernels are compiled for x86-64-v4 (AVX-512), v3 (AVX2) and
// the baseline, on other machines for the baseline alone. KERAS_NORMS_CPU=v3 or baseline lowers it.

#include <cstdlib>
#include <cstring>

#include "../blend.h"
#include "../extremes.h"
#include "../moments.h"
#include "../round.h"
#include "../sums.h"

namespace keras_norms {

#define KERAS_NORMS_DECLARE(level)                                                       \
  namespace level {                                                                      \
  int64_t MomentsScratchCpu(const MomentsArguments& arguments);                          \
  void MomentsCpu(const MomentsArguments& arguments, void* scratch, const ThreadPool&);  \
  int64_t ExtremesScratchCpu(const ExtremesArguments& arguments);                        \
  void ExtremesCpu(const ExtremesArguments& arguments, void* scratch, const ThreadPool&); \
  int64_t SumsScratchCpu(const SumsArguments& arguments);                                \
  void SumsCpu(const SumsArguments& arguments, void* scratch, const ThreadPool&);        \
  int64_t BlendScratchCpu(const BlendArguments& arguments);                              \
  void BlendCpu(const BlendArguments& arguments, void* scratch, const ThreadPool&);      \
  int64_t RoundScratchCpu(const RoundArguments& arguments);                              \
  void RoundCpu(const RoundArguments& arguments, void* scratch, const ThreadPool&);      \
  }

KERAS_NORMS_DECLARE(baseline)
#if defined(__x86_64__)
KERAS_NORMS_DECLARE(v3)
KERAS_NORMS_DECLARE(v4)
#endif

namespace {

struct Level {
  decltype(&baseline::MomentsCpu) moments;
  decltype(&baseline::ExtremesCpu) extremes;
  decltype(&baseline::SumsCpu) sums;
  decltype(&baseline::BlendCpu) blend;
  decltype(&baseline::RoundCpu) round;
};

#define KERAS_NORMS_LEVEL_OF(level) \
  {level::MomentsCpu, level::ExtremesCpu, level::SumsCpu, level::BlendCpu, level::RoundCpu}

Level Choose() {
#if defined(__x86_64__)
  const char* limit = std::getenv("KERAS_NORMS_CPU");
  const auto is_limit = [&](const char* level) {
    return limit != nullptr && std::strcmp(limit, level) == 0;
  };
  const bool allows_v3 = !is_limit("baseline"), allows_v4 = allows_v3 && !is_limit("v3");
  __builtin_cpu_init();
  const bool has_v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                      __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                      __builtin_cpu_supports("f16c");
  const bool has_v4 = has_v3 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_v4 && allows_v4) return KERAS_NORMS_LEVEL_OF(v4);
  if (has_v3 && allows_v3) return KERAS_NORMS_LEVEL_OF(v3);
#endif
  return KERAS_NORMS_LEVEL_OF(baseline);
}

const Level& Chosen() {
  static const Level level = Choose();
  return level;
}

}  // namespace

// The cut into units, and with it the scratch memory, is the same on every level.
int64_t MomentsScratchCpu(const MomentsArguments& arguments) {
  return baseline::MomentsScratchCpu(arguments);
}
int64_t ExtremesScratchCpu(const ExtremesArguments& arguments) {
  return baseline::ExtremesScratchCpu(arguments);
}
int64_t SumsScratchCpu(const SumsArguments& arguments) {
  return baseline::SumsScratchCpu(arguments);
}
int64_t BlendScratchCpu(const BlendArguments& arguments) {
  return baseline::BlendScratchCpu(arguments);
}
int64_t RoundScratchCpu(const RoundArguments& arguments) {
  return baseline::RoundScratchCpu(arguments);
}

void MomentsCpu(const MomentsArguments& arguments, void* scratch, const ThreadPool& pool) {
  Chosen().moments(arguments, scratch, pool);
}
void ExtremesCpu(const ExtremesArguments& arguments, void* scratch, const ThreadPool& pool) {
  Chosen().extremes(arguments, scratch, pool);
}
void SumsCpu(const SumsArguments& arguments, void* scratch, const ThreadPool& pool) {
  Chosen().sums(arguments, scratch, pool);
}
void BlendCpu(const BlendArguments& arguments, void* scratch, const ThreadPool& pool) {
  Chosen().blend(arguments, scratch, pool);
}
void RoundCpu(const RoundArguments& arguments, void* scratch, const ThreadPool& pool) {
  Chosen().round(arguments, scratch, pool);
}

}  // namespace keras_norms
