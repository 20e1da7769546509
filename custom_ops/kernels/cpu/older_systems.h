// A library built here also runs with the C and C++ libraries of older systems, glibc 2.28 on.
//
// A compiler links the newest version of a symbol. Where an older one does the same, it is named
// here, or in older_systems.cc; custom_ops/system_symbols.py checks what a library needs.

#ifndef KERAS_NORMS_KERNELS_CPU_OLDER_SYSTEMS_H_
#define KERAS_NORMS_KERNELS_CPU_OLDER_SYSTEMS_H_

#include <string>

#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBCXX__)
#define KERAS_NORMS_OLDER_SYSTEMS 1
// std::condition_variable::wait: the newer symbol differs in its exception specification only.
__asm__(
    ".symver _ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE,"
    "_ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE@GLIBCXX_3.4.11");
#endif

#endif  // KERAS_NORMS_KERNELS_CPU_OLDER_SYSTEMS_H_
