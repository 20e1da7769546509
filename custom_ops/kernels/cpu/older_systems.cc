// What newer compilers expect of the C and C++ libraries and older systems lack.

#include "older_systems.h"

#ifdef KERAS_NORMS_OLDER_SYSTEMS

#include <new>
#include <sstream>

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

// XLA's FFI headers make an empty stream, whose constructor older systems have in headers only.
template std::basic_stringstream<char>::basic_stringstream();
__asm__(".hidden _ZNSt7__cxx1118basic_stringstreamIcSt11char_traitsIcESaIcEEC1Ev");
__asm__(".hidden _ZNSt7__cxx1118basic_stringstreamIcSt11char_traitsIcESaIcEEC2Ev");

#endif  // KERAS_NORMS_OLDER_SYSTEMS
