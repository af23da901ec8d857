// rondo doctor: what the devices of a ring and the hops between them can do, and what is wrong with them.

#include <cstdio>
#include <memory>
#include <mutex>

#include "apps/commands.h"
#include "apps/doctor_report.h"
#include "apps/model_source.h"
#include "apps/options.h"
#include "rondo/core/error.h"
#include "rondo/kernels/peak.h"
#include "rondo/model/config.h"

namespace rondo::apps {

namespace {

struct DoctorArguments {
  RingArguments ring;
  std::string dtype = "f32", model, format = "markdown";
  DoctorModel shape;
  double seconds = 3;
};

DoctorModel model_of(const CLI::App& command, const DoctorArguments& a) {
  DoctorModel model = a.shape;
  model.dtype = a.dtype == "f32" ? DType::f32 : DType::bf16;
  if (!a.model.empty()) {
    for (const char* option : {"--heads", "--kv-heads", "--head-dim"})
      check_argument(!given(command, option), "doctor", "expected --model or {}, got both", option);
    const ModelConfig config = read_config(model_folder(a.model) / "config.json");
    model.heads = config.q_heads, model.kv_heads = config.kv_heads, model.head_dim = config.head_dim;
  }
  check_argument(model.heads % model.kv_heads == 0, "doctor",
                 "expected --heads to be a multiple of --kv-heads, got {} and {}", model.heads,
                 model.kv_heads);
  return model;
}

int doctor(const CLI::App& command, const DoctorArguments& a) {
  const DoctorModel model = model_of(command, a);
  const RingOptions ring = a.ring.ring();
  const ProcessFacts own{.host = read_host_facts(allowed_cpus()),
                         .version = RONDO_VERSION,
                         .build = program_fingerprint(),
                         .instruction_set = kernels::tier_name(ring.isa),
                         .devices = ring.devices,
                         .threads = ring.threads};
  RingFindings found;
  run_ring(ring, [&](Context& context, Communicator& communicator) {
    RingFindings seen = probe_ring(context, communicator, own, {.seconds = a.seconds});
    if (context.device == 0) found = std::move(seen);
  });
  if (!ring.leads()) return 0;
  const DoctorFindings judged = judge(std::move(found), model);
  std::fputs((a.format == "json" ? doctor_json(judged) : doctor_markdown(judged)).c_str(), stdout);
  return 0;
}

}  // namespace

Run add_doctor_command(CLI::App& app) {
  auto a = std::make_shared<DoctorArguments>();
  CLI::App* command = app.add_subcommand(
      "doctor", "Measure the devices of a ring and the hops between them, and warn about what slows them");
  add(*command, "--seconds", a->seconds, "About how long to measure, in seconds")
      ->check(between(0.01, 3600.0));
  add(*command, "--ctx-size", a->shape.context, "Context to judge, in tokens of the whole sequence; 0: none")
      ->check(between<std::int64_t>(0, kMostTokens));
  const auto extent = [&](const char* name, std::int64_t& value, const char* help) {
    add(*command, name, value, help)->check(between<std::int64_t>(1, 1 << 20));
  };
  extent("--heads", a->shape.heads, "Query heads of the model");
  extent("--kv-heads", a->shape.kv_heads, "Key/value heads; divides --heads");
  extent("--head-dim", a->shape.head_dim, "Width of a head");
  command->add_option("--model", a->model, "Model or run whose heads are meant [the options above]");
  add(*command, "--dtype", a->dtype, "Storage of keys and values")->check(one_of({"f32", "bf16"}));
  add(*command, "--format", a->format, "Markdown tables, or one JSON object")
      ->check(one_of({"markdown", "json"}));
  a->ring.add_devices_to(*command);
  return [a, command] { return doctor(*command, *a); };
}

}  // namespace rondo::apps
