#include "rondo/attention/global_block.h"

#include <algorithm>

#include "rondo/kernels/kernels.h"

namespace rondo {

namespace {

/// A pair of tensors laid one after the other in `buffer`.
KeyValues pair_in(const Buffer& buffer, const BlockPool::Shape& shape, DType dtype, std::int64_t first_row,
                  std::int64_t tokens) {
  const std::int64_t row_bytes = shape.heads * (shape.qk_dim + shape.v_dim) * size_of(dtype);
  char* start = buffer.as<char>() + first_row * row_bytes;
  const std::int64_t k_bytes = tokens * shape.heads * shape.qk_dim * size_of(dtype);
  return {view(start, dtype, tokens, shape.heads, shape.qk_dim),
          view(start + k_bytes, dtype, tokens, shape.heads, shape.v_dim)};
}

void copy_row(Stream& stream, const ConstKeyValues& from, std::int64_t row, const KeyValues& to,
              std::int64_t to_row) {
  kernels::copy(stream, from.k_SGD.slice({row, row + 1}), to.k_SGD.slice({to_row, to_row + 1}));
  kernels::copy(stream, from.v_SGE.slice({row, row + 1}), to.v_SGE.slice({to_row, to_row + 1}));
}

}  // namespace

void GlobalBlock::prepare(const SequencePlan& plan, const Schedule& schedule, const BlockPool::Shape& shape) {
  shape_ = shape;
  tokens_ = static_cast<std::int64_t>(schedule.global_tokens.size());
  owned_.assign(static_cast<std::size_t>(plan.devices), {});
  most_owned_ = 0;
  if (tokens_ == 0) return;
  for (int device = 0; device < plan.devices; ++device) {
    auto& owned = owned_[static_cast<std::size_t>(device)];
    for (const Piece& piece : make_pieces(plan, device)) {
      for (std::int64_t index = 0; index < tokens_; ++index) {
        const std::int64_t ahead = schedule.global_tokens[static_cast<std::size_t>(index)] - piece.base;
        if (ahead < 0 || ahead % piece.stride != 0 || ahead / piece.stride >= piece.count) continue;
        owned.push_back({piece.local + ahead / piece.stride, index});
      }
    }
    most_owned_ = std::max(most_owned_, static_cast<std::int64_t>(owned.size()));
  }
  const std::int64_t row = shape.heads * (shape.qk_dim + shape.v_dim), row_bytes = row * size_of(shape.dtype);
  const auto grow = [&](Buffer& buffer, std::int64_t bytes) {
    if (buffer.bytes() >= bytes) return;
    buffer = Buffer();
    buffer = context_->arena.allocate(Entry::exchange, bytes, "global tokens");
  };
  grow(block_, tokens_ * row_bytes);
  grow(sent_, most_owned_ * row_bytes);
  grow(gathered_, plan.devices * most_owned_ * row_bytes);
  grow(gradients_, tokens_ * row * size_of(DType::f32));
}

ConstKeyValues GlobalBlock::gather(const ConstKeyValues& own) {
  Stream& stream = context_->stream;
  const std::int64_t row_bytes = shape_.heads * (shape_.qk_dim + shape_.v_dim) * size_of(shape_.dtype);
  const KeyValues sent = pair_in(sent_, shape_, shape_.dtype, 0, most_owned_);
  const auto& mine = owned_[static_cast<std::size_t>(communicator_->device())];
  for (std::size_t n = 0; n < mine.size(); ++n)
    copy_row(stream, own, mine[n].local, sent, static_cast<std::int64_t>(n));
  const auto part = static_cast<std::size_t>(most_owned_ * row_bytes);
  communicator_->all_gather({sent_.as<std::byte>(), part}, {gathered_.as<std::byte>(), part * owned_.size()});

  const KeyValues block = pair_in(block_, shape_, shape_.dtype, 0, tokens_);
  for (std::size_t device = 0; device < owned_.size(); ++device) {
    const KeyValues from = pair_in(gathered_, shape_, shape_.dtype,
                                   static_cast<std::int64_t>(device) * most_owned_, most_owned_);
    for (std::size_t n = 0; n < owned_[device].size(); ++n)
      copy_row(stream, {from.k_SGD, from.v_SGE}, static_cast<std::int64_t>(n), block,
               owned_[device][n].index);
  }
  return {block.k_SGD, block.v_SGE};
}

KeyValues GlobalBlock::cleared_gradients() {
  const KeyValues gradients = pair_in(gradients_, shape_, DType::f32, 0, tokens_);
  kernels::fill_zero(context_->stream, gradients.k_SGD);
  kernels::fill_zero(context_->stream, gradients.v_SGE);
  return gradients;
}

void GlobalBlock::reduce_into(const KeyValues& own) {
  const std::int64_t elements = tokens_ * shape_.heads * (shape_.qk_dim + shape_.v_dim);
  communicator_->all_reduce_sum(std::span<float>(gradients_.as<float>(), static_cast<std::size_t>(elements)));
  const KeyValues sum = pair_in(gradients_, shape_, DType::f32, 0, tokens_);
  for (const Schedule::Owned& mine : owned_[static_cast<std::size_t>(communicator_->device())]) {
    const Range from{mine.index, mine.index + 1}, to{mine.local, mine.local + 1};
    kernels::add(context_->stream, sum.k_SGD.slice(from), own.k_SGD.slice(to));
    kernels::add(context_->stream, sum.v_SGE.slice(from), own.v_SGE.slice(to));
  }
}

}  // namespace rondo
