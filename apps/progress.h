#pragma once
// Progress on stderr: one line that is drawn anew on a terminal, now and then a plain line elsewhere.

#include <chrono>
#include <string>
#include <string_view>

namespace rondo::apps {

class ProgressLine {
 public:
  ProgressLine();
  /// Shows the line; elsewhere than on a terminal only every ten seconds, or when `always`.
  void show(const std::string& line, bool always = false);
  /// A line that stays.
  void note(std::string_view line);
  /// Ends the redrawn line, so that what follows begins on one of its own.
  void finish();

 private:
  using Clock = std::chrono::steady_clock;
  bool terminal_, open_ = false;
  Clock::time_point last_{};
};

}  // namespace rondo::apps
