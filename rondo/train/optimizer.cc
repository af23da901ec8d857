#include "rondo/train/optimizer.h"

#include <cmath>

#include "rondo/kernels/kernels.h"

namespace rondo {

Optimizer::Optimizer(Context& context, const ParameterTable& table, DType storage,
                     const OptimizerOptions& options)
    : context_(&context), table_(&table), storage_(storage), options_(options) {
  const auto allocate = [&](Entry entry, DType dtype, const char* what) {
    return context.arena.allocate(entry, table.total() * size_of(dtype), what);
  };
  parameters_ = allocate(Entry::parameters, DType::f32, "master weights");
  gradients_ = allocate(Entry::gradients, DType::f32, "gradients");
  first_ = allocate(Entry::optimizer, DType::f32, "first moment");
  second_ = allocate(Entry::optimizer, DType::f32, "second moment");
  if (storage != DType::f32) compute_ = allocate(Entry::compute_weights, storage, "compute weights");
}

void Optimizer::parameters_changed() {
  if (storage_ == DType::f32) return;
  const std::int64_t n = table_->total();
  kernels::copy(context_->stream,
                parameters_.tensor(DType::f32, n / ParameterTable::kAlignment, 1, ParameterTable::kAlignment),
                compute_.tensor(storage_, n / ParameterTable::kAlignment, 1, ParameterTable::kAlignment));
}

void Optimizer::clear_gradients() {
  kernels::fill_zero(context_->stream,
                     gradients_.tensor(DType::f32, table_->total() / ParameterTable::kAlignment, 1,
                                       ParameterTable::kAlignment));
}

std::string Optimizer::first_not_finite() const {
  const std::vector<ParameterInfo>& infos = table_->infos();
  for (auto info = infos.rbegin(); info != infos.rend(); ++info) {
    const auto part = gradients().subspan(static_cast<std::size_t>(info->offset),
                                          static_cast<std::size_t>(info->elements()));
    if (!std::isfinite(kernels::sum_of_squares(context_->stream, part))) return info->name;
  }
  return "their sum";
}

Optimizer::StepResult Optimizer::step(std::int64_t step, double learning_rate) {
  const double norm = std::sqrt(kernels::sum_of_squares(context_->stream, gradients()));
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
  for (const ParameterInfo& info : table_->infos()) {
    const auto part = [&](std::span<float> all) {
      return all.subspan(static_cast<std::size_t>(info.offset), static_cast<std::size_t>(info.elements()));
    };
    settings.weight_decay = info.decays ? options_.weight_decay : 0;
    kernels::adamw(context_->stream, settings, part(parameters()), part(gradients()), part(first_moment()),
                   part(second_moment()));
  }
  parameters_changed();
  return {norm};
}

}  // namespace rondo
