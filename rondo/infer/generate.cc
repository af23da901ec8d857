#include "rondo/infer/generate.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>
#include <vector>

#include "rondo/infer/device_weights.h"
#include "rondo/plan/fit.h"

namespace rondo {

namespace {

constexpr const char* kOperation = "generate";

class Stopwatch {
 public:
  /// Seconds since construction or the last lap.
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(now - std::exchange(begin_, now)).count();
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

std::vector<std::int32_t> prompt_ids(const Tokenizer& tokenizer, std::string_view prompt) {
  std::vector<std::int32_t> ids =
      tokenizer.bos() ? tokenizer.encode_with_bos(prompt) : tokenizer.encode(prompt);
  check_argument(!ids.empty(), kOperation,
                 "expected a prompt, as the tokenizer '{}' has no token that begins a text, got none",
                 tokenizer.name());
  return ids;
}

RunShape shape_of(const LoadedModel& model, const GenerateOptions& options) {
  return {.config = model.config(),
          .purpose = Purpose::generate,
          .dtype = options.model.dtype,
          .exchange = options.model.exchange,
          .layout = options.layout,
          .block_tokens = options.model.block_tokens,
          .devices = options.ring.devices_in_all(),
          .threads = options.ring.threads,
          .between_processes = options.ring.processes != nullptr,
          .segment_tokens = options.model.segment_tokens,
          .spills = !options.model.spill.empty(),
          .isa = options.ring.isa};
}

/// The most tokens of an answer, up to `most`, with which prompt and answer fit; 0 where none do.
std::int64_t longest_answer(RunShape run, std::int64_t prompt, std::int64_t most, std::int64_t limit) {
  const auto fits = [&](std::int64_t answer) {
    run.answer_tokens = answer;
    const MemoryModel memory(run);
    return memory.peak(memory.entries(prompt + answer)) <= limit;
  };
  std::int64_t enough = 0, too_many = most + 1;
  while (too_many - enough > 1) {
    const std::int64_t middle = enough + (too_many - enough) / 2;
    (fits(middle) ? enough : too_many) = middle;
  }
  return enough;
}

/// Chooses what was left to the memory limit and refuses what does not fit it. Sets capacity and max_tokens.
void fit_memory(const LoadedModel& model, std::int64_t prompt, GenerateOptions& options) {
  RunShape run = shape_of(model, options);
  const std::int64_t limit = options.ring.memory_limit, usable = without_scratch(run, limit);
  if (options.fit_answer) {
    check_argument(limit > 0, kOperation, "expected a --memory-limit for --ctx-size auto, got none");
    // With segments that may be shorter, by the shortest there are.
    const std::int64_t answer = longest_answer(options.fit_segments ? with_shortest_segments(run) : run,
                                               prompt, options.max_tokens, usable);
    options.max_tokens = std::min(options.max_tokens, std::max<std::int64_t>(1, answer));
  }
  if (options.capacity == 0) options.capacity = prompt + options.max_tokens;
  run.answer_tokens = options.capacity - prompt;
  if (options.fit_segments && limit > 0) fit_segments(run, options.capacity, usable);
  options.model.segment_tokens = run.segment_tokens;
  check_fits(kOperation, MemoryModel(run), options.capacity, limit);
}

/// One device's loop; device 0 also writes the text and the result.
class Loop {
 public:
  Loop(const LoadedModel& model, const Tokenizer& tokenizer, const GenerateOptions& options,
       Communicator& communicator)
      : config_(model.config()), tokenizer_(tokenizer), options_(options), communicator_(communicator) {}

  GenerateResult operator()(Generator& generator, std::span<const std::int32_t> prompt,
                            const std::function<void(std::string_view)>& on_text) {
    const bool leads = communicator_.device() == 0;
    GenerateResult result{.prompt_tokens = static_cast<std::int64_t>(prompt.size())};
    Sampler sampler(options_.sampling);
    // A prompt that is more than the bos is a text begun: a leading space then belongs to what follows.
    StreamingDecoder decoder(tokenizer_, prompt.size() == 1 && tokenizer_.bos().has_value());
    const auto say = [&](const std::string& text) {
      if (leads && !text.empty() && on_text) on_text(text);
    };
    Stopwatch watch;
    std::span<const float> logits = generator.prefill(prompt);
    result.prefill_seconds = watch.lap();
    const auto vocabulary = static_cast<std::size_t>(tokenizer_.vocabulary_size());
    while (result.new_tokens < options_.max_tokens) {
      if ((result.stopped = stop_asked())) break;
      const std::int32_t token = sampler(logits.first(vocabulary), result.new_tokens);
      if ((result.ended = ends(token))) break;
      ++result.new_tokens;
      say(decoder.feed(token));
      if (result.new_tokens == options_.max_tokens) break;
      logits = generator.decode(token);
      ++result.decoded_tokens;
    }
    say(decoder.flush());
    result.decode_seconds = watch.lap();
    return result;
  }

 private:
  bool ends(std::int32_t token) const {
    return token == tokenizer_.eos() ||
           std::find(config_.eos.begin(), config_.eos.end(), token) != config_.eos.end();
  }
  /// Device 0's view of the flag, so that all devices end at the same token.
  bool stop_asked() {
    if (options_.stop == nullptr) return false;
    std::array<std::byte, 1> flag{std::byte{options_.stop->load()}};
    communicator_.broadcast(0, flag);
    return flag[0] != std::byte{0};
  }

  const ModelConfig& config_;
  const Tokenizer& tokenizer_;
  const GenerateOptions& options_;
  Communicator& communicator_;
};

}  // namespace

GenerateResult generate_text(const LoadedModel& model, const Tokenizer& tokenizer, std::string_view prompt,
                             const GenerateOptions& asked,
                             const std::function<void(std::string_view)>& on_text) {
  GenerateOptions options = asked;
  check(options.sampling);
  check_argument(options.max_tokens >= 0, kOperation, "expected at least 0 tokens to generate, got {}",
                 options.max_tokens);
  check_argument(tokenizer.vocabulary_size() <= model.config().vocabulary, kOperation,
                 "expected a tokenizer of at most the model's {} tokens, got {}", model.config().vocabulary,
                 tokenizer.vocabulary_size());
  const std::vector<std::int32_t> ids = prompt_ids(tokenizer, prompt);
  const auto prompt_tokens = static_cast<std::int64_t>(ids.size());
  check_argument(options.capacity == 0 || prompt_tokens <= options.capacity - options.max_tokens, kOperation,
                 "expected prompt and answer to fit --ctx-size {}, got {} + {} tokens", options.capacity,
                 prompt_tokens, options.max_tokens);
  fit_memory(model, prompt_tokens, options);
  const GeneratorOptions generator_options{
      .capacity = options.capacity, .layout = options.layout, .model = options.model};
  GenerateResult result;
  run_ring(options.ring, [&](Context& context, Communicator& communicator) {
    const DeviceWeights weights(context, model, options.model.dtype);
    Generator generator(context, communicator, model.config(), model.table(), weights.data(),
                        generator_options);
    const GenerateResult own = Loop(model, tokenizer, options, communicator)(generator, ids, on_text);
    if (options.ring.is_first_here(context.device)) result = own;
  });
  return result;
}

}  // namespace rondo
