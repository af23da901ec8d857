#include "rondo/model/parameters.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include "rondo/core/error.h"
#include "rondo/core/random.h"

namespace rondo {
namespace {

constexpr std::int64_t kMaxElements = std::int64_t{1} << 60;  // 2^62 bytes of float32

constexpr std::int64_t padded(std::int64_t elements) {
  constexpr std::int64_t a = ParameterTable::kAlignment;
  return (elements + a - 1) / a * a;
}

template <class Pointer>
BasicTensor<Pointer> view_of(const ParameterInfo& info, Placed<Pointer> elements, DType dtype) {
  using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char, char>;
  const std::int64_t before = (info.offset - elements.origin) * size_of(dtype);
  return view(static_cast<Pointer>(static_cast<Byte*>(elements.data) + before), dtype, info.rows, 1,
              info.columns);
}

template <class Pointer>
LayerParameters<BasicTensor<Pointer>> layer_of(const ParameterTable& table, Placed<Pointer> elements,
                                               DType dtype, std::int64_t layer) {
  const std::span<const ParameterInfo> infos = table.layer(layer);
  const auto at = [&](std::size_t i) { return view_of(infos[i], elements, dtype); };
  return {at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7), at(8)};
}

template <class Pointer>
OuterParameters<BasicTensor<Pointer>> outer_of(const ParameterTable& table, Pointer flat, DType dtype) {
  const Placed<Pointer> all{flat};
  return {view_of(table.embedding(), all, dtype), view_of(table.final_norm(), all, dtype),
          view_of(table.lm_head(), all, dtype)};
}

/// Four normal numbers of deviation 1 from one Philox block (Box, Muller 1958), in double.
std::array<double, 4> normals(std::uint64_t block, PhiloxKey key) {
  const PhiloxCounter bits =
      philox4x32({static_cast<std::uint32_t>(block), static_cast<std::uint32_t>(block >> 32), 0, 0}, key);
  std::array<double, 4> result{};
  for (std::size_t i = 0; i < 4; i += 2) {
    const double u = (static_cast<double>(bits[i]) + 1) * 0x1p-32;  // in (0, 1]: its logarithm is finite
    const double radius = std::sqrt(-2 * std::log(u));
    const double angle = 2 * std::numbers::pi * static_cast<double>(bits[i + 1]) * 0x1p-32;
    result[i] = radius * std::cos(angle);
    result[i + 1] = radius * std::sin(angle);
  }
  return result;
}

constexpr std::int64_t kChunk = 1 << 16;  // elements of a task; a multiple of 4

/// out[0] is element elements.begin, a multiple of 4.
void fill_normal(Range elements, double deviation, PhiloxKey key, float* out) {
  for (std::int64_t begin = elements.begin; begin < elements.end; begin += 4) {
    const std::array<double, 4> numbers = normals(static_cast<std::uint64_t>(begin / 4), key);
    const std::int64_t end = std::min(begin + 4, elements.end);
    for (std::int64_t i = begin; i < end; ++i)
      out[i - elements.begin] = static_cast<float>(deviation * numbers[static_cast<std::size_t>(i - begin)]);
  }
}

bool writes_residual(const ParameterInfo& info) {
  return info.name.ends_with(".o_proj.weight") || info.name.ends_with(".down_proj.weight");
}

}  // namespace

ParameterTable::ParameterTable(const ModelConfig& config)
    : layers_(config.layers), tied_(config.tied_embedding) {
  check_config(config, "ParameterTable");
  const std::int64_t q_width = config.q_heads * config.head_dim, kv_width = config.kv_heads * config.head_dim;
  infos_.reserve(static_cast<std::size_t>(3 + kPerLayer * layers_));
  append("model.embed_tokens.weight", config.vocabulary, config.width, false);
  for (std::int64_t layer = 0; layer < layers_; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    append(prefix + "input_layernorm.weight", 1, config.width, true);
    append(prefix + "self_attn.q_proj.weight", q_width, config.width, false);
    append(prefix + "self_attn.k_proj.weight", kv_width, config.width, false);
    append(prefix + "self_attn.v_proj.weight", kv_width, config.width, false);
    append(prefix + "self_attn.o_proj.weight", config.width, q_width, false);
    append(prefix + "post_attention_layernorm.weight", 1, config.width, true);
    append(prefix + "mlp.gate_proj.weight", config.ffn, config.width, false);
    append(prefix + "mlp.up_proj.weight", config.ffn, config.width, false);
    append(prefix + "mlp.down_proj.weight", config.width, config.ffn, false);
  }
  append("model.norm.weight", 1, config.width, true);
  if (!tied_) append("lm_head.weight", config.vocabulary, config.width, false);
  for (std::size_t i = 0; i < infos_.size(); ++i) index_.emplace(infos_[i].name, i);
}

void ParameterTable::append(std::string name, std::int64_t rows, std::int64_t columns, bool norm) {
  const std::int64_t elements = rows * columns;  // check_config bounds both: below 2^55
  check_argument(total_ <= kMaxElements - padded(elements), "ParameterTable",
                 "expected a model of at most 2^60 parameters, got more");
  infos_.push_back({std::move(name), rows, columns, total_, !norm});
  total_ += padded(elements);
  parameters_ += elements;
}

const ParameterInfo* ParameterTable::find(std::string_view name) const {
  const auto at = index_.find(name);
  return at == index_.end() ? nullptr : &infos_[at->second];
}

std::span<const ParameterInfo> ParameterTable::layer(std::int64_t layer) const {
  RONDO_ASSERT(layer >= 0 && layer < layers_);
  return std::span(infos_).subspan(static_cast<std::size_t>(1 + kPerLayer * layer), kPerLayer);
}

std::vector<Range> ParameterTable::buckets() const {
  std::vector<Range> buckets;
  std::int64_t begin = 0;
  const auto end_at = [&](std::int64_t end) { buckets.push_back({std::exchange(begin, end), end}); };
  for (std::int64_t layer = 0; layer < layers_; ++layer) end_at(this->layer(layer).front().offset);
  end_at(final_norm().offset);
  end_at(total_);
  return buckets;
}

Range owned_part(const Range& bucket, int devices, int device) {
  constexpr std::int64_t a = ParameterTable::kAlignment;
  RONDO_ASSERT(devices >= 1 && device >= 0 && device < devices && bucket.size() % a == 0);
  const std::int64_t units = bucket.size() / a;
  // Whole units to each, and one more to the first ones: a product of units and devices could overflow.
  const auto bound = [&](std::int64_t d) {
    return bucket.begin + a * (units / devices * d + std::min(d, units % devices));
  };
  return {bound(device), bound(device + 1)};
}

std::vector<Range> parameter_groups(const ParameterTable& table, int groups) {
  check_argument(groups >= 1, "parameter_groups", "expected at least 1 group, got {}", groups);
  const std::vector<ParameterInfo>& infos = table.infos();
  const auto parameters = static_cast<std::int64_t>(infos.size());
  const std::int64_t count = std::min<std::int64_t>(groups, parameters);
  std::vector<Range> result;
  std::int64_t end = 0;
  for (std::int64_t group = 0; group < count; ++group) {
    const std::int64_t begin = end,
                       most = parameters - (count - 1 - group);  // one is left for each that follows
    const double target =
        static_cast<double>(table.total()) * static_cast<double>(group + 1) / static_cast<double>(count);
    // A parameter goes to the group in which its middle lies.
    const auto middle = [&](std::int64_t p) {
      const ParameterInfo& info = infos[static_cast<std::size_t>(p)];
      return static_cast<double>(info.offset) + static_cast<double>(info.elements()) / 2;
    };
    end = begin + 1;
    while (end < most && (group + 1 == count || middle(end) < target)) ++end;
    result.push_back({begin, end});
  }
  return result;
}

Tensor parameter_view(const ParameterInfo& info, Placed<void*> elements, DType dtype) {
  return view_of(info, elements, dtype);
}
ConstTensor parameter_view(const ParameterInfo& info, Placed<const void*> elements, DType dtype) {
  return view_of(info, elements, dtype);
}
LayerParameters<Tensor> layer_view(const ParameterTable& table, Placed<void*> elements, DType dtype,
                                   std::int64_t layer) {
  return layer_of(table, elements, dtype, layer);
}
LayerParameters<ConstTensor> layer_view(const ParameterTable& table, Placed<const void*> elements,
                                        DType dtype, std::int64_t layer) {
  return layer_of(table, elements, dtype, layer);
}
OuterParameters<Tensor> outer_view(const ParameterTable& table, void* flat, DType dtype) {
  return outer_of(table, flat, dtype);
}
OuterParameters<ConstTensor> outer_view(const ParameterTable& table, const void* flat, DType dtype) {
  return outer_of(table, flat, dtype);
}

void initialise(const ParameterTable& table, const ModelConfig& config, std::uint64_t seed,
                std::span<float> flat, ThreadPool* pool) {
  check_argument(static_cast<std::int64_t>(flat.size()) == table.total(), "initialise",
                 "expected {} elements, got {}", table.total(), flat.size());
  const std::int64_t chunks = (table.total() + kChunk - 1) / kChunk;
  const auto fill = [&](std::int64_t index, int) {
    const Range chunk{index * kChunk, std::min((index + 1) * kChunk, table.total())};
    initialise_part(
        table, config, seed, chunk,
        flat.subspan(static_cast<std::size_t>(chunk.begin), static_cast<std::size_t>(chunk.size())));
  };
  if (pool != nullptr) return pool->run(chunks, fill);
  for (std::int64_t i = 0; i < chunks; ++i) fill(i, 0);
}

void initialise_part(const ParameterTable& table, const ModelConfig& config, std::uint64_t seed,
                     const Range& elements, std::span<float> out) {
  RONDO_ASSERT(static_cast<std::int64_t>(out.size()) == elements.size());
  RONDO_ASSERT(elements.begin % ParameterTable::kAlignment == 0);
  const double residual_scale = 1 / std::sqrt(2.0 * static_cast<double>(config.layers));
  std::fill(out.begin(), out.end(), 0.0f);  // the padding
  for (std::size_t p = 0; p < table.infos().size(); ++p) {
    const ParameterInfo& info = table.infos()[p];
    const Range own{std::max(elements.begin, info.offset) - info.offset,
                    std::min(elements.end, info.offset + info.elements()) - info.offset};
    if (own.begin >= own.end) continue;
    float* at = out.data() + (info.offset + own.begin - elements.begin);
    if (info.is_norm()) {
      std::fill_n(at, own.size(), 1.0f);
    } else {
      const double deviation = config.initializer_range * (writes_residual(info) ? residual_scale : 1.0);
      fill_normal(own, deviation, philox_key(seed, p), at);
    }
  }
}

ModelFlops model_flops(const ModelConfig& config) {
  const ParameterTable table(config);
  double weights = 0;  // of all matrices that multiply; the embedding is only looked up
  for (const ParameterInfo& info : table.infos())
    if (!info.is_norm()) weights += static_cast<double>(info.elements());
  if (!table.tied()) weights -= static_cast<double>(table.embedding().elements());
  return {.linear_per_token = 2 * weights,
          .attention_per_pair = 4.0 * static_cast<double>(config.layers * config.q_heads * config.head_dim)};
}

}  // namespace rondo
