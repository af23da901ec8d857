// Payload between processes: in pieces, through memory of the link, so that a device that fails can take its
// own memory away while the network is still busy.

#include <algorithm>
#include <cstring>

#include "rondo/comm/process_link.h"

namespace rondo {

namespace {

constexpr std::size_t kPieceBytes = std::size_t{256} << 10;
constexpr std::size_t kPiecesUnderWay = 8;  // of one message

}  // namespace

bool ProcessLink::borrow(const MessagePtr& message) {
  const std::lock_guard lock(shared_.mutex);
  message->busy = shared_.failed_device < 0 && !message->withdrawn;
  // What is sent may be a view of another device's memory, which must not go away either.
  if (message->busy) shared_.start_reading(message);
  return message->busy;
}

void ProcessLink::give_back(const MessagePtr& message) {
  const std::lock_guard lock(shared_.mutex);
  message->busy = false;
  std::erase(shared_.active, message);
  shared_.at(is_local(message->from) ? message->from : message->to).wake.notify_all();
  if (shared_.failed_device >= 0) shared_.wake_all();
}

bool ProcessLink::move_payloads() {
  std::vector<MessagePtr> matched;
  bool failed = false;
  {
    const std::lock_guard lock(shared_.mutex);
    matched.swap(matched_);
    failed = shared_.failed_device >= 0;
  }
  if (failed) {
    flows_.clear();
    return false;
  }
  bool moved = !matched.empty();
  for (MessagePtr& message : matched) {
    const bool outgoing = is_local(message->from);
    const std::int64_t bytes = message->source.bytes();
    flows_.push_back({.message = std::move(message), .outgoing = outgoing, .bytes = bytes});
  }
  for (Flow& flow : flows_) moved = advance(flow) || moved;
  std::erase_if(flows_, [](const Flow& flow) { return flow.ended == flow.bytes; });
  return moved;
}

bool ProcessLink::advance(Flow& flow) {
  bool moved = begin_pieces(flow);
  while (end_pieces(flow)) {
    moved = true;
    begin_pieces(flow);
  }
  if (flow.ended < flow.bytes) return moved;
  const std::lock_guard lock(shared_.mutex);
  flow.message->done = true;
  shared_.at(flow.outgoing ? flow.message->from : flow.message->to).wake.notify_all();
  return true;
}

bool ProcessLink::begin_pieces(Flow& flow) {
  Message& message = *flow.message;
  const int process = peer_of(message);
  bool moved = false;
  while (flow.begun < flow.bytes && flow.pieces.size() < kPiecesUnderWay) {
    const auto bytes =
        std::min(kPieceBytes, static_cast<std::size_t>(flow.bytes) - static_cast<std::size_t>(flow.begun));
    Parcel parcel{nullptr, bytes};
    if (spare_.empty()) {
      parcel.data = std::make_shared<std::byte[]>(kPieceBytes);
    } else {
      parcel.data = std::move(spare_.back().data);
      spare_.pop_back();
    }
    if (flow.outgoing) {
      if (!borrow(flow.message)) return moved;
      std::memcpy(parcel.data.get(), static_cast<const std::byte*>(message.source.data) + flow.begun, bytes);
      give_back(flow.message);
    }
    flow.pieces.push_back({flow.outgoing ? processes_->send(process, message.channel, parcel)
                                         : processes_->receive(process, message.channel, parcel),
                           parcel});
    flow.begun += static_cast<std::int64_t>(bytes);
    moved = true;
  }
  return moved;
}

bool ProcessLink::end_pieces(Flow& flow) {
  Message& message = *flow.message;
  bool moved = false;
  while (!flow.pieces.empty() && flow.pieces.front().transfer->done()) {
    if (!flow.outgoing && !borrow(flow.message)) return moved;
    Parcel parcel = std::move(flow.pieces.front().parcel);
    flow.pieces.pop_front();
    if (!flow.outgoing) {
      std::byte* into = static_cast<std::byte*>(message.destination.data) + flow.ended;
      if (message.kind == Message::Kind::add) {
        auto* sum = reinterpret_cast<float*>(into);
        const auto* term = reinterpret_cast<const float*>(parcel.data.get());
        for (std::size_t i = 0; i < parcel.bytes / sizeof(float); ++i) sum[i] += term[i];
      } else {
        std::memcpy(into, parcel.data.get(), parcel.bytes);
      }
      give_back(flow.message);
    }
    flow.ended += static_cast<std::int64_t>(parcel.bytes);
    spare_.push_back(std::move(parcel));
    moved = true;
  }
  return moved;
}

}  // namespace rondo
