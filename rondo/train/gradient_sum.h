#pragma once
// Sums of the gradients over the ring. Between processes they travel while backward still computes, a bucket
// (ParameterTable::buckets) at a time: each device sends the others their parts of it, adds up its own part
// in device order, and sends the sums back. The bits are those of Communicator::all_reduce_sum.

#include <span>
#include <vector>

#include "rondo/comm/communicator.h"
#include "rondo/core/context.h"
#include "rondo/model/parameters.h"

namespace rondo {

class GradientSum {
 public:
  /// All three and the gradients, flat as `table` has them, outlive it. Where devices are of several
  /// processes it allocates what the others' parts of a layer take.
  GradientSum(Context& context, Communicator& communicator, const ParameterTable& table,
              std::span<float> gradients);

  /// This device's share of these gradients is complete: nobody writes them until finish() has returned.
  /// Called by all devices in the same order, for each element once at most.
  void ready(Range elements);
  /// All gradients are the sums over all devices.
  void finish();

 private:
  enum class Phase { parts, sums };

  void start(Range elements);
  /// Ends the gathering of parts under way and sends the sums.
  void add_up();
  void post(Range elements, Phase phase);
  std::span<float> of(Range range) const {
    return gradients_.subspan(static_cast<std::size_t>(range.begin), static_cast<std::size_t>(range.size()));
  }
  float* term(int device) const { return terms_.as<float>() + device * most_owned_; }

  Communicator* communicator_;
  const ParameterTable* table_;
  std::span<float> gradients_;
  std::int64_t most_elements_ = 0, most_owned_ = 0;
  Buffer terms_;
  Range adding_{};          ///< whose parts are under way
  std::int64_t ready_ = 0;  ///< elements that ready() was told of
  Tag next_tag_ = 0;
  std::vector<RequestPtr> parts_, sums_;  ///< last members: they end before the memory that they name
};

}  // namespace rondo
