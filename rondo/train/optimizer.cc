#include "rondo/train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "rondo/kernels/kernels.h"

namespace rondo {

namespace {

/// Calls use(place in infos(), elements of the flat buffer) for each parameter that has elements in `range`.
template <class Use>
void for_each_parameter(const ParameterTable& table, const Range& range, const Use& use) {
  for (std::size_t n = 0; n < table.infos().size(); ++n) {
    const ParameterInfo& info = table.infos()[n];
    const Range part{std::max(info.offset, range.begin), std::min(info.offset + info.elements(), range.end)};
    if (part.begin < part.end) use(n, part);
  }
}

/// Of a span that holds `range`.
template <class T>
std::span<T> cut(std::span<T> all, const Range& range, const Range& part) {
  return all.subspan(static_cast<std::size_t>(part.begin - range.begin),
                     static_cast<std::size_t>(part.size()));
}

}  // namespace

Optimizer::Optimizer(Context& context, Communicator& communicator, const ParameterTable& table,
                     WeightStore& weights, GradientStore& gradients, const OptimizerOptions& options)
    : context_(&context),
      communicator_(&communicator),
      table_(&table),
      weights_(&weights),
      gradients_(&gradients),
      options_(options),
      buckets_(table.buckets()) {
  const std::int64_t bytes = weights.owned().total() * size_of(DType::f32);
  first_ = context.arena.allocate(Entry::optimizer, bytes, "first moment");
  second_ = context.arena.allocate(Entry::optimizer, bytes, "second moment");
}

std::span<float> Optimizer::moment(Moment moment, std::size_t bucket) {
  const Range own = weights_->owned().own(bucket);
  const Buffer& memory = moment == Moment::first ? first_ : second_;
  return {memory.as<float>() + own.begin, static_cast<std::size_t>(own.size())};
}

double Optimizer::gradient_norm() {
  // Each device's share of the sum is that of its owned_part()s even where it holds all gradients: then the
  // norm has the same bits however the state is divided, and no element is squared twice.
  double squares = 0;
  for (std::size_t bucket = 0; bucket < buckets_.size(); ++bucket)
    squares += kernels::sum_of_squares(context_->stream, gradients_->own(bucket));
  communicator_->all_reduce_sum(std::span(&squares, 1));
  return std::sqrt(squares);
}

std::string Optimizer::first_not_finite() {
  double found = -1;
  for (std::size_t bucket = 0; bucket < buckets_.size(); ++bucket) {
    const Range range = owned_part(buckets_[bucket], communicator_->devices(), communicator_->device());
    for_each_parameter(*table_, range, [&](std::size_t parameter, const Range& part) {
      const auto values = cut(gradients_->own(bucket), range, part);
      if (!std::isfinite(kernels::sum_of_squares(context_->stream, values)))
        found = std::max(found, static_cast<double>(parameter));
    });
  }
  std::vector<double> all(static_cast<std::size_t>(communicator_->devices()));
  communicator_->all_gather(std::as_bytes(std::span(&found, 1)), std::as_writable_bytes(std::span(all)));
  found = *std::max_element(all.begin(), all.end());
  return found < 0 ? "their sum" : table_->infos()[static_cast<std::size_t>(found)].name;
}

void Optimizer::update(std::size_t bucket, kernels::AdamW settings) {
  const Range range = weights_->owned().flat(bucket);
  // Gradients that are everywhere are there for all that the device updates, not its own part alone.
  const std::span<float> gradients =
      gradients_->flat().empty() ? gradients_->own(bucket) : cut(gradients_->flat(), {}, range);
  for_each_parameter(*table_, range, [&](std::size_t parameter, const Range& part) {
    settings.weight_decay = table_->infos()[parameter].decays ? options_.weight_decay : 0;
    kernels::adamw(context_->stream, settings, cut(weights_->master(bucket), range, part),
                   cut(gradients, range, part), cut(moment(Moment::first, bucket), range, part),
                   cut(moment(Moment::second, bucket), range, part));
  });
  weights_->changed(bucket);
}

Optimizer::StepResult Optimizer::step(std::int64_t step, double learning_rate) {
  const double norm = gradient_norm();
  if (!std::isfinite(norm))
    argument_error(
        "optimizer",
        "expected a finite gradient at step {}, got norm {}, first in {}; lower the learning rate or "
        "raise the warm-up",
        step, norm, first_not_finite());
  kernels::AdamW settings{.learning_rate = static_cast<float>(learning_rate),
                          .beta1 = options_.beta1,
                          .beta2 = options_.beta2,
                          .epsilon = options_.epsilon,
                          .step = step};
  if (options_.clip > 0 && norm > options_.clip)
    settings.gradient_scale = static_cast<float>(options_.clip / norm);
  weights_->begin_change();
  for (std::size_t bucket = 0; bucket < buckets_.size(); ++bucket) update(bucket, settings);
  weights_->end_change();
  return {norm};
}

}  // namespace rondo
