#pragma once
// A whole decoder of the Llama form in double precision: RMSNorm, rotary embedding, grouped-query attention,
// SwiGLU (Touvron et al., arXiv 2302.13971; shapes and names as in Hugging Face checkpoints).

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace rondo::reference {

struct LlamaConfig {
  std::int64_t vocabulary = 0, width = 0, ffn = 0, layers = 0, q_heads = 0, kv_heads = 0, head_dim = 0;
  double epsilon = 1e-5;
  /// Inverse frequencies of the rotary pairs, scaled as the model asks; empty: rotary_frequencies(head_dim,
  /// theta).
  std::vector<double> frequencies;
  double theta = 10000;
  double rotary_factor = 1;         ///< multiplies cos and sin (YaRN)
  bool rotary_interleaved = false;  ///< false: pairs (i, i + n/2) as in Hugging Face's Llama
  double attention_scale = 0;       ///< 0: 1 / sqrt(head_dim)
  double softcap = 0;
  bool tied_embedding = false;  ///< lm_head.weight is model.embed_tokens.weight
  /// Query sees key: same document, not later, and (no window, q - k < window, or among the document's
  /// first_k).
  std::int64_t window = 0, first_k = 0;
};

/// Arrays by their Hugging Face names, row-major: model.embed_tokens.weight, model.layers.N.{input_layernorm,
/// self_attn.{q,k,v,o}_proj, post_attention_layernorm, mlp.{gate,up,down}_proj}.weight, model.norm.weight,
/// lm_head.weight.
using Parameters = std::map<std::string, std::vector<double>>;

/// A pack of documents; positions restart in each and no token sees another document.
struct LlamaInput {
  std::vector<std::int32_t> tokens;
  std::vector<std::int32_t> labels;  ///< one for each token, negative is not scored; empty scores nothing
  std::vector<std::int64_t> document_starts;  ///< ascending; empty: one document
};

/// The next token of the same document, -1 at each document's end.
std::vector<std::int32_t> next_token_labels(const std::vector<std::int32_t>& tokens,
                                            const std::vector<std::int64_t>& document_starts = {});

struct LlamaResult {
  std::vector<double> logits_TV;
  std::vector<double> losses_T;  ///< negative log likelihood of each label in nats
  double loss_sum = 0;           ///< their sum
  std::int64_t scored = 0;       ///< labels that are not negative: a mean divides by it
};
/// Throws ArgumentError naming a parameter that is missing, superfluous or of the wrong size.
LlamaResult llama_forward(const LlamaConfig& config, const Parameters& parameters, const LlamaInput& input);

/// Gradients of `scale` * loss_sum by every parameter, under the same names (a tied embedding once).
Parameters llama_backward(const LlamaConfig& config, const Parameters& parameters, const LlamaInput& input,
                          double scale = 1);

/// Names and sizes of all parameters; weight matrices are [rows, columns], norms have one row.
struct ParameterShape {
  std::string name;
  std::int64_t rows = 1, columns = 0;
};
std::vector<ParameterShape> llama_parameters(const LlamaConfig& config);
/// Seeded parameters for tests: matrices normal with deviation 1/sqrt(columns), norms 1 + 0.1 * normal.
Parameters random_llama_parameters(const LlamaConfig& config, std::uint64_t seed);

}  // namespace rondo::reference
