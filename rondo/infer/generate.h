#pragma once
// A text continued by a model over a ring: prompt in, text out as it comes.

#include <atomic>
#include <cstdint>
#include <functional>
#include <string_view>

#include "rondo/comm/device_group.h"
#include "rondo/infer/generator.h"
#include "rondo/infer/sampler.h"
#include "rondo/model/hf_folder.h"
#include "rondo/text/tokenizer.h"

namespace rondo {

struct GenerateOptions {
  RingOptions ring;
  Layout layout = Layout::zigzag;
  TransformerOptions model;
  SamplingOptions sampling;
  std::int64_t max_tokens = 256;
  std::int64_t capacity = 0;  ///< tokens of prompt and answer together; 0: exactly what they need
  /// Instead of a capacity: an answer of as many tokens as the memory limit has room for, max_tokens at most.
  bool fit_answer = false;
  /// The segments' length may change to the most, up to 8,192, that the memory limit has room for.
  bool fit_segments = false;
  /// Set from anywhere (a signal handler) to end after the token at work.
  const std::atomic<bool>* stop = nullptr;
};

struct GenerateResult {
  std::int64_t prompt_tokens = 0, new_tokens = 0;
  bool ended = false;    ///< by an eos, which is not among new_tokens
  bool stopped = false;  ///< by GenerateOptions::stop
  double prefill_seconds = 0;
  std::int64_t decoded_tokens = 0;  ///< tokens behind decode_seconds: all new ones but the last
  double decode_seconds = 0;
};

/// Continues `prompt`, in front of which stands the tokenizer's bos where it has one. The text, which any eos
/// of the model or of the tokenizer ends, is the same whatever the ring, up to rounding. `on_text` is called
/// on device 0's thread with whole characters as they are complete. Throws ArgumentError when an option is
/// out of range, the prompt is empty and there is no bos, the vocabulary is larger than the model's, or
/// prompt and answer do not fit the capacity; and before anything is loaded when they do not fit the memory
/// limit (check_fits).
GenerateResult generate_text(const LoadedModel& model, const Tokenizer& tokenizer, std::string_view prompt,
                             const GenerateOptions& options,
                             const std::function<void(std::string_view)>& on_text);

}  // namespace rondo
