// Losses segment by segment, and what is kept of them on the disk for another process to go on with.
//
// Whatever ends the process, the parts since the last commit are computed again, over what they left: a part
// writes only blocks that nothing before it in its layer reads. A layer writes over its forerunner's keys,
// values and inputs, so a commit stands between the two wherever the journal speaks of the forerunner.

#include <fmt/format.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "rondo/model/segmented.h"
#include "rondo/schedule/schedule.h"

namespace rondo {

using nlohmann::json;

void Transformer::Segmented::count_operations() {
  const ModelConfig& c = *model_.config_;
  const std::int64_t parameters = c.width * c.head_dim * 2 * (c.q_heads + c.kv_heads) + 3 * c.width * c.ffn;
  operations_.assign(1, 0);
  for (std::int64_t segment = 0; segment < segments(); ++segment) {
    const std::int64_t pairs = count_pairs(tiles_[static_cast<std::size_t>(segment)]);
    operations_.push_back(operations_.back() + 4.0 * static_cast<double>(pairs * c.q_heads * c.head_dim) +
                          2.0 * static_cast<double>(count(segment) * parameters));
  }
}

double Transformer::Segmented::share_done(std::int64_t parts) const {
  const ModelConfig& c = *model_.config_;
  const double layer = operations_.back(), head = 2.0 * static_cast<double>(c.width * c.vocabulary);
  const std::int64_t layers = parts / segments(), segment = parts % segments();
  const double all = static_cast<double>(c.layers) * layer + head * static_cast<double>(tokens_);
  if (layers < c.layers)
    return (static_cast<double>(layers) * layer + operations_[static_cast<std::size_t>(segment)]) / all;
  const std::int64_t left = layers == c.layers ? tokens_ - range(segment).begin : 0;
  return 1 - head * static_cast<double>(left) / all;
}

std::vector<Transformer::Segmented::KeptStore> Transformer::Segmented::kept_stores() {
  std::vector<KeptStore> stores;
  for (std::size_t n = 0; n < x_.size(); ++n)
    stores.push_back({fmt::format("layer-inputs-{}", n), x_[n].get()});
  stores.push_back({"keys-and-values", keys_values_.get()});
  stores.push_back({"losses", losses_.get()});
  return stores;
}

std::int64_t Transformer::Segmented::resume(const Tokens& tokens) {
  if (!losses_) return 0;
  const json& entry = options_.work->entry(kPassEntry);
  if (entry.is_null()) return 0;
  const std::int64_t done = entry.at("parts");
  const json& blocks = entry.at("blocks");
  for (const KeptStore& kept : kept_stores())
    kept.store->restore(blocks.at(kept.name).get<std::vector<std::uint64_t>>());
  const std::int64_t with_loss = done - (parts() - segments());
  for (std::int64_t n = 0; n < with_loss; ++n) {
    const std::span<float> to = part(tokens.losses, n);
    std::memcpy(to.data(), losses_->read(n, n + 1 < with_loss ? n + 1 : -1), to.size_bytes());
  }
  return done;
}

void Transformer::Segmented::commit(std::int64_t parts) {
  json blocks;
  for (const KeptStore& kept : kept_stores()) blocks[kept.name] = kept.store->flush();
  options_.work->set(kPassEntry, {{"parts", parts}, {"blocks", std::move(blocks)}});
  options_.work->commit();
}

bool Transformer::Segmented::ended(std::int64_t parts, const PassWatch& watch) {
  const bool goes_on = !watch || watch(share_done(parts));
  if (!losses_) return goes_on;
  const bool layer_ends = parts % segments() == 0;
  if (!goes_on || options_.work->due() || (layer_ends && options_.work->committed(kPassEntry))) commit(parts);
  return goes_on;
}

bool Transformer::Segmented::losses(const WeightReader& weights, const Tokens& tokens,
                                    const PassWatch& watch) {
  const std::int64_t layers = model_.config_->layers;
  std::int64_t done = resume(tokens);
  if (done == 0) embed(weights, tokens.ids);
  for (std::int64_t layer = done / segments(); layer < layers; ++layer) {
    const LayerPass pass = model_.pass(weights, layer, model_.bucket_of(layer) + 1);
    while (done < (layer + 1) * segments()) {
      forward_segment(layer, pass, done % segments(), nullptr, {});
      if (!ended(++done, watch)) return false;
    }
  }
  const LossHead::Weights head = model_.head_weights(weights);
  while (done < parts()) {
    const std::int64_t segment = done % segments();
    head_forward(head, tokens, segment);
    if (!ended(++done, watch)) return false;
  }
  return true;
}

void Transformer::Segmented::head_forward(const LossHead::Weights& weights, const Tokens& tokens,
                                          std::int64_t segment) {
  const ModelConfig& c = *model_.config_;
  const std::byte* memory = x_[input_of(c.layers, nullptr)]->read(segment, after(segment));
  const std::span<float> losses = part(tokens.losses, segment);
  model_.head_.forward(weights, rows(memory, segment, 1, c.width, options_.dtype),
                       part(tokens.labels, segment), losses);
  if (!losses_) return;
  std::memcpy(losses_->write(segment), losses.data(), losses.size_bytes());
  losses_->written(segment);
}

}  // namespace rondo
