#pragma once
// Where each parameter lies in a flat buffer, and views of it. One table serves master weights, their copies
// in another dtype, gradients and optimizer moments: all are flat buffers of total() elements.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "rondo/core/tensor.h"
#include "rondo/core/thread_pool.h"
#include "rondo/model/config.h"
#include "rondo/model/weights.h"

namespace rondo {

struct ParameterInfo {
  std::string name;  ///< as in Hugging Face's files: model.layers.0.self_attn.q_proj.weight
  std::int64_t rows = 1, columns = 0;
  std::int64_t offset = 0;  ///< in elements, a multiple of ParameterTable::kAlignment
  bool decays = false;      ///< weight decay applies: to matrices, not to norms (one row, stored as a vector)

  std::int64_t elements() const { return rows * columns; }
  bool is_norm() const { return !decays; }
};

/// The parameters of one layer in forward order. Norms are [1, width]; matrices [out, in] as
/// kernels::linear_forward wants.
template <class T>
struct LayerParameters {
  T input_norm, q, k, v, o, post_norm, gate, up, down;
};

/// The parameters outside the layers. lm_head is the embedding where the two are tied.
template <class T>
struct OuterParameters {
  T embedding, final_norm, lm_head;
};

/// Parameters of a model in forward order: embedding, each layer's nine, final norm, output matrix (unless
/// tied).
class ParameterTable {
 public:
  static constexpr std::int64_t kAlignment = 16;  ///< elements; 64 bytes of float32
  static constexpr std::int64_t kPerLayer = 9;

  /// Throws ArgumentError when the configuration makes no sense or has more than 2^60 elements.
  explicit ParameterTable(const ModelConfig& config);

  const std::vector<ParameterInfo>& infos() const { return infos_; }
  std::int64_t layers() const { return layers_; }
  bool tied() const { return tied_; }
  /// Elements of a flat buffer, with the padding between parameters (always zero).
  std::int64_t total() const { return total_; }
  /// Elements without padding: "the number of parameters".
  std::int64_t parameters() const { return parameters_; }

  const ParameterInfo* find(std::string_view name) const;  ///< null when there is none
  const ParameterInfo& embedding() const { return infos_.front(); }
  const ParameterInfo& final_norm() const {
    return infos_[static_cast<std::size_t>(1 + kPerLayer * layers_)];
  }
  const ParameterInfo& lm_head() const { return tied_ ? infos_.front() : infos_.back(); }
  /// The kPerLayer parameters of a layer, in the order of LayerParameters.
  std::span<const ParameterInfo> layer(std::int64_t layer) const;
  /// Parts of the flat buffer that travel and are stored together: the embedding, each layer, then final norm
  /// and output matrix. In order, without gaps; bounds are multiples of kAlignment.
  std::vector<Range> buckets() const;

 private:
  void append(std::string name, std::int64_t rows, std::int64_t columns, bool norm);

  std::vector<ParameterInfo> infos_;
  std::unordered_map<std::string_view, std::size_t> index_;  // views of infos_' names, which never move
  std::int64_t layers_ = 0, total_ = 0, parameters_ = 0;
  bool tied_ = false;

 public:
  ParameterTable(const ParameterTable&) = delete;
  ParameterTable& operator=(const ParameterTable&) = delete;
  ParameterTable(ParameterTable&&) = default;
  ParameterTable& operator=(ParameterTable&&) = default;
};

/// The elements of a bucket that device `device` of `devices` owns where buckets are divided: near-equal
/// parts in device order, bounds multiples of ParameterTable::kAlignment. Some are empty where there are few
/// elements.
Range owned_part(const Range& bucket, int devices, int device);

/// Parameters (places in infos()) cut into at most `groups` runs of near-equal bytes, each of at least one.
std::vector<Range> parameter_groups(const ParameterTable& table, int groups);

/// Views of one parameter, of a layer's, of the others, in a flat buffer of table.total() elements of
/// `dtype`, or in as much of it as is there.
Tensor parameter_view(const ParameterInfo& info, Placed<void*> elements, DType dtype);
ConstTensor parameter_view(const ParameterInfo& info, Placed<const void*> elements, DType dtype);
LayerParameters<Tensor> layer_view(const ParameterTable& table, Placed<void*> elements, DType dtype,
                                   std::int64_t layer);
LayerParameters<ConstTensor> layer_view(const ParameterTable& table, Placed<const void*> elements,
                                        DType dtype, std::int64_t layer);
OuterParameters<Tensor> outer_view(const ParameterTable& table, void* flat, DType dtype);
OuterParameters<ConstTensor> outer_view(const ParameterTable& table, const void* flat, DType dtype);

/// Fills `flat` (table.total() elements) with new parameters: norms 1, padding 0, matrices normal(0,
/// initializer_range), those that write to the residual stream (o, down) divided by sqrt(2 * layers) (Radford
/// et al., GPT-2, 2019, section 2.3). Each number depends on the seed, the parameter's place in the table and
/// the element alone; with a pool its threads share the work and the numbers stay the same.
void initialise(const ParameterTable& table, const ModelConfig& config, std::uint64_t seed,
                std::span<float> flat, ThreadPool* pool = nullptr);
/// The same for some elements of the flat buffer: what a device needs that holds only a part. They begin at a
/// multiple of ParameterTable::kAlignment.
void initialise_part(const ParameterTable& table, const ModelConfig& config, std::uint64_t seed,
                     const Range& elements, std::span<float> out);

/// Useful floating-point operations: one multiply-add counts two; norms, rotary and softmax count nothing;
/// nothing that is recomputed counts.
struct ModelFlops {
  double linear_per_token = 0;    ///< forward products with all matrices, output matrix included
  double attention_per_pair = 0;  ///< forward, over all layers and heads, for one visible (query, key) pair

  double forward(double tokens, double visible_pairs) const {
    return tokens * linear_per_token + visible_pairs * attention_per_pair;
  }
  /// Forward and backward: the backward pass does each product twice (two gradients).
  double training(double tokens, double visible_pairs) const { return 3 * forward(tokens, visible_pairs); }
};
ModelFlops model_flops(const ModelConfig& config);

}  // namespace rondo
