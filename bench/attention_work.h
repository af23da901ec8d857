#pragma once
// Attention over one sequence on a ring (of one device, too), set up to be run again and again.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "bench/arguments.h"
#include "bench/team.h"
#include "rondo/attention/ring_attention.h"

namespace rondo::bench {

struct AttentionCase {
  DType dtype = DType::f32;
  std::int64_t head_dim = 64, heads = 1, kv_heads = 1, ctx = 0;
  Mask mask{};
  Layout layout = Layout::zigzag;
  Exchange exchange = Exchange::copy;
  RingOptions ring{};
};

/// Inputs are drawn (bench/data.h): element i of tensor `stream` in global order is drawn(stream, i),
/// rounded.
enum AttentionStream : std::uint64_t { kQueries = 1, kKeys, kValues, kOutputGradients };

class AttentionWork {
 public:
  explicit AttentionWork(const AttentionCase& what);
  ~AttentionWork();
  AttentionWork(const AttentionWork&) = delete;
  AttentionWork& operator=(const AttentionWork&) = delete;

  /// The whole pass on every device, `repeats` times. A backward pass alone uses the last forward's outputs.
  void run(Pass pass, int repeats);

  enum class Part { out, dq, dk, dv };
  /// Rows of one head of a result, in the order of `tokens` (global).
  std::vector<double> rows(Part part, std::int64_t head, std::span<const std::int64_t> tokens) const;
  /// The log-sum of one head's scores at these tokens.
  std::vector<double> lse(std::int64_t head, std::span<const std::int64_t> tokens) const;

  const AttentionCase& what() const { return case_; }
  Team& team() { return team_; }

 private:
  struct Device;
  struct Home {
    int device;
    std::int64_t local;
  };
  AttentionCase case_;
  Team team_;
  std::vector<std::unique_ptr<Device>> devices_;
  std::vector<Home> homes_;  // of each global token
};

}  // namespace rondo::bench
