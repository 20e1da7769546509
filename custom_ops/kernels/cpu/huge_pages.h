// Asks the system for huge pages under large results.
//
// The C library gives memory of this size back after each step and asks for it again, and the system
// then clears it page by page as it is written: for a result of 100 MB, 25,000 times 4 KiB. In pages
// of 2 MiB that is 50 times. Where the setting of the system is `always` they are huge anyway, with
// `never` none is. KERAS_NORMS_HUGE_PAGES=0 turns this off.

#ifndef KERAS_NORMS_KERNELS_CPU_HUGE_PAGES_H_
#define KERAS_NORMS_KERNELS_CPU_HUGE_PAGES_H_

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace keras_norms {

inline bool UsesHugePages() {
  static const bool uses = [] {
    const char* choice = std::getenv("KERAS_NORMS_HUGE_PAGES");
    return choice == nullptr || std::strcmp(choice, "0") != 0;
  }();
  return uses;
}

inline void AdviseHugePages(void* data, int64_t bytes) {
  constexpr int64_t kLeast = 8 << 20;
  constexpr uintptr_t kPage = 2 << 20;
  if (bytes < kLeast || !UsesHugePages()) return;
  const uintptr_t address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (address + kPage - 1) / kPage * kPage;
  const uintptr_t end = (address + bytes) / kPage * kPage;
#ifdef MADV_HUGEPAGE
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // Only advice.
#endif
}

}  // namespace keras_norms

#endif  // KERAS_NORMS_KERNELS_CPU_HUGE_PAGES_H_
