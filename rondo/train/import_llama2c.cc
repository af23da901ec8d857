#include "rondo/train/import_llama2c.h"

#include <algorithm>
#include <vector>

#include "rondo/core/error.h"
#include "rondo/io/atomic_file.h"
#include "rondo/io/file_error.h"
#include "rondo/io/llama2c.h"
#include "rondo/model/hf_folder.h"
#include "rondo/text/llama2c.h"

namespace rondo {

namespace fs = std::filesystem;

namespace {

constexpr const char* kOperation = "import";

ModelConfig config_of(const Llama2cHeader& header, const Tokenizer& tokenizer) {
  return {.vocabulary = header.vocabulary,
          .width = header.dim,
          .ffn = header.hidden_dim,
          .layers = header.layers,
          .q_heads = header.heads,
          .kv_heads = header.kv_heads,
          .head_dim = header.head_dim(),
          .max_positions = header.context,
          .rope_theta = 10000,
          .rms_epsilon = 1e-5f,
          .tied_embedding = header.shared_classifier,
          .bos = tokenizer.bos().value_or(-1),
          .eos = tokenizer.eos() ? std::vector<int>{*tokenizer.eos()} : std::vector<int>{}};
}

std::vector<float> flat_parameters(const Llama2cWeights& weights, const ParameterTable& table) {
  std::vector<float> flat(static_cast<std::size_t>(table.total()));
  const auto put = [&](const ParameterInfo& info, std::span<const float> values) {
    RONDO_ASSERT(static_cast<std::int64_t>(values.size()) == info.elements());
    std::copy(values.begin(), values.end(), flat.begin() + info.offset);
  };
  const Llama2cHeader& h = weights.header;
  const auto halves = [&](std::span<const float> w, std::int64_t heads) {
    return permute_rotary_rows_to_halves(w, heads, h.head_dim(), h.dim);
  };
  put(table.embedding(), weights.embedding);
  for (std::int64_t l = 0; l < h.layers; ++l) {
    const auto infos = table.layer(l);  // input_norm, q, k, v, o, post_norm, gate, up, down
    put(infos[0], weights.layer(weights.attention_norm, l));
    put(infos[1], halves(weights.layer(weights.wq, l), h.heads));
    put(infos[2], halves(weights.layer(weights.wk, l), h.kv_heads));
    put(infos[3], weights.layer(weights.wv, l));
    put(infos[4], weights.layer(weights.wo, l));
    put(infos[5], weights.layer(weights.ffn_norm, l));
    put(infos[6], weights.layer(weights.w1, l));
    put(infos[7], weights.layer(weights.w3, l));
    put(infos[8], weights.layer(weights.w2, l));
  }
  put(table.final_norm(), weights.final_norm);
  if (!table.tied()) put(table.lm_head(), weights.output);
  return flat;
}

}  // namespace

void import_llama2c(const fs::path& model, const fs::path& tokenizer_file, const fs::path& out) {
  const Llama2cWeights weights(model);
  const BpeTokenizer tokenizer = import_llama2c_tokenizer(tokenizer_file);
  check_argument(tokenizer.vocabulary_size() == weights.header.vocabulary, kOperation,
                 "expected a tokenizer of {} tokens in {}, as {} has, got {}", weights.header.vocabulary,
                 tokenizer_file.string(), model.string(), tokenizer.vocabulary_size());
  std::error_code error;
  if (fs::exists(out, error))
    check_file(fs::is_directory(out, error) && fs::is_empty(out, error), kOperation, out,
               "expected a new or empty folder, got one (or a file) with content");
  const ModelConfig config = config_of(weights.header, tokenizer);
  const ParameterTable table(config);
  AtomicDirectory folder(out);
  save_model_files(folder.temporary_path(), config, table, flat_parameters(weights, table), DType::f32);
  tokenizer.save(folder.temporary_path());
  folder.commit();
}

}  // namespace rondo
