#pragma once
// Where a device is, for the words of failures: kept with every wait, and told to other processes by their
// watchdogs.

#include <array>
#include <chrono>
#include <cstdint>
#include <string>

namespace rondo {

struct DeviceState {
  using Clock = std::chrono::steady_clock;

  std::int64_t step = -1;            ///< as the device said with begin_step; -1: it said nothing yet
  int waits_for = -1;                ///< a device; -1: for nobody, as it computes
  Clock::time_point since = {};      ///< when it began to wait, or came back from waiting
  std::array<char, 128> doing = {};  ///< words of the wait at work, or of the last one; cut where too long

  void begin(const char* words, Clock::time_point now);
  void end(Clock::time_point now) {
    waits_for = -1;
    since = now;
  }
};

/// "step 12, layer 3: receive keys and values, hop 1"; empty when nothing is known.
std::string place_of(const DeviceState& state);
/// "waiting for device 1 since 14:03:07 (step 12, layer 3: ...)", or that it computes.
std::string whereabouts(const DeviceState& state);
/// The time of day here at `moment`: "14:03:07".
std::string time_of_day(DeviceState::Clock::time_point moment);

}  // namespace rondo
