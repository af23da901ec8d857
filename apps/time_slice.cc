#include "apps/time_slice.h"

#ifdef __linux__
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdint>
#endif

namespace rondo::apps {

#if defined(__linux__) && defined(SYS_sched_setattr)

namespace {

/// The kernel's `struct sched_attr` in its first form; C libraries before 2025 have neither it nor the calls.
struct Attributes {
  std::uint32_t size, policy;
  std::uint64_t flags;
  std::int32_t nice;
  std::uint32_t priority;
  std::uint64_t runtime_ns, deadline_ns, period_ns;
};

}  // namespace

void ask_for_long_time_slices() {
  Attributes attributes{};
  if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0) return;
  if (attributes.policy != SCHED_OTHER && attributes.policy != SCHED_BATCH) return;
  attributes.runtime_ns = 100'000'000;
  // An older kernel ignores the time, a sandbox refuses the call: as good as not having asked.
  syscall(SYS_sched_setattr, 0, &attributes, 0);
}

#else

void ask_for_long_time_slices() {}

#endif

}  // namespace rondo::apps
