#pragma once
// How devices exchange data. One contract for threads, MPI and GPUs.
//
// Point-to-point calls are posted, then waited for. A message is known by (sender, receiver, tag); posting
// the same tag twice before the first is waited for is an error. Sizes must match on both ends: a mismatch
// throws on both. Every wait ends within the timeout: when a device fails or falls silent the others throw
// CommunicationError that names it. Collectives are called by all devices in the same order.

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "rondo/core/tensor.h"

namespace rondo {

/// Names a message between two devices; unique among those in flight between them. The lowest numbers are
/// those of collectives and of sums of gradients.
using Tag = std::int64_t;

/// A posted send or receive. Move-only; must be waited for before the memory it names is touched.
class Request {
 public:
  virtual ~Request() = default;
};
using RequestPtr = std::unique_ptr<Request>;

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int device() const = 0;
  virtual int devices() const = 0;

  /// Says which step of its work the device begins: for the words of failures, and because both ends of an
  /// exchange must be in the same one; where they are not, it throws on both.
  virtual void begin_step(std::int64_t step) = 0;

  /// Posts a send of a contiguous tensor. The memory must not change until the request is waited for.
  virtual RequestPtr send(int to, Tag tag, const ConstTensor& data) = 0;
  /// Posts a receive into a contiguous tensor.
  virtual RequestPtr receive(int from, Tag tag, const Tensor& into) = 0;
  /// Posts a receive that adds float32 elements to `into`, at any moment until it has been waited for: until
  /// then nobody else may touch them.
  virtual RequestPtr receive_add(int from, Tag tag, const Tensor& into) = 0;
  /// Whether receive_view works between this device and that one: both are of one process. Then, too, what
  /// comes by receive_add is added by the receiver's own wait, and not before.
  virtual bool can_share(int peer) const = 0;
  /// Whether it works between all devices.
  bool can_share() const {
    for (int peer = 0; peer < devices(); ++peer)
      if (!can_share(peer)) return false;
    return true;
  }
  /// Posts a receive of a view of the sender's memory; `view` is set when waited for. The sender's wait
  /// returns only when the receiver has called release() on this request.
  virtual RequestPtr receive_view(int from, Tag tag, ConstTensor* view) = 0;
  virtual void release(Request& view_request) = 0;
  /// Blocks until done; `doing` says for error messages and the trace what for, e.g. "layer 3, hop 2".
  virtual void wait(Request& request, const char* doing) = 0;

  virtual void barrier() = 0;
  /// values[i] = sum over devices of values[i], added in device order at one owner per element: same bits
  /// everywhere.
  virtual void all_reduce_sum(std::span<float> values) = 0;
  virtual void all_reduce_sum(std::span<double> values) = 0;
  /// parts[d] on every device = what device d gave; all of `bytes(own)` length.
  virtual void all_gather(std::span<const std::byte> own, std::span<std::byte> all) = 0;
  /// Makes every device's `data` equal to that of `root`.
  virtual void broadcast(int root, std::span<std::byte> data) = 0;
};

}  // namespace rondo
