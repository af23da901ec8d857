#pragma once
// The one contract of all kernels. Whoever calls them never dereferences a tensor; whoever implements them
// knows nothing of rings, layers or files. Results do not depend on the number of threads of the stream: work
// is cut by shape alone.
//
// Legend: T query tokens, S key tokens, H query heads, G key/value heads (H a multiple of G; query head h
// reads key/value head h / (H/G)), D query and key size, E value size, N rows of a weight, K columns of a
// weight, V vocabulary. A suffix names a tensor's shape: q_THD. Unless said otherwise tensors are float32 or
// bfloat16, all "storage" tensors of one call alike, and arithmetic is float32.

#include <cstdint>
#include <span>

#include "rondo/core/random.h"
#include "rondo/core/stream.h"
#include "rondo/core/tensor.h"
#include "rondo/core/tile.h"

namespace rondo::kernels {

// ---- Attention ----
// score = scale * q·k; with softcap c > 0: score = c * tanh(score / c); then the mask (the tiles), softmax,
// dropout, ·v. Online softmax over tiles (Milakov, Gimelshein 2018; Dao et al. 2022); derivations in
// docs/maths.md.

struct Dropout {
  float probability = 0;  ///< 0 switches it off; kept probabilities are divided by 1 - probability
  PhiloxKey key{};        ///< dropout_key(seed, optimizer step, layer) of core/random.h
};

struct AttentionParams {
  float scale = 1;
  float softcap = 0;
  Dropout dropout{};
};

/// The running result of attention over the keys seen so far, float32, in the kernels' own form; holds T
/// queries of H heads. Merging is associative; a cleared state is its neutral element.
struct AttentionState {
  float* data = nullptr;
  std::int64_t tokens = 0, heads = 0, v_dim = 0;
};
/// float32 elements that a state needs.
std::int64_t attention_state_elements(std::int64_t tokens, std::int64_t heads, std::int64_t v_dim);
void attention_state_clear(Stream& stream, const AttentionState& state);
/// into = merge(into, from); correct where either or both rows have seen no key.
void attention_state_merge(Stream& stream, const AttentionState& into, const AttentionState& from);
/// out_THE = the attention output in out's dtype, lse_HT = log sum exp of the scores (natural). Rows that saw
/// nothing give 0 and -infinity. Does not change the state. lse_HT may be null.
void attention_state_finish(Stream& stream, const AttentionState& state, const Tensor& out_THE,
                            float* lse_HT);

struct AttentionForward {
  ConstTensor q_THD, k_SGD, v_SGE;
  std::span<const Tile> tiles;  ///< disjoint; ranges index q_THD's and k_SGD's tokens
  AttentionParams params;
  AttentionState state;  ///< of T tokens, H heads, E
};
/// Adds the keys of `tiles` to the state. D and E are 4...256 and may differ.
void attention_forward(Stream& stream, const AttentionForward& args);

struct AttentionDecode {
  ConstTensor q_THD, k_SGD, v_SGE;
  std::span<const Tile> tiles;  ///< disjoint; the sequences of a batch are tiles with key ranges of their own
  AttentionParams params;       ///< dropout is refused: decoding never trains
  Tensor out_THE;               ///< float32 or q's dtype
  float* lse_HT = nullptr;      ///< may be null
};
/// Finished attention of a few queries (the newest tokens of one or many sequences) over many keys: what
/// attention_forward into a cleared state and attention_state_finish would give, at the speed at which keys
/// and values can be read. Each is read once for up to 8 queries of a tile and all query heads that share it.
/// Rows that see nothing give 0 and -infinity. Split over the keys as in Flash-Decoding (Dao et al. 2023).
void attention_decode(Stream& stream, const AttentionDecode& args);

/// out_THE = the merge of finished results over disjoint keys: parts_NTHE (float32, part after part) and
/// lse_NHT are what attention_state_finish gave for each of `parts` parts; weights are exp(lse - max), summed
/// in the order of the parts.
void attention_merge_finished(Stream& stream, std::int64_t parts, const float* parts_NTHE,
                              const float* lse_NHT, const Tensor& out_THE);

/// delta_HT[h][t] = sum over E of dout * out, both as stored.
void attention_delta(Stream& stream, const ConstTensor& dout_THE, const ConstTensor& out_THE,
                     float* delta_HT);

struct AttentionBackward {
  ConstTensor q_THD, k_SGD, v_SGE, dout_THE;
  const float* lse_HT = nullptr;    ///< over *all* keys of each query, never of one block
  const float* delta_HT = nullptr;  ///< attention_delta
  std::span<const Tile> tiles;
  AttentionParams params;
  Tensor dq_THD, dk_SGD, dv_SGE;  ///< float32; the tiles' share is added
};
/// Recomputes the probabilities from q, k and lse. Rows with lse = -infinity give nothing.
void attention_backward(Stream& stream, const AttentionBackward& args);

// ---- Attention with all scores in memory ----
// As in the original Transformer (Vaswani et al. 2017), for comparison: the same result within rounding, of
// one block of keys, in memory that grows with T * S. Soft-cap and dropout are refused.

struct AttentionProbabilities {
  ConstTensor q_THD, k_SGD;
  std::span<const Tile> tiles;  ///< disjoint
  AttentionParams params;
  float* p_HTS = nullptr;  ///< overwritten: softmax over the keys that the tiles allow, 0 elsewhere
};
void attention_probabilities(Stream& stream, const AttentionProbabilities& args);

/// out_THE = p · v, in v's dtype. `widened`: float32 [S, E] of the caller's, for bfloat16 alone.
void attention_vanilla_output(Stream& stream, const float* p_HTS, const ConstTensor& v_SGE,
                              const Tensor& out_THE, float* widened);

struct AttentionVanillaBackward {
  ConstTensor q_THD, k_SGD, v_SGE, dout_THE;
  std::span<const Tile> tiles;  ///< those of p_HTS, as are the params
  AttentionParams params;
  const float* p_HTS = nullptr;   ///< attention_probabilities
  float* ds_HTS = nullptr;        ///< overwritten: gradients of p, then of q · k
  float* widened = nullptr;       ///< float32 [most of T and S, most of D and E], for bfloat16 alone
  Tensor dq_THD, dk_SGD, dv_SGE;  ///< float32, added to
};
void attention_vanilla_backward(Stream& stream, const AttentionVanillaBackward& args);

// ---- Linear layers (matrices: one head) ----

/// How a product is stored: y = product, or y += product.
enum class Store { overwrite, accumulate };

/// y_TN = x_TK · w_NK^T. x and w of one dtype; y float32 or of that dtype.
void linear_forward(Stream& stream, const ConstTensor& x_TK, const ConstTensor& w_NK, const Tensor& y_TN,
                    Store store);
/// dx_TK = dy_TN · w_NK. dy and w of one dtype; dx float32 or of that dtype.
void linear_backward_input(Stream& stream, const ConstTensor& dy_TN, const ConstTensor& w_NK,
                           const Tensor& dx_TK, Store store);
/// Whose second factor a packed weight is.
enum class WeightUse { forward, backward_input };
const char* name_of(WeightUse use);

/// A weight in the form in which the products of one use read it, in memory of the caller's. Packing costs
/// about as much as the product of 30 tokens: it pays where a weight meets many.
struct PackedWeight {
  const void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t rows = 0, columns = 0;  ///< of w_NK
  WeightUse use = WeightUse::forward;
  Isa isa = Isa::portable;  ///< of the stream that packed it; others refuse it
};
/// Bytes of the packed form of any [rows, columns]; at most those of w_NK with lines padded to 16, and twice
/// as many where the tier widens bfloat16.
std::int64_t packed_weight_bytes(Isa isa, DType dtype, std::int64_t rows, std::int64_t columns,
                                 WeightUse use);
/// Fills `memory` (packed_weight_bytes, 64-byte aligned).
PackedWeight pack_weight(Stream& stream, const ConstTensor& w_NK, WeightUse use, void* memory);

/// The same products with a packed weight; the same bits for more than 32 tokens.
void linear_forward(Stream& stream, const ConstTensor& x_TK, const PackedWeight& w_NK, const Tensor& y_TN,
                    Store store);
void linear_backward_input(Stream& stream, const ConstTensor& dy_TN, const PackedWeight& w_NK,
                           const Tensor& dx_TK, Store store);
/// dw_NK += dy_TN^T · x_TK; dw is float32.
void linear_backward_weight(Stream& stream, const ConstTensor& dy_TN, const ConstTensor& x_TK,
                            const Tensor& dw_NK);

// ---- Element-wise neighbours ----

/// y = x * w / sqrt(mean(x^2) + epsilon), row by row of [T, K]; w_K is one row. All of one dtype.
void rms_norm_forward(Stream& stream, const ConstTensor& x_TK, const ConstTensor& w_K, float epsilon,
                      const Tensor& y_TK);
/// Recomputes the row's scale from x. w_K of x's dtype; gradients float32, dw_K added to; dx may lie over dy.
void rms_norm_backward(Stream& stream, const ConstTensor& x_TK, const ConstTensor& w_K, float epsilon,
                       const ConstTensor& dy_TK, const Tensor& dx_TK, Store store_dx, const Tensor& dw_K);

/// Which elements of a head turn together: (i, i + n/2) as in Hugging Face's Llama, or (2i, 2i + 1).
enum class RotaryPairs { halves, interleaved };
enum class RotaryDirection { forward, backward };
/// Turns the first 2*pairs elements of each head in place; cos_TP and sin_TP are float32 [T, pairs]
/// (row-major), from angles computed in double (model/rotary.h). backward turns by the opposite angle: the
/// gradient of forward.
struct Rotary {
  const float* cos_TP = nullptr;
  const float* sin_TP = nullptr;
  std::int64_t pairs = 0;
  RotaryPairs layout = RotaryPairs::halves;
};
void rotary(Stream& stream, const Tensor& x_THD, const Rotary& rotary, RotaryDirection direction);

/// y = gate / (1 + exp(-gate)) * up. All of one dtype.
void swiglu_forward(Stream& stream, const ConstTensor& gate_TK, const ConstTensor& up_TK, const Tensor& y_TK);
/// All of one dtype; dgate and dup may lie over gate and up. y gets what forward gave, to the bit: backward
/// needs it once more, and it costs little beside the gradients.
struct SwigluGradients {
  Tensor dgate_TK, dup_TK, y_TK;
};
void swiglu_backward(Stream& stream, const ConstTensor& gate_TK, const ConstTensor& up_TK,
                     const ConstTensor& dy_TK, const SwigluGradients& to);

/// y[t] = table[ids[t]]; ids outside [0, V) are an ArgumentError.
void embedding_forward(Stream& stream, std::span<const std::int32_t> ids, const ConstTensor& table_VK,
                       const Tensor& y_TK);
/// dtable[ids[t]] += dy[t], in the order of t; dtable float32.
void embedding_backward(Stream& stream, std::span<const std::int32_t> ids, const ConstTensor& dy_TK,
                        const Tensor& dtable_VK);

/// Labels below this are not scored (padding-free data has none; masked prompts do).
inline constexpr std::int32_t kIgnoreLabel = -1;
/// losses[t] = log sum exp(logits[t]) - logits[t][labels[t]] in nats, 0 where ignored. logits_TV float32.
/// With `gradient_scale` != 0 the logits are replaced by gradient_scale * (softmax - onehot), 0 rows where
/// ignored.
void cross_entropy(Stream& stream, const Tensor& logits_TV, std::span<const std::int32_t> labels,
                   float gradient_scale, std::span<float> losses);

/// y = x, converting between dtypes; strides may differ.
void copy(Stream& stream, const ConstTensor& x, const Tensor& y);
/// y += x; either may be float32 or bfloat16.
void add(Stream& stream, const ConstTensor& x, const Tensor& y);
void fill_zero(Stream& stream, const Tensor& y);

// ---- Optimizer ----

/// Sum of squares in double, in an order fixed by the length alone.
double sum_of_squares(Stream& stream, std::span<const float> x);

struct AdamW {
  float learning_rate = 0, beta1 = 0.9f, beta2 = 0.95f, epsilon = 1e-8f, weight_decay = 0;
  float gradient_scale = 1;  ///< multiplies the gradient first (clipping, accumulation)
  std::int64_t step = 1;     ///< counted from 1, for the bias corrections
};
/// Loshchilov, Hutter 2019 (decoupled decay), in place on parameters and both moments.
void adamw(Stream& stream, const AdamW& settings, std::span<float> parameters,
           std::span<const float> gradients, std::span<float> first_moment, std::span<float> second_moment);

}  // namespace rondo::kernels
