#include "rondo/core/error.h"

#include <cstdio>
#include <cstdlib>

namespace rondo {

void invariant_failed(const char* expression, const char* file, int line) {
  std::fprintf(stderr, "rondo: broken invariant: %s (%s:%d); please report it\n", expression, file, line);
  std::abort();
}

}  // namespace rondo
