#include "rondo/train/weight_store.h"

#include <algorithm>

#include "rondo/kernels/kernels.h"

namespace rondo {

namespace {

constexpr std::int64_t kColumns = ParameterTable::kAlignment;

Tensor rows_of(void* data, DType dtype, std::int64_t elements) {
  return view(data, dtype, elements / kColumns, 1, kColumns);
}

}  // namespace

WeightStore::WeightStore(Context& context, Communicator& communicator, const ParameterTable& table,
                         DType storage, Shard shard)
    : context_(&context),
      communicator_(&communicator),
      storage_(storage),
      shard_(shard),
      buckets_(table.buckets()),
      owned_(table, shard != Shard::none, communicator.devices(), communicator.device()),
      whole_master_(shard == Shard::none || (shard == Shard::optimizer && storage == DType::f32)),
      slots_(table) {
  const auto allocate = [&](Entry entry, std::int64_t elements, DType dtype, const char* what) {
    return context.arena.allocate(entry, elements * size_of(dtype), what);
  };
  master_ = allocate(Entry::parameters, whole_master_ ? table.total() : owned_.total(), DType::f32,
                     "master weights");
  if (shard == Shard::parameters)
    slots_.allocate(context, Entry::compute_weights, storage, "gathered weights");
  else if (rounds())
    compute_ = allocate(Entry::compute_weights, table.total(), storage, "compute weights");
  if (shard == Shard::none) return;
  const std::size_t places = shard == Shard::parameters ? BucketSlots::kMost : buckets_.size();
  for (std::size_t n = 0; n < places; ++n) gathers_.emplace_back(communicator, GatherUse::weights);
}

std::span<float> WeightStore::master(std::size_t bucket) {
  const Range at = whole_master_ ? owned_.flat(bucket) : owned_.own(bucket);
  return {master_.as<float>() + at.begin, static_cast<std::size_t>(at.size())};
}

std::span<float> WeightStore::flat() {
  if (!whole_master_) return {};
  return {master_.as<float>(), static_cast<std::size_t>(buckets_.back().end)};
}

void* WeightStore::compute(std::size_t bucket) const {
  const Buffer& all = rounds() ? compute_ : master_;
  return all.as<char>() + buckets_[bucket].begin * size_of(storage_);
}

void WeightStore::place_own(std::size_t bucket, void* data) {
  const std::span<float> own = master(bucket);
  const std::int64_t before = owned_.flat(bucket).begin - buckets_[bucket].begin;
  void* place = static_cast<char*>(data) + before * size_of(storage_);
  if (place == own.data() || own.empty()) return;
  const auto elements = static_cast<std::int64_t>(own.size());
  kernels::copy(context_->stream, rows_of(own.data(), DType::f32, elements),
                rows_of(place, storage_, elements));
}

void WeightStore::end_passes() {
  for (BucketGather& gather : gathers_) gather.wait();
  for (BucketGather& gather : gathers_) gather.wait_sent();
}

void WeightStore::begin_change() {
  end_passes();
  held_ = {};
}

void WeightStore::changed(std::size_t bucket) {
  if (shard_ == Shard::parameters) return;  // gathered when it is needed
  place_own(bucket, compute(bucket));
  if (shard_ == Shard::optimizer) gathers_[bucket].start(bucket, buckets_[bucket], storage_, compute(bucket));
}

void WeightStore::end_change() { end_passes(); }

void WeightStore::start_gather(std::size_t bucket) {
  const std::size_t slot = slots_.slot_of(bucket);
  if (held_[slot] == bucket) return;
  BucketGather& gather = gathers_[slot];
  gather.wait();
  gather.wait_sent();
  held_[slot] = bucket;
  place_own(bucket, slots_.of(bucket));
  gather.start(bucket, buckets_[bucket], storage_, slots_.of(bucket));
}

const void* WeightStore::fetch(std::size_t bucket, std::size_t next) {
  start_gather(bucket);
  gathers_[slots_.slot_of(bucket)].wait();
  if (slots_.slot_of(next) != slots_.slot_of(bucket)) start_gather(next);
  return slots_.of(bucket);
}

WeightReader WeightStore::reader() {
  if (shard_ != Shard::parameters) return {compute(0)};
  return WeightReader([this](std::size_t bucket, std::size_t next) { return fetch(bucket, next); });
}

std::span<const float> WeightStore::gather_master(std::size_t bucket, float* memory) {
  const Range& range = buckets_[bucket];
  const auto elements = static_cast<std::size_t>(range.size());
  if (whole_master_) return flat().subspan(static_cast<std::size_t>(range.begin), elements);
  const std::span<const float> own = master(bucket);
  std::copy(own.begin(), own.end(), memory + (owned_.flat(bucket).begin - range.begin));
  BucketGather gather(*communicator_, GatherUse::master);
  gather.start(bucket, range, DType::f32, memory);
  gather.wait();
  gather.wait_sent();
  return {memory, elements};
}

}  // namespace rondo
