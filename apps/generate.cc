// rondo generate: a text continued.

#include "rondo/infer/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>

#include "apps/commands.h"
#include "apps/config_file.h"
#include "apps/model_source.h"
#include "apps/options.h"
#include "apps/progress.h"
#include "apps/run_failure.h"
#include "apps/start_facts.h"
#include "apps/stop.h"
#include "rondo/core/error.h"
#include "rondo/io/mapped_file.h"

namespace rondo::apps {

namespace {

struct Arguments {
  std::string model, prompt, prompt_file, config_file;
  std::int64_t max_tokens = 256, context = 0;
  SamplingOptions sampling;
  bool echo = false;
  RingArguments ring;
  SegmentArguments segments;
  ModelRunArguments run;
};

std::string read_prompt(const Arguments& arguments, const RingOptions& ring) {
  check_argument(arguments.prompt.empty() || arguments.prompt_file.empty(), "generate",
                 "expected PROMPT or --prompt-file, got both");
  if (!arguments.prompt_file.empty()) {
    const MappedFile file(arguments.prompt_file);
    return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
  }
  if (arguments.prompt != "-") return arguments.prompt;
  check_argument(!ring.processes, "generate",
                 "expected PROMPT or --prompt-file, as a launcher gives stdin to one process alone, got -");
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

void write(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0)
    throw RunFailure("the text could not be written to stdout");
}

std::string speed(std::int64_t tokens, double seconds) {
  return fmt::format("{:.1f} tok/s ({} tokens)", seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0,
                     tokens);
}

int generate(const CLI::App& command, const Arguments& arguments) {
  GenerateOptions options{
      .ring = arguments.ring.ring(),
      .layout = arguments.ring.layout(),
      .model = {.dtype = arguments.run.dtype(),
                .exchange = arguments.ring.exchange(),
                .block_tokens = arguments.run.block_tokens(),
                .segment_tokens = arguments.segments.tokens(),
                .spill = arguments.segments.spill()},
      .sampling = arguments.sampling,
      .max_tokens = arguments.max_tokens,
      .capacity = std::max<std::int64_t>(0, arguments.context),
      .fit_answer = arguments.context == kAutoContext,
      .fit_segments = !arguments.segments.spill().empty() && !arguments.segments.given(),
  };
  const bool leads = options.ring.leads();
  options.stop = &stop_on_signals(leads ? "\nstopping after this token\n" : "");
  check(options.sampling);
  const ModelSource source = open_model(arguments.model);
  const std::string prompt = read_prompt(arguments, options.ring);
  if (options.ring.processes) {
    std::vector<Fact> facts = option_facts(command, options.ring);
    facts.insert(facts.end(), {folder_fact("model", source.folder), hash_fact("prompt", prompt)});
    agree(options.ring, facts);
  }
  bool begun = false, ends_line = false;
  const auto say = [&](std::string_view text) {
    if (!begun && arguments.echo) write(prompt);
    begun = true;
    write(text);
    ends_line = text.ends_with('\n');
  };
  const GenerateResult result = generate_text(source.model, *source.tokenizer, prompt, options, say);
  if (!leads) return result.stopped ? kStoppedStatus : 0;
  if (!begun) say("");
  if (!ends_line) write("\n");
  std::fprintf(stderr, "prefill %s, decode %s%s\n",
               speed(result.prompt_tokens, result.prefill_seconds).c_str(),
               speed(result.decoded_tokens, result.decode_seconds).c_str(),
               result.ended ? ", ended by the model" : "");
  return result.stopped ? kStoppedStatus : 0;
}

void add_sampling(CLI::App& command, SamplingOptions& sampling) {
  constexpr const char* kGroup = "Sampling";
  add(command, "--temp", sampling.temperature, "Temperature; 0: always the likeliest token")
      ->check(at_least(0.0f))
      ->group(kGroup);
  add(command, "--top-k", sampling.top_k, "Only the k likeliest tokens; 0: all")
      ->check(at_least(0))
      ->group(kGroup);
  add(command, "--top-p", sampling.top_p,
      "Only the likeliest tokens that first sum to this probability; 1: all")
      ->group(kGroup);
  add(command, "--min-p", sampling.min_p, "Only tokens this many times as likely as the likeliest; 0: all")
      ->group(kGroup);
  add(command, "--seed", sampling.seed, "Seed of the choice of tokens")->check(without_sign())->group(kGroup);
}

}  // namespace

Run add_generate_command(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("generate", "Continue a text; it streams to stdout");
  command->add_option("MODEL", arguments->model, "A Hugging Face folder, a checkpoint or a run")->required();
  command->add_option("PROMPT", arguments->prompt,
                      "The text to continue, of any length; - reads stdin [none]");
  command->add_option("--prompt-file", arguments->prompt_file, "File with the text to continue [none]");
  add(*command, "-n,--max-tokens", arguments->max_tokens, "Tokens to write at most")
      ->check(between<std::int64_t>(0, kMostTokens));
  command
      ->add_option("--ctx-size", arguments->context,
                   "Tokens of prompt and answer that memory is reserved for; auto: an answer as long as "
                   "--memory-limit has room for, -n tokens at most [exactly what they need]")
      ->transform(tokens_or_auto());
  add_switch(*command, "--echo", arguments->echo, "Write the prompt in front of the answer");
  add_sampling(*command, arguments->sampling);
  arguments->run.add_to(*command);
  arguments->ring.add_to(*command);
  arguments->segments.add_to(*command);
  command->add_option("--config-file", arguments->config_file, "TOML file with options by name [none]");
  return [arguments, command] {
    if (!arguments->config_file.empty()) apply_config_file(*command, arguments->config_file);
    return generate(*command, *arguments);
  };
}

}  // namespace rondo::apps
