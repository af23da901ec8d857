#include "rondo/infer/device_weights.h"

#include "rondo/kernels/kernels.h"

namespace rondo {

DeviceWeights::DeviceWeights(Context& context, const LoadedModel& model, DType dtype) {
  const std::int64_t total = model.table().total();
  weights_ = context.arena.allocate(Entry::parameters, total * size_of(DType::f32), "weights");
  model.fill({weights_.as<float>(), static_cast<std::size_t>(total)}, &context.pool);
  if (dtype == DType::f32) return;
  Buffer rounded = context.arena.allocate(Entry::compute_weights, total * size_of(dtype), "compute weights");
  constexpr std::int64_t columns = ParameterTable::kAlignment;
  kernels::copy(context.stream, weights_.tensor(DType::f32, total / columns, 1, columns),
                rounded.tensor(dtype, total / columns, 1, columns));
  weights_ = std::move(rounded);
}

}  // namespace rondo
