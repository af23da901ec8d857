#pragma once
// Ctrl-C: the first asks the work at hand to end, the second ends the process at once.

#include <atomic>

namespace rondo::apps {

/// What a command returns when it was asked to stop: 128 + SIGINT, as shells have it.
inline constexpr int kStoppedStatus = 130;

/// Handles SIGINT and SIGTERM from here on. The first sets the flag and writes `words` to stderr; the second
/// leaves the process with kStoppedStatus.
const std::atomic<bool>& stop_on_signals(const char* words);

}  // namespace rondo::apps
