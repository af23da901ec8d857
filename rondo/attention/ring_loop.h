#pragma once
// The only ring loop: moves key/value blocks as a schedule says and lets a visitor compute on what has
// arrived. Forward, backward and every layout share it (docs/schedule.md; Ring Attention, section 3,
// algorithm 1).

#include <cstdint>
#include <string>
#include <vector>

#include "rondo/attention/block_pool.h"
#include "rondo/comm/communicator.h"
#include "rondo/schedule/schedule.h"

namespace rondo {

/// How blocks go from device to device: copied into the receiver's buffers, or between neighbours of one
/// process handed over as read-only views. Between processes they are always copied.
enum class Exchange { copy, share };
const char* name_of(Exchange exchange);
/// Whether blocks come from device `from` as views.
bool hands_views(const Communicator& communicator, Exchange exchange, int from);
/// How many devices read a block one after the other, in one direction, in the memory where the device of
/// this communicator has it; its neighbour is the first.
int readers_after(const Communicator& communicator, Exchange exchange, Direction direction);
Exchange parse_exchange(std::string_view name);

/// Messages of one attention call; no two calls in flight share a tag.
enum class MessageKind { keys, values, key_gradients, value_gradients };
struct CallId {
  std::int64_t number = 0;
  /// `home` tells the last send of a gradient to its owner, in parts up to 8, from a hop of the same
  /// distance.
  Tag tag(MessageKind kind, Direction direction, int distance, bool home = false, int part = 0) const;
};

struct ConstKeyValues {
  ConstTensor k_SGD, v_SGE;
};

/// What happens at each distance; calls come in the order begin, compute..., end for distances 0, 1, ...
class RingVisitor {
 public:
  virtual ~RingVisitor() = default;
  virtual void begin(int distance) = 0;
  /// `block` are the keys and values of step.kv; not called for the global block, nor for steps without
  /// tiles.
  virtual void compute(const Step& step, const ConstKeyValues& block) = 0;
  virtual void end(int distance) = 0;
};

struct RingLoop {
  Context& context;
  Communicator& communicator;
  const Schedule& schedule;
  const std::vector<std::int64_t>& shard_tokens;  ///< of every device
  BlockPool& pool;                                ///< where blocks that are copied arrive
  Exchange exchange;
  CallId call;
  std::string_view label;  ///< for error messages and traces

  /// Distances 0 ... last_distance are visited. `own` are this device's keys and values, contiguous; `spare`,
  /// when it has memory, is the same memory: it is overwritten once it has been passed on. Returns the
  /// exchanges received.
  int run(const ConstKeyValues& own, const KeyValues& spare, int last_distance, RingVisitor& visitor) const;
};

}  // namespace rondo
