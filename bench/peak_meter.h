#pragma once
// The peak that a team's work is shown against: that of as many threads as the team has.

#include <chrono>
#include <memory>

#include "bench/team.h"

namespace rondo::bench {

class PeakMeter {
 public:
  /// One device measures on its own threads. Of several devices it would be several measurements that do not
  /// begin and end together: as many threads as theirs, at most one for each processor, measure once for all.
  PeakMeter(Team& team, DType dtype, std::chrono::milliseconds time);
  /// FLOP/s of all threads now.
  double operator()() const;

 private:
  Team* team_;
  DType dtype_;
  std::chrono::milliseconds time_;
  std::shared_ptr<Context> all_;  // null: the one device's own
};

}  // namespace rondo::bench
