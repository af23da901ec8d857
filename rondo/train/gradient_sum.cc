#include "rondo/train/gradient_sum.h"

#include <algorithm>
#include <limits>

namespace rondo {

namespace {

/// Above those of collectives, below those of gathered weights.
constexpr Tag kFirstTag = std::numeric_limits<Tag>::min() + 16;
constexpr std::int64_t kLeastPiece = std::int64_t{1} << 16;  // elements of all devices

}  // namespace

GradientSum::GradientSum(Context& context, Communicator& communicator, const ParameterTable& table, SumsTo to)
    : communicator_(&communicator), buckets_(table.buckets()), to_(to) {
  std::int64_t most = kLeastPiece;
  for (std::size_t n = 1; n + 1 < buckets_.size(); ++n) most = std::max(most, buckets_[n].size());
  for (int device = 0; device < communicator.devices(); ++device)
    most_owned_ = std::max(most_owned_, owned_part({0, most}, communicator.devices(), device).size());
  terms_ = context.arena.allocate(Entry::gradient_exchange,
                                  most_owned_ * communicator.devices() * size_of(DType::f32),
                                  "other devices' gradients");
}

void GradientSum::ready(const Bucket& bucket) {
  const Range first = owned_part(buckets_[bucket.number], communicator_->devices(), 0);  // the largest
  for (std::int64_t begin = 0; begin < first.size(); begin += most_owned_) start({bucket, begin});
}

void GradientSum::start(const Piece& piece) {
  add_up();
  adding_ = true;
  piece_ = piece;
  post(piece, Phase::parts);
}

Range GradientSum::part(const Piece& piece, int device) const {
  const Range own = owned_part(buckets_[piece.bucket.number], communicator_->devices(), device);
  const std::int64_t begin = std::min(own.end, own.begin + piece.begin);
  return {begin, std::min(own.end, begin + most_owned_)};
}

std::span<float> GradientSum::values(const Piece& piece, int device) const {
  const Range at = part(piece, device);
  return {piece.bucket.values + (at.begin - buckets_[piece.bucket.number].begin),
          static_cast<std::size_t>(at.size())};
}

void GradientSum::post(const Piece& piece, Phase phase) {
  const int devices = communicator_->devices(), me = communicator_->device();
  const auto tensor = [](float* data, std::size_t count) {
    return view(data, DType::f32, static_cast<std::int64_t>(count), 1, 1);
  };
  const std::span<float> own = values(piece, me);
  const Tag tag = kFirstTag + next_tag_++;
  std::vector<RequestPtr>& requests = phase == Phase::parts ? parts_ : sums_;
  for (int device = 0; device < devices; ++device) {
    if (device == me) continue;
    const std::span<float> other = values(piece, device);
    const bool parts = phase == Phase::parts;
    const Tensor into = parts ? tensor(term(device), own.size()) : tensor(other.data(), other.size());
    const std::span<float> sent = parts ? other : own;
    if (into.tokens > 0) requests.push_back(communicator_->receive(device, tag, into));
    if (!sent.empty()) requests.push_back(communicator_->send(device, tag, tensor(sent.data(), sent.size())));
  }
}

void GradientSum::add_up() {
  if (!adding_) return;
  adding_ = false;
  for (const RequestPtr& request : parts_) communicator_->wait(*request, "sum of gradients");
  parts_.clear();
  const int devices = communicator_->devices(), me = communicator_->device();
  const std::span<float> own = values(piece_, me);
  std::copy(own.begin(), own.end(), term(me));
  float* out = to_ == SumsTo::all ? own.data() : piece_.bucket.own + piece_.begin;
  for (std::size_t n = 0; n < own.size(); ++n) {
    float sum = term(0)[n];
    for (int device = 1; device < devices; ++device) sum += term(device)[n];
    out[n] = piece_.bucket.adds ? out[n] + sum : sum;
  }
  if (to_ == SumsTo::all) post(piece_, Phase::sums);
}

void GradientSum::finish() {
  add_up();
  for (const RequestPtr& request : sums_) communicator_->wait(*request, "sums of gradients");
  sums_.clear();
  next_tag_ = 0;
}

}  // namespace rondo
