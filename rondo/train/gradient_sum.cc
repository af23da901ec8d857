#include "rondo/train/gradient_sum.h"

#include <algorithm>
#include <limits>

namespace rondo {

namespace {

/// Above those of collectives, below those of attention.
constexpr Tag kFirstTag = std::numeric_limits<Tag>::min() + 16;

}  // namespace

GradientSum::GradientSum(Context& context, Communicator& communicator, const ParameterTable& table,
                         std::span<float> gradients)
    : communicator_(&communicator), table_(&table), gradients_(gradients) {
  if (communicator.can_share()) return;
  // Embeddings may be much larger than layers: they go in pieces of a layer's size.
  const std::vector<Range> buckets = table.buckets();
  for (std::size_t n = 1; n + 1 < buckets.size(); ++n)
    most_elements_ = std::max(most_elements_, buckets[n].size());
  most_elements_ = std::max(most_elements_, std::int64_t{1} << 16);
  for (int device = 0; device < communicator.devices(); ++device)
    most_owned_ =
        std::max(most_owned_, owned_part({0, most_elements_}, communicator.devices(), device).size());
  terms_ =
      context.arena.allocate(Entry::gradients, most_owned_ * communicator.devices() * size_of(DType::f32),
                             "other devices' gradients");
}

void GradientSum::ready(Range elements) {
  ready_ += elements.size();
  if (communicator_->can_share()) return;
  for (std::int64_t begin = elements.begin; begin < elements.end; begin += most_elements_)
    start({begin, std::min(begin + most_elements_, elements.end)});
}

void GradientSum::start(Range elements) {
  add_up();
  adding_ = elements;
  post(elements, Phase::parts);
}

void GradientSum::post(Range elements, Phase phase) {
  const int devices = communicator_->devices(), me = communicator_->device();
  const auto part = [&](int device) { return owned_part(elements, devices, device); };
  const auto tensor = [](float* data, std::int64_t count) { return view(data, DType::f32, count, 1, 1); };
  const auto own = of(part(me));
  const Tag tag = kFirstTag + next_tag_++;
  std::vector<RequestPtr>& requests = phase == Phase::parts ? parts_ : sums_;
  for (int device = 0; device < devices; ++device) {
    if (device == me) continue;
    const auto other = of(part(device));
    const auto count = static_cast<std::int64_t>((phase == Phase::parts ? own : other).size());
    requests.push_back(communicator_->receive(
        device, tag, tensor(phase == Phase::parts ? term(device) : other.data(), count)));
    const auto sent = phase == Phase::parts ? other : own;
    requests.push_back(
        communicator_->send(device, tag, tensor(sent.data(), static_cast<std::int64_t>(sent.size()))));
  }
}

void GradientSum::add_up() {
  if (adding_.size() == 0) return;
  for (const RequestPtr& request : parts_) communicator_->wait(*request, "sum of gradients");
  parts_.clear();
  const int devices = communicator_->devices(), me = communicator_->device();
  const std::span<float> own = of(owned_part(adding_, devices, me));
  std::copy(own.begin(), own.end(), term(me));
  for (std::size_t n = 0; n < own.size(); ++n) {
    float sum = term(0)[n];
    for (int device = 1; device < devices; ++device) sum += term(device)[n];
    own[n] = sum;
  }
  post(adding_, Phase::sums);
  adding_ = {};
}

void GradientSum::finish() {
  if (communicator_->can_share()) {
    communicator_->all_reduce_sum(gradients_);
  } else {
    if (ready_ == 0)  // nobody announced anything: all of it now
      for (const Range& bucket : table_->buckets()) ready(bucket);
    RONDO_ASSERT(ready_ == table_->total());
    add_up();
    for (const RequestPtr& request : sums_) communicator_->wait(*request, "sums of gradients");
    sums_.clear();
  }
  ready_ = 0;
  next_tag_ = 0;
}

}  // namespace rondo
