#pragma once
// Before processes work together they compare what they are about to do.

#include <string>
#include <vector>

#include "rondo/comm/device_group.h"

namespace rondo {

/// Something that has to be the same on all processes, by the name that people know it by.
struct Fact {
  std::string name, value;
};

/// Compares the facts of all processes of `ring`; each gives the same names in the same order. Throws
/// ArgumentError, with the same words on all, which names the first fact that differs, both values and the
/// processes. Nothing to do for a ring of one process. The ring must not be running.
void agree(const RingOptions& ring, const std::vector<Fact>& facts);

}  // namespace rondo
