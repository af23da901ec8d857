#pragma once
// Sums of the gradients over the devices, a bucket (ParameterTable::buckets) at a time, which travel while
// backward still computes: each device sends the others their parts of it, adds up its own part in device
// order and, unless each keeps its own alone, sends the sum back. The bits are those of
// Communicator::all_reduce_sum.

#include <optional>
#include <span>
#include <vector>

#include "rondo/comm/communicator.h"
#include "rondo/core/context.h"
#include "rondo/model/parameters.h"

namespace rondo {

enum class SumsTo {
  all,   ///< every device
  owner  ///< the device whose owned_part() it is: half of the traffic
};

class GradientSum {
 public:
  /// All three outlive it. Allocates what the others' parts of a layer take.
  GradientSum(Context& context, Communicator& communicator, const ParameterTable& table, SumsTo to);

  struct Bucket {
    std::size_t number = 0;
    float* values = nullptr;  ///< the bucket's first element; SumsTo::all: becomes the sum
    float* own = nullptr;     ///< SumsTo::owner: where this device's part of the sum goes
    bool adds = false;        ///< to what is there, instead of in its place
  };
  /// This device's share of a bucket is complete. Called by all devices in the same order.
  void ready(const Bucket& bucket);
  /// The bucket whose parts are still travelling: only its values may not be written yet, nor, with
  /// SumsTo::all, those of any bucket that ready() was told of before finish().
  std::optional<std::size_t> under_way() const {
    return adding_ ? std::optional(piece_.bucket.number) : std::nullopt;
  }
  /// Waits for them and makes their sums.
  void settle() { add_up(); }
  /// All sums are where they belong.
  void finish();

 private:
  enum class Phase { parts, sums };
  /// A run of each device's owned part: embeddings may be much larger than layers.
  struct Piece {
    Bucket bucket;
    std::int64_t begin = 0;  ///< within each owned part
  };

  void start(const Piece& piece);
  /// Ends the gathering of parts under way and, for SumsTo::all, sends the sums.
  void add_up();
  void post(const Piece& piece, Phase phase);
  /// Elements of the flat buffer.
  Range part(const Piece& piece, int device) const;
  std::span<float> values(const Piece& piece, int device) const;
  float* term(int device) const { return terms_.as<float>() + device * most_owned_; }

  Communicator* communicator_;
  std::vector<Range> buckets_;
  SumsTo to_;
  std::int64_t most_owned_ = 0;
  Buffer terms_;
  bool adding_ = false;
  Piece piece_;  ///< whose parts are under way
  Tag next_tag_ = 0;
  std::vector<RequestPtr> parts_, sums_;  ///< last members: they end before the memory that they name
};

}  // namespace rondo
