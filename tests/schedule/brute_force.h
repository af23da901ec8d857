#pragma once
// Holds the schedules of all devices against the definitions, token by token and pair by pair.

#include <string>

#include "rondo/schedule/schedule.h"

namespace rondo::test {

/// The plan and mask in words, for messages.
std::string describe(const SequencePlan& plan, const Mask& mask);

/// What is wrong with the schedules of this plan and mask, or "" if nothing is: every token lives once, every
/// visible pair is computed once and no other, tiles are as tight as they can be, blocks have arrived when
/// they are used, and no hop is made that nobody needs.
std::string find_fault(const SequencePlan& plan, const Mask& mask);

}  // namespace rondo::test
