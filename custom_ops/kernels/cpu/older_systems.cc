// What newer compilers expect of the C and C++ libraries and older systems lack.

#include "older_systems.h"

#ifdef KERAS_NORMS_OLDER_SYSTEMS

#include <new>

// Whether the program has one thread only, so that reference counts need no atomic operations. This
// is the definition for the library, and hidden: other libraries keep the one of the system.
extern "C" {
__attribute__((visibility("hidden"))) extern char __libc_single_threaded;
char __libc_single_threaded = 0;
}

namespace std {
void __throw_bad_array_new_length() { throw bad_array_new_length(); }
}  // namespace std
__asm__(".hidden _ZSt28__throw_bad_array_new_lengthv");

#endif  // KERAS_NORMS_OLDER_SYSTEMS
