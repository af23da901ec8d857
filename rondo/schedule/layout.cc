#include "rondo/schedule/layout.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "rondo/core/error.h"

namespace rondo {

using namespace schedule;

const char* name_of(Layout layout) {
  switch (layout) {
    case Layout::contiguous:
      return "contiguous";
    case Layout::striped:
      return "striped";
    case Layout::zigzag:
      return "zigzag";
  }
  return "unknown";
}

Layout parse_layout(std::string_view name) {
  for (const Layout layout : {Layout::contiguous, Layout::striped, Layout::zigzag})
    if (name == name_of(layout)) return layout;
  argument_error("parse_layout", "expected contiguous, striped or zigzag, got '{}'", name);
}

std::vector<Piece> make_pieces(const SequencePlan& plan, int device) {
  check_plan("make_pieces", plan);
  check_device("make_pieces", plan, device);
  return all_pieces(plan)[static_cast<std::size_t>(device)];
}

std::int64_t shard_tokens(const SequencePlan& plan, int device) {
  std::int64_t tokens = 0;
  for (const Piece& piece : make_pieces(plan, device)) tokens += piece.count;
  return tokens;
}

std::vector<TokenPlace> shard_places(const SequencePlan& plan, int device) {
  std::vector<TokenPlace> places(static_cast<std::size_t>(shard_tokens(plan, device)));
  shard_places(plan, device, places);
  return places;
}

void shard_places(const SequencePlan& plan, int device, std::span<TokenPlace> places) {
  const std::vector<Piece> pieces = make_pieces(plan, device);
  const Documents documents(plan);
  std::size_t written = 0;
  for (const Piece& piece : pieces) {
    for (const Segment& segment : segments_of(piece, documents)) {
      const std::int64_t start = documents[segment.document].begin;
      for (std::int64_t n = 0; n < segment.local.size(); ++n) {
        const std::int64_t global = segment.global + n * segment.stride;
        RONDO_ASSERT(written < places.size());
        places[written++] = {global, global - start, segment.document};
      }
    }
  }
  RONDO_ASSERT(written == places.size());
}

namespace schedule {
namespace {

void check_weights(const char* operation, const SequencePlan& plan) {
  if (plan.weights.empty()) return;
  check_argument(plan.layout != Layout::striped, operation,
                 "expected weights with layout contiguous or zigzag only, got layout striped");
  check_argument(plan.weights.size() == static_cast<std::size_t>(plan.devices), operation,
                 "expected one weight for each of {} devices, got {}", plan.devices, plan.weights.size());
  for (const double weight : plan.weights)
    check_argument(std::isfinite(weight) && weight >= 0, operation, "expected finite weights >= 0, got {}",
                   weight);
  const double sum = std::accumulate(plan.weights.begin(), plan.weights.end(), 0.0);
  check_argument(std::isfinite(sum) && sum > 0, operation,
                 "expected weights with a finite sum > 0, got sum {}", sum);
}

/// Tokens of each device by largest remainder (Hamilton's method); ties go to the lower device.
std::vector<std::int64_t> weighted_shares(const SequencePlan& plan) {
  const std::size_t devices = plan.weights.size();
  const double sum = std::accumulate(plan.weights.begin(), plan.weights.end(), 0.0);
  std::vector<std::int64_t> shares(devices);
  std::vector<double> remainders(devices);
  std::vector<std::size_t> order;  // devices without weight never get a token
  std::int64_t left = plan.tokens;
  for (std::size_t r = 0; r < devices; ++r) {
    const double quota = static_cast<double>(plan.tokens) * (plan.weights[r] / sum);
    // Rounded quotas may pass what is left by a token.
    shares[r] = std::min(static_cast<std::int64_t>(std::floor(quota)), left);
    remainders[r] = quota - std::floor(quota);
    left -= shares[r];
    if (plan.weights[r] > 0) order.push_back(r);
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return remainders[a] > remainders[b]; });
  for (std::size_t n = 0; left > 0; n = (n + 1) % order.size(), --left) ++shares[order[n]];
  return shares;
}

std::vector<std::int64_t> device_shares(const SequencePlan& plan) {
  if (!plan.weights.empty()) return weighted_shares(plan);
  std::vector<std::int64_t> shares(static_cast<std::size_t>(plan.devices), plan.tokens / plan.devices);
  for (std::int64_t r = 0; r < plan.tokens % plan.devices; ++r) ++shares[static_cast<std::size_t>(r)];
  return shares;
}

std::vector<std::vector<Piece>> striped_pieces(const SequencePlan& plan) {
  std::vector<std::vector<Piece>> pieces(static_cast<std::size_t>(plan.devices));
  const std::int64_t stride = plan.devices;
  for (std::int64_t r = 0; r < std::min(stride, plan.tokens); ++r)
    pieces[static_cast<std::size_t>(r)] = {
        {.base = r, .stride = stride, .count = ceil_div(plan.tokens - r, stride), .local = 0}};
  return pieces;
}

std::vector<std::vector<Piece>> contiguous_pieces(const SequencePlan& plan) {
  std::vector<std::vector<Piece>> pieces(static_cast<std::size_t>(plan.devices));
  std::int64_t base = 0;
  const std::vector<std::int64_t> shares = device_shares(plan);
  for (std::size_t r = 0; r < pieces.size(); ++r) {
    if (shares[r] > 0) pieces[r] = {{.base = base, .stride = 1, .count = shares[r], .local = 0}};
    base += shares[r];
  }
  return pieces;
}

/// Device r has chunks r and 2P-1-r: an early and a late half of its share, the early one a token longer if
/// it is odd.
std::vector<std::vector<Piece>> zigzag_pieces(const SequencePlan& plan) {
  std::vector<std::vector<Piece>> pieces(static_cast<std::size_t>(plan.devices));
  const std::vector<std::int64_t> shares = device_shares(plan);
  std::int64_t front = 0, back = plan.tokens;
  for (std::size_t r = 0; r < pieces.size(); ++r) {
    const std::int64_t early = shares[r] - shares[r] / 2, late = shares[r] / 2;
    back -= late;
    if (early > 0) pieces[r].push_back({.base = front, .stride = 1, .count = early, .local = 0});
    if (front + early == back && early > 0)
      pieces[r].back().count += late;  // chunks that touch (those of the last device) are one piece
    else if (late > 0)
      pieces[r].push_back({.base = back, .stride = 1, .count = late, .local = early});
    front += early;
  }
  return pieces;
}

}  // namespace

void check_plan(const char* operation, const SequencePlan& plan) {
  check_argument(plan.devices >= 1, operation, "expected devices >= 1, got {}", plan.devices);
  // The bound keeps every product of positions and windows inside 64 bits, and quotas of shares exact in
  // double.
  constexpr std::int64_t most = std::int64_t{1} << 48;
  check_argument(plan.tokens >= 0 && plan.tokens <= most, operation, "expected tokens in 0...{}, got {}",
                 most, plan.tokens);
  const auto& starts = plan.document_starts;
  for (std::size_t n = 0; n < starts.size(); ++n) {
    if (n == 0) {
      check_argument(starts[0] == 0, operation, "expected the first document to start at 0, got {}",
                     starts[0]);
      continue;
    }
    check_argument(starts[n] > starts[n - 1], operation,
                   "expected document starts strictly ascending, got {} after {}", starts[n], starts[n - 1]);
    check_argument(starts[n] < plan.tokens, operation, "expected document starts below {} tokens, got {}",
                   plan.tokens, starts[n]);
  }
  check_weights(operation, plan);
}

void check_device(const char* operation, const SequencePlan& plan, int device) {
  check_argument(device >= 0 && device < plan.devices, operation, "expected a device in 0...{}, got {}",
                 plan.devices - 1, device);
}

std::vector<std::vector<Piece>> all_pieces(const SequencePlan& plan) {
  switch (plan.layout) {
    case Layout::striped:
      return striped_pieces(plan);
    case Layout::zigzag:
      return zigzag_pieces(plan);
    case Layout::contiguous:
      break;
  }
  return contiguous_pieces(plan);
}

Documents::Documents(const SequencePlan& plan) : bounds_(plan.document_starts) {
  if (bounds_.empty()) bounds_.push_back(0);
  bounds_.push_back(plan.tokens);
}

std::int64_t Documents::longest() const {
  std::int64_t most = 0;
  for (std::int64_t n = 0; n < count(); ++n) most = std::max(most, (*this)[n].size());
  return most;
}

std::int64_t Documents::find(std::int64_t token) const {
  return std::upper_bound(bounds_.begin(), bounds_.end() - 1, token) - bounds_.begin() - 1;
}

Segment segment_of(const Piece& piece, std::int64_t document, Range tokens) {
  const std::int64_t begin = std::max<std::int64_t>(0, ceil_div(tokens.begin - piece.base, piece.stride));
  const std::int64_t end = std::min(piece.count, ceil_div(tokens.end - piece.base, piece.stride));
  return {.document = document,
          .local = {piece.local + begin, piece.local + end},
          .global = piece.base + begin * piece.stride,
          .stride = piece.stride};
}

std::vector<Segment> segments_of(const Piece& piece, const Documents& documents) {
  std::vector<Segment> segments;
  std::int64_t document = documents.find(piece.base);
  for (std::int64_t n = 0; n < piece.count;) {
    const std::int64_t token = piece.base + n * piece.stride;
    while (documents[document].end <= token) ++document;
    segments.push_back(segment_of(piece, document, documents[document]));
    n = segments.back().local.end - piece.local;
  }
  return segments;
}

}  // namespace schedule
}  // namespace rondo
