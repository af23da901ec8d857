#include "rondo/train/gradient_store.h"

#include <algorithm>

#include "rondo/kernels/kernels.h"

namespace rondo {

namespace {

constexpr std::int64_t kColumns = ParameterTable::kAlignment;

void fill_zero(Stream& stream, float* data, std::int64_t elements) {
  kernels::fill_zero(stream, view(data, DType::f32, elements / kColumns, 1, kColumns));
}

}  // namespace

GradientStore::GradientStore(Context& context, Communicator& communicator, const ParameterTable& table,
                             Shard shard)
    : context_(&context),
      communicator_(&communicator),
      shard_(shard),
      buckets_(table.buckets()),
      owned_(table, true, communicator.devices(), communicator.device()),
      slots_(table),
      summed_(buckets_.size()) {
  memory_ = context.arena.allocate(
      Entry::gradients, (divided() ? owned_.total() : table.total()) * size_of(DType::f32), "gradients");
  if (divided()) slots_.allocate(context, Entry::gradient_exchange, DType::f32, "gradients of a layer");
  if (shard != Shard::none || !communicator.can_share())
    sum_.emplace(context, communicator, table, shard == Shard::none ? SumsTo::all : SumsTo::owner);
}

std::span<float> GradientStore::flat() {
  if (divided()) return {};
  return {memory_.as<float>(), static_cast<std::size_t>(buckets_.back().end)};
}

std::span<float> GradientStore::own(std::size_t bucket) {
  const Range at = divided() ? owned_.own(bucket) : owned_.flat(bucket);
  return {memory_.as<float>() + at.begin, static_cast<std::size_t>(at.size())};
}

float* GradientStore::idle(std::size_t bucket) {
  return divided() ? static_cast<float*>(slots_.of(bucket)) : memory_.as<float>() + buckets_[bucket].begin;
}

void GradientStore::clear() {
  std::fill(summed_.begin(), summed_.end(), false);
  if (!divided()) fill_zero(context_->stream, memory_.as<float>(), buckets_.back().end);
}

GradientWriter GradientStore::writer(bool last) {
  if (!divided() && (!last || !sum_)) return {memory_.as<float>()};
  return {[this](std::size_t bucket) { return open(bucket); }, [this](std::size_t bucket) { done(bucket); }};
}

float* GradientStore::open(std::size_t bucket) {
  float* values = idle(bucket);
  if (!divided()) return values;
  std::optional<std::size_t>& in_slot = open_[slots_.slot_of(bucket)];
  if (in_slot == bucket) return values;
  const std::optional<std::size_t> travelling = sum_->under_way();
  if (travelling && slots_.slot_of(*travelling) == slots_.slot_of(bucket)) sum_->settle();
  in_slot = bucket;
  fill_zero(context_->stream, values, buckets_[bucket].size());
  return values;
}

void GradientStore::done(std::size_t bucket) {
  if (divided()) open_[slots_.slot_of(bucket)].reset();
  sum_->ready({.number = bucket,
               .values = idle(bucket),
               .own = own(bucket).data(),
               .adds = divided() && summed_[bucket]});
  summed_[bucket] = true;
}

void GradientStore::finish() {
  if (!sum_) return communicator_->all_reduce_sum(flat());
  for (std::size_t bucket = buckets_.size(); bucket-- > 0;) {
    if (summed_[bucket]) continue;
    open(bucket);
    done(bucket);
  }
  sum_->finish();
}

}  // namespace rondo
