#include "rondo/comm/device_state.h"

#include <fmt/format.h>

#include <cstring>
#include <ctime>

namespace rondo {

void DeviceState::begin(const char* words, Clock::time_point now) {
  since = now;
  const std::size_t length = ::strnlen(words, doing.size() - 1);
  std::memcpy(doing.data(), words, length);
  doing[length] = '\0';
}

std::string place_of(const DeviceState& state) {
  const std::string step = state.step < 0 ? "" : fmt::format("step {}", state.step);
  const std::string doing = state.doing.data();
  return step + (step.empty() || doing.empty() ? "" : ", ") + doing;
}

std::string whereabouts(const DeviceState& state) {
  const std::string place = place_of(state);
  if (state.waits_for >= 0)
    return fmt::format("waiting for device {} since {} ({})", state.waits_for, time_of_day(state.since),
                       place);
  if (state.doing[0] == '\0') return "computing, before its first exchange";
  return fmt::format("computing since {} (after {})", time_of_day(state.since), place);
}

std::string time_of_day(DeviceState::Clock::time_point moment) {
  const auto age =
      std::chrono::duration_cast<std::chrono::system_clock::duration>(DeviceState::Clock::now() - moment);
  const std::time_t seconds = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now() - age);
  std::tm local{};
  ::localtime_r(&seconds, &local);
  return fmt::format("{:02}:{:02}:{:02}", local.tm_hour, local.tm_min, local.tm_sec);
}

}  // namespace rondo
