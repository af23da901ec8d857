#pragma once
// What is wrong, or slow for a reason that can be taken away, with the ring that was found.

#include <string>
#include <vector>

#include "rondo/plan/probe.h"

namespace rondo {

struct Warning {
  std::string code;    ///< a word or two with dashes, for programs
  std::string found;   ///< what, and where
  std::string why;     ///< what it costs
  std::string advice;  ///< what to do about it
};

/// Below this share of what is usual (the device alone, the median of all devices) a device is called slow;
/// a hop below the second share of the median of its kind.
inline constexpr double kSlowDevice = 0.8, kSlowHop = 0.5;

/// In falling order of how much they usually cost. Empty: nothing was noticed.
std::vector<Warning> diagnose(const RingFindings& found);

/// How two devices that are neighbours are connected.
enum class HopKind { process, host, network };
const char* name_of(HopKind kind);
HopKind kind_of_hop(const RingFindings& found, int from);

}  // namespace rondo
