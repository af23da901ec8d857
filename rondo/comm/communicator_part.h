#pragma once
// Some devices that follow each other, as a ring of their own: the rings of data-parallel replicas.

#include "rondo/comm/communicator.h"

namespace rondo {

/// Device n of the part is device first + n of the whole, on whose communicator everything travels: failures
/// are told with the device's number in the whole. Between the same two devices the part and the whole share
/// tags.
class CommunicatorPart final : public Communicator {
 public:
  /// `whole`, a communicator of one of these devices, outlives it. Throws ArgumentError when it is not.
  CommunicatorPart(Communicator& whole, int first, int devices);

  int device() const override { return whole_.device() - first_; }
  int devices() const override { return devices_; }
  void begin_step(std::int64_t step) override { whole_.begin_step(step); }
  RequestPtr send(int to, Tag tag, const ConstTensor& data) override;
  RequestPtr receive(int from, Tag tag, const Tensor& into) override;
  RequestPtr receive_add(int from, Tag tag, const Tensor& into) override;
  using Communicator::can_share;
  bool can_share(int peer) const override { return whole_.can_share(whole_device("can_share", peer)); }
  RequestPtr receive_view(int from, Tag tag, ConstTensor* view) override;
  void release(Request& view_request) override { whole_.release(view_request); }
  void wait(Request& request, const char* doing) override { whole_.wait(request, doing); }

  // Collectives are messages between the devices of the part (message_collectives.h): each device's sizes and
  // steps are compared with the others' as those of messages are.
  void barrier() override;
  void all_reduce_sum(std::span<float> values) override;
  void all_reduce_sum(std::span<double> values) override;
  void all_gather(std::span<const std::byte> own, std::span<std::byte> all) override;
  void broadcast(int root, std::span<std::byte> data) override;

 private:
  int whole_device(const char* operation, int device) const;

  Communicator& whole_;
  int first_, devices_;
};

}  // namespace rondo
