// Payload between processes: in pieces, through memory of the link, so that a device that fails can take its
// own memory away while the network is still busy. Between processes of one host that memory is shared, and
// read where it lies; MPI moves only the numbers of its pieces.

#include <algorithm>
#include <cstring>

#include "rondo/comm/process_link.h"

namespace rondo {

namespace {

constexpr auto kPieceBytes = static_cast<std::int64_t>(HostWindow::kPieceBytes);
constexpr std::size_t kNumberBytes = sizeof(int);
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
    const int peer = peer_of(*message);
    const bool share = static_cast<bool>(processes_->window_of(peer));
    flows_.push_back(
        {.message = std::move(message),
         .outgoing = outgoing,
         .window = share ? processes_->window_of(outgoing ? processes_->rank() : peer) : HostWindow(),
         .bytes = bytes});
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

Parcel ProcessLink::parcel_of(const Flow& flow, std::int64_t bytes) {
  if (flow.window) return {std::make_shared<std::byte[]>(kNumberBytes), kNumberBytes};
  Parcel parcel{nullptr, static_cast<std::size_t>(bytes)};
  if (spare_.empty()) {
    parcel.data = std::make_shared<std::byte[]>(HostWindow::kPieceBytes);
  } else {
    parcel.data = std::move(spare_.back().data);
    spare_.pop_back();
  }
  return parcel;
}

/// The next bytes of what is sent; false where they have no place yet, or are no longer there.
bool ProcessLink::fill_piece(Flow& flow, Piece& piece) {
  if (flow.window && (piece.number = flow.window.claim()) < 0) return false;
  if (!borrow(flow.message)) return false;  // from now on nothing is sent in this ring
  piece.parcel = parcel_of(flow, piece.bytes);
  std::byte* into = flow.window ? flow.window.piece(piece.number) : piece.parcel.data.get();
  std::memcpy(into, static_cast<const std::byte*>(flow.message->source.data) + flow.begun,
              static_cast<std::size_t>(piece.bytes));
  give_back(flow.message);
  if (!flow.window) return true;
  flow.window.fill(piece.number);
  std::memcpy(piece.parcel.data.get(), &piece.number, kNumberBytes);
  return true;
}

/// Takes what has arrived to where it belongs.
void ProcessLink::empty_piece(Flow& flow, Piece& piece) {
  const Message& message = *flow.message;
  const std::byte* from = piece.parcel.data.get();
  if (flow.window) {
    std::memcpy(&piece.number, from, kNumberBytes);
    RONDO_ASSERT(flow.window.is_filled(piece.number));
    from = flow.window.piece(piece.number);
  }
  std::byte* into = static_cast<std::byte*>(message.destination.data) + flow.ended;
  if (message.kind == Message::Kind::add) {
    auto* sum = reinterpret_cast<float*>(into);
    const auto* term = reinterpret_cast<const float*>(from);
    for (std::int64_t i = 0; i < piece.bytes / size_of(DType::f32); ++i) sum[i] += term[i];
  } else {
    std::memcpy(into, from, static_cast<std::size_t>(piece.bytes));
  }
  if (flow.window) flow.window.release(piece.number);
}

bool ProcessLink::begin_pieces(Flow& flow) {
  const Message& message = *flow.message;
  const int process = peer_of(message);
  bool moved = false;
  while (flow.begun < flow.bytes && flow.pieces.size() < kPiecesUnderWay) {
    Piece piece{.transfer = nullptr, .parcel = {}, .bytes = std::min(kPieceBytes, flow.bytes - flow.begun)};
    if (flow.outgoing) {
      if (!fill_piece(flow, piece)) return moved;
      piece.transfer = processes_->send(process, message.channel, piece.parcel);
    } else {
      piece.parcel = parcel_of(flow, piece.bytes);
      piece.transfer = processes_->receive(process, message.channel, piece.parcel);
    }
    flow.begun += piece.bytes;
    flow.pieces.push_back(std::move(piece));
    moved = true;
  }
  return moved;
}

/// What was sent through a window is done when it was read.
bool ProcessLink::is_done(const Flow& flow, Piece& piece) {
  if (piece.transfer && !piece.transfer->done()) return false;
  piece.transfer = nullptr;
  return !flow.outgoing || !flow.window || flow.window.take_back(piece.number);
}

bool ProcessLink::end_pieces(Flow& flow) {
  bool moved = false;
  while (!flow.pieces.empty() && is_done(flow, flow.pieces.front())) {
    if (!flow.outgoing && !borrow(flow.message)) return moved;
    Piece piece = std::move(flow.pieces.front());
    flow.pieces.pop_front();
    if (!flow.outgoing) {
      empty_piece(flow, piece);
      give_back(flow.message);
    }
    flow.ended += piece.bytes;
    if (!flow.window) spare_.push_back(std::move(piece.parcel));
    moved = true;
  }
  return moved;
}

}  // namespace rondo
