#pragma once
// Attention over one sequence on a ring (of one device, too), set up to be run again and again.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "bench/arguments.h"
#include "bench/attention_device.h"
#include "bench/team.h"

namespace rondo::bench {

class AttentionWork {
 public:
  explicit AttentionWork(const AttentionCase& what);
  ~AttentionWork();
  AttentionWork(const AttentionWork&) = delete;
  AttentionWork& operator=(const AttentionWork&) = delete;

  /// The whole pass on every device, `repeats` times. A backward pass alone uses the last forward's outputs.
  void run(Pass pass, int repeats);

  using Part = AttentionDevice::Part;
  /// Rows of one head of a result, in the order of `tokens` (global).
  std::vector<double> rows(Part part, std::int64_t head, std::span<const std::int64_t> tokens) const;
  /// The log-sum of one head's scores at these tokens.
  std::vector<double> lse(std::int64_t head, std::span<const std::int64_t> tokens) const;

  const AttentionCase& what() const { return case_; }
  Team& team() { return team_; }

 private:
  struct Home {
    int device;
    std::int64_t local;
  };
  AttentionCase case_;
  Team team_;
  std::vector<std::unique_ptr<AttentionDevice>> devices_;
  std::vector<Home> homes_;  // of each global token
};

}  // namespace rondo::bench
