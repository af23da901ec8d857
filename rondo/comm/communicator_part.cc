#include "rondo/comm/communicator_part.h"

#include <array>
#include <cstring>
#include <vector>

#include "rondo/comm/message_collectives.h"
#include "rondo/core/error.h"

namespace rondo {

CommunicatorPart::CommunicatorPart(Communicator& whole, int first, int devices)
    : whole_(whole), first_(first), devices_(devices) {
  const int device = whole.device();
  check_argument(devices >= 1 && first >= 0 && first + devices <= whole.devices() && device >= first &&
                     device < first + devices,
                 "communicator", "expected a part of {} devices that holds device {}, got {} from {} on",
                 whole.devices(), device, devices, first);
}

int CommunicatorPart::whole_device(const char* operation, int device) const {
  check_argument(device >= 0 && device < devices_, operation, "expected a device from 0 to {}, got {}",
                 devices_ - 1, device);
  return first_ + device;
}

RequestPtr CommunicatorPart::send(int to, Tag tag, const ConstTensor& data) {
  return whole_.send(whole_device("send", to), tag, data);
}
RequestPtr CommunicatorPart::receive(int from, Tag tag, const Tensor& into) {
  return whole_.receive(whole_device("receive", from), tag, into);
}
RequestPtr CommunicatorPart::receive_add(int from, Tag tag, const Tensor& into) {
  return whole_.receive_add(whole_device("receive_add", from), tag, into);
}
RequestPtr CommunicatorPart::receive_view(int from, Tag tag, ConstTensor* view) {
  return whole_.receive_view(whole_device("receive_view", from), tag, view);
}

void CommunicatorPart::barrier() {
  const std::array<std::byte, 2> own{};
  std::vector<std::byte> all(own.size() * static_cast<std::size_t>(devices_));
  send_parts(*this, own, all);
}

void CommunicatorPart::all_reduce_sum(std::span<float> values) { send_sums(*this, values); }
void CommunicatorPart::all_reduce_sum(std::span<double> values) { send_sums(*this, values); }

void CommunicatorPart::all_gather(std::span<const std::byte> own, std::span<std::byte> all) {
  check_argument(all.size() == own.size() * static_cast<std::size_t>(devices_), "all_gather",
                 "expected room for the {} bytes of each of {} devices, got {}", own.size(), devices_,
                 all.size());
  if (own.size() >= 2) return send_parts(*this, own, all);
  // Messages have two bytes at least.
  std::array<std::byte, 2> one{};
  if (!own.empty()) one[0] = own[0];
  std::vector<std::byte> pairs(2 * static_cast<std::size_t>(devices_));
  send_parts(*this, one, pairs);
  for (std::size_t n = 0; n < all.size(); ++n) all[n] = pairs[2 * n];
}

void CommunicatorPart::broadcast(int root, std::span<std::byte> data) {
  whole_device("broadcast", root);
  if (data.size() >= 2) return send_from(*this, root, data);
  std::array<std::byte, 2> one{};
  if (!data.empty()) one[0] = data[0];
  send_from(*this, root, one);
  if (!data.empty()) data[0] = one[0];
}

}  // namespace rondo
