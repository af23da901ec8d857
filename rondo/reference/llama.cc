#include "rondo/reference/llama.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "rondo/core/error.h"
#include "rondo/reference/attention.h"
#include "rondo/reference/convert.h"
#include "rondo/reference/layers.h"

namespace rondo::reference {
namespace {

using Values = std::vector<double>;

const char* const kEmbedding = "model.embed_tokens.weight";
const char* const kHead = "lm_head.weight";
const char* const kFinalNorm = "model.norm.weight";

std::string layer_name(std::int64_t layer, const char* part) {
  return "model.layers." + std::to_string(layer) + "." + part + ".weight";
}

void add(const Values& x, Values& y) {
  if (y.empty()) y.assign(x.size(), 0);
  for (std::size_t i = 0; i < y.size(); ++i) y[i] += x[i];
}

// One run of the model: the forward pass keeps what the backward pass needs.
class Run {
 public:
  Run(const LlamaConfig& config, const Parameters& parameters, const LlamaInput& input);
  LlamaResult forward();
  Parameters backward(double scale);

 private:
  // What one layer keeps. Norms and products are named after what they feed.
  struct Layer {
    Values x, attention_in, q, k, v, attention_out, x_middle, mlp_in, gate, up, hidden;
  };

  const Values& weight(std::int64_t layer, const char* part) const {
    return parameters_.at(layer_name(layer, part));
  }
  LinearShape shape(std::int64_t rows, std::int64_t columns) const { return {tokens_, rows, columns}; }
  RotaryShape rotary_shape(std::int64_t heads) const {
    return {tokens_, heads, c_.head_dim, static_cast<std::int64_t>(frequencies_.size()),
            c_.rotary_interleaved};
  }
  Values project(std::int64_t layer, const char* part, const Values& x, LinearShape shape) const {
    return linear_forward(x, weight(layer, part), shape);
  }
  // Adds the weight's gradient to gradients_ and returns that of x.
  Values project_backward(std::int64_t layer, const char* part, const Values& x, const Values& dy,
                          LinearShape shape);
  Values norm_backward(const std::string& name, const Values& x, const Values& dy);
  AttentionProblem attention(const Layer& layer) const;
  Values layer_forward(std::int64_t index, Values x);
  Values mlp_backward(std::int64_t index, Values dx);
  Values attention_backward(std::int64_t index, Values dx);

  const LlamaConfig& c_;
  const Parameters& parameters_;
  const LlamaInput& input_;
  std::int64_t tokens_, q_width_, kv_width_;
  std::vector<std::int64_t> positions_, documents_;
  Values frequencies_;
  RotaryTable table_;
  std::vector<Layer> layers_;
  Values final_x_, final_norm_, logits_;
  Parameters gradients_;
};

void check_parameters(const LlamaConfig& config, const Parameters& parameters) {
  const auto shapes = llama_parameters(config);
  for (const ParameterShape& shape : shapes) {
    const auto found = parameters.find(shape.name);
    check_argument(found != parameters.end(), "reference llama", "expected a parameter {}, got none",
                   shape.name);
    check_argument(static_cast<std::int64_t>(found->second.size()) == shape.rows * shape.columns,
                   "reference llama", "expected {} elements in {}, got {}", shape.rows * shape.columns,
                   shape.name, found->second.size());
  }
  for (const auto& [name, values] : parameters)
    check_argument(std::any_of(shapes.begin(), shapes.end(), [&](const auto& s) { return s.name == name; }),
                   "reference llama", "expected only parameters of the configuration, got {}", name);
}

Run::Run(const LlamaConfig& config, const Parameters& parameters, const LlamaInput& input)
    : c_(config),
      parameters_(parameters),
      input_(input),
      tokens_(static_cast<std::int64_t>(input.tokens.size())),
      q_width_(config.q_heads * config.head_dim),
      kv_width_(config.kv_heads * config.head_dim),
      frequencies_(config.frequencies) {
  check_parameters(config, parameters);
  check_argument(input.labels.empty() || input.labels.size() == input.tokens.size(), "reference llama",
                 "expected one label for each of {} tokens, got {}", input.tokens.size(),
                 input.labels.size());
  if (frequencies_.empty()) frequencies_ = rotary_frequencies(config.head_dim, config.theta);
  std::int64_t document = 0, start = 0;
  for (std::int64_t t = 0; t < tokens_; ++t) {
    const auto& starts = input.document_starts;
    if (t > 0 && std::find(starts.begin(), starts.end(), t) != starts.end()) ++document, start = t;
    positions_.push_back(t - start);
    documents_.push_back(document);
  }
  table_ = rotary_table(positions_, frequencies_, config.rotary_factor);
}

AttentionProblem Run::attention(const Layer& layer) const {
  AttentionProblem p;
  p.q_tokens = p.k_tokens = tokens_;
  p.q_heads = c_.q_heads, p.kv_heads = c_.kv_heads;
  p.qk_dim = p.v_dim = c_.head_dim;
  p.scale = c_.attention_scale != 0 ? c_.attention_scale : 1 / std::sqrt(static_cast<double>(c_.head_dim));
  p.softcap = c_.softcap;
  p.q_THD = layer.q, p.k_SGD = layer.k, p.v_SGE = layer.v;
  p.visible = [this](std::int64_t i, std::int64_t j) {
    const auto q = static_cast<std::size_t>(i), k = static_cast<std::size_t>(j);
    if (documents_[q] != documents_[k] || j > i) return false;
    return c_.window == 0 || i - j < c_.window || positions_[k] < c_.first_k;
  };
  return p;
}

Values Run::layer_forward(std::int64_t index, Values x) {
  Layer a;
  a.x = x;
  a.attention_in = rms_norm_forward(x, weight(index, "input_layernorm"), c_.epsilon);
  a.q = project(index, "self_attn.q_proj", a.attention_in, shape(q_width_, c_.width));
  a.k = project(index, "self_attn.k_proj", a.attention_in, shape(kv_width_, c_.width));
  a.v = project(index, "self_attn.v_proj", a.attention_in, shape(kv_width_, c_.width));
  a.q = rotary_forward(a.q, table_, rotary_shape(c_.q_heads));
  a.k = rotary_forward(a.k, table_, rotary_shape(c_.kv_heads));
  a.attention_out = attention_forward(attention(a)).out_THE;
  add(project(index, "self_attn.o_proj", a.attention_out, shape(c_.width, q_width_)), x);
  a.x_middle = x;
  a.mlp_in = rms_norm_forward(x, weight(index, "post_attention_layernorm"), c_.epsilon);
  a.gate = project(index, "mlp.gate_proj", a.mlp_in, shape(c_.ffn, c_.width));
  a.up = project(index, "mlp.up_proj", a.mlp_in, shape(c_.ffn, c_.width));
  a.hidden = swiglu_forward(a.gate, a.up);
  add(project(index, "mlp.down_proj", a.hidden, shape(c_.width, c_.ffn)), x);
  layers_.push_back(std::move(a));
  return x;
}

LlamaResult Run::forward() {
  Values x = embedding_forward(input_.tokens, parameters_.at(kEmbedding), c_.width);
  for (std::int64_t layer = 0; layer < c_.layers; ++layer) x = layer_forward(layer, std::move(x));
  final_x_ = std::move(x);
  final_norm_ = rms_norm_forward(final_x_, parameters_.at(kFinalNorm), c_.epsilon);
  const Values& head = parameters_.at(c_.tied_embedding ? kEmbedding : kHead);
  logits_ = linear_forward(final_norm_, head, shape(c_.vocabulary, c_.width));
  LlamaResult result;
  result.logits_TV = logits_;
  result.losses_T = cross_entropy_forward(logits_, input_.labels);
  result.loss_sum = std::accumulate(result.losses_T.begin(), result.losses_T.end(), 0.0);
  result.scored = std::count_if(input_.labels.begin(), input_.labels.end(), [](auto l) { return l >= 0; });
  return result;
}

Values Run::project_backward(std::int64_t layer, const char* part, const Values& x, const Values& dy,
                             LinearShape shape) {
  LinearGradients g = linear_backward(x, weight(layer, part), dy, shape);
  add(g.dw_NK, gradients_[layer_name(layer, part)]);
  return std::move(g.dx_TK);
}

Values Run::norm_backward(const std::string& name, const Values& x, const Values& dy) {
  RmsNormGradients g = rms_norm_backward(x, parameters_.at(name), c_.epsilon, dy);
  add(g.dw_K, gradients_[name]);
  return std::move(g.dx_TK);
}

Values Run::mlp_backward(std::int64_t index, Values dx) {
  const Layer& a = layers_[static_cast<std::size_t>(index)];
  const Values dhidden = project_backward(index, "mlp.down_proj", a.hidden, dx, shape(c_.width, c_.ffn));
  const SwigluGradients g = swiglu_backward(a.gate, a.up, dhidden);
  Values din = project_backward(index, "mlp.gate_proj", a.mlp_in, g.dgate, shape(c_.ffn, c_.width));
  add(project_backward(index, "mlp.up_proj", a.mlp_in, g.dup, shape(c_.ffn, c_.width)), din);
  add(norm_backward(layer_name(index, "post_attention_layernorm"), a.x_middle, din), dx);
  return dx;
}

Values Run::attention_backward(std::int64_t index, Values dx) {
  const Layer& a = layers_[static_cast<std::size_t>(index)];
  const Values dout =
      project_backward(index, "self_attn.o_proj", a.attention_out, dx, shape(c_.width, q_width_));
  AttentionGradients g = reference::attention_backward(attention(a), dout);
  const Values dq = rotary_backward(g.dq_THD, table_, rotary_shape(c_.q_heads));
  const Values dk = rotary_backward(g.dk_SGD, table_, rotary_shape(c_.kv_heads));
  Values din = project_backward(index, "self_attn.q_proj", a.attention_in, dq, shape(q_width_, c_.width));
  add(project_backward(index, "self_attn.k_proj", a.attention_in, dk, shape(kv_width_, c_.width)), din);
  add(project_backward(index, "self_attn.v_proj", a.attention_in, g.dv_SGE, shape(kv_width_, c_.width)), din);
  add(norm_backward(layer_name(index, "input_layernorm"), a.x, din), dx);
  return dx;
}

Parameters Run::backward(double scale) {
  const char* const head = c_.tied_embedding ? kEmbedding : kHead;
  Values dlogits = cross_entropy_backward(logits_, input_.labels, scale);
  dlogits.resize(logits_.size(), 0);  // without labels nothing is scored and every gradient is 0
  LinearGradients g =
      linear_backward(final_norm_, parameters_.at(head), dlogits, shape(c_.vocabulary, c_.width));
  add(g.dw_NK, gradients_[head]);
  Values dx = norm_backward(kFinalNorm, final_x_, g.dx_TK);
  for (std::int64_t layer = c_.layers - 1; layer >= 0; --layer)
    dx = attention_backward(layer, mlp_backward(layer, std::move(dx)));
  Values dtable = embedding_backward(input_.tokens, dx, c_.vocabulary);
  dtable.resize(parameters_.at(kEmbedding).size(), 0);
  add(dtable, gradients_[kEmbedding]);
  return std::move(gradients_);
}

}  // namespace

std::vector<std::int32_t> next_token_labels(const std::vector<std::int32_t>& tokens,
                                            const std::vector<std::int64_t>& document_starts) {
  std::vector<std::int32_t> labels;
  for (std::size_t t = 1; t < tokens.size(); ++t) labels.push_back(tokens[t]);
  if (!tokens.empty()) labels.push_back(-1);
  for (const std::int64_t start : document_starts)
    if (start > 0) labels.at(static_cast<std::size_t>(start - 1)) = -1;
  return labels;
}

LlamaResult llama_forward(const LlamaConfig& config, const Parameters& parameters, const LlamaInput& input) {
  return Run(config, parameters, input).forward();
}

Parameters llama_backward(const LlamaConfig& config, const Parameters& parameters, const LlamaInput& input,
                          double scale) {
  Run run(config, parameters, input);
  run.forward();
  return run.backward(scale);
}

std::vector<ParameterShape> llama_parameters(const LlamaConfig& c) {
  const std::int64_t q_width = c.q_heads * c.head_dim, kv_width = c.kv_heads * c.head_dim;
  std::vector<ParameterShape> shapes{{kEmbedding, c.vocabulary, c.width}};
  for (std::int64_t layer = 0; layer < c.layers; ++layer) {
    const auto part = [&](const char* name, std::int64_t rows, std::int64_t columns) {
      shapes.push_back({layer_name(layer, name), rows, columns});
    };
    part("input_layernorm", 1, c.width);
    part("self_attn.q_proj", q_width, c.width);
    part("self_attn.k_proj", kv_width, c.width);
    part("self_attn.v_proj", kv_width, c.width);
    part("self_attn.o_proj", c.width, q_width);
    part("post_attention_layernorm", 1, c.width);
    part("mlp.gate_proj", c.ffn, c.width);
    part("mlp.up_proj", c.ffn, c.width);
    part("mlp.down_proj", c.width, c.ffn);
  }
  shapes.push_back({kFinalNorm, 1, c.width});
  if (!c.tied_embedding) shapes.push_back({kHead, c.vocabulary, c.width});
  return shapes;
}

Parameters random_llama_parameters(const LlamaConfig& config, std::uint64_t seed) {
  Parameters parameters;
  std::uint64_t stream = 0;
  for (const ParameterShape& shape : llama_parameters(config)) {
    Values values = standard_normal(shape.rows * shape.columns, seed, stream++);
    for (double& value : values)
      value = shape.rows == 1 ? 1 + 0.1 * value : value / std::sqrt(static_cast<double>(shape.columns));
    parameters[shape.name] = std::move(values);
  }
  return parameters;
}

}  // namespace rondo::reference
