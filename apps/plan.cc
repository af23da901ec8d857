// rondo plan: memory, longest context and time of a run, before it runs.

#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "apps/commands.h"
#include "apps/model_source.h"
#include "apps/nearest_name.h"
#include "apps/options.h"
#include "apps/plan_report.h"
#include "rondo/core/error.h"
#include "rondo/io/atomic_file.h"
#include "rondo/io/file_error.h"
#include "rondo/io/spill.h"
#include "rondo/kernels/peak.h"
#include "rondo/plan/disk_probe.h"
#include "rondo/plan/fit.h"
#include "rondo/plan/kernel_rates.h"
#include "rondo/plan/models.h"
#include "rondo/plan/spill_time.h"

namespace rondo::apps {

namespace {

namespace fs = std::filesystem;

constexpr int kMostDevices = 100'000;
constexpr std::int64_t kSpilledSegment = 8192;

struct PlanArguments {
  std::string model, purpose = "train", hardware = "here", hardware_file, dtype = "f32", remat = "attention",
                     shard = "none", layout = "zigzag", exchange = "copy", memory_limit = "0",
                     format = "table", chart, spill;
  int devices = 1, replicas = 1, threads = 1;
  std::int64_t context = 0, block_tokens = 512, segment_tokens = 0;
  double seconds = 2, network_rate = 0, network_latency = 0, disk_rate = 0;
  FormArguments forms;
  bool one_process = false, spills = false, list = false, paper = false;
  std::shared_ptr<Processes> processes = nullptr;  ///< launched with this one, where this machine is measured
};

/// A folder with a config.json, a run, such a file itself, or a name of our own.
ModelConfig model_config(const std::string& model) {
  std::error_code error;
  if (fs::is_regular_file(model, error)) return read_config(model);
  if (fs::exists(model, error)) return read_config(model_folder(model) / "config.json");
  if (const NamedModel* named = find_named_model(model)) return named->config;
  std::vector<std::string> names;
  for (const NamedModel& named : named_models()) names.push_back(named.name);
  argument_error("plan", "expected a folder with a config.json, such a file, or one of {}, got '{}'{}",
                 fmt::join(names, ", "), model, did_you_mean(model, names));
}

std::vector<Hardware> known_hardware(const PlanArguments& a) {
  std::vector<Hardware> all;
  if (!a.hardware_file.empty()) all = read_hardware(a.hardware_file);
  for (Hardware& one : built_in_hardware()) all.push_back(std::move(one));
  return all;
}

std::int64_t segment_tokens_of(const PlanArguments& a) {
  return a.segment_tokens == 0 && a.spills ? kSpilledSegment : a.segment_tokens;
}

RunShape run_shape(const PlanArguments& a) {
  RunShape run{.config = model_config(a.model),
               .purpose = parse_purpose(a.purpose),
               .dtype = a.dtype == "f32" ? DType::f32 : DType::bf16,
               .remat = parse_remat(a.remat),
               .exchange = parse_exchange(a.exchange),
               .attention = a.forms.attention(),
               .feed_forward = a.forms.feed_forward(),
               .layout = parse_layout(a.layout),
               .shard = parse_shard(a.shard),
               .block_tokens = a.block_tokens,
               .devices = a.devices / std::max(1, a.replicas),
               .replicas = a.replicas,
               .between_processes = !a.one_process && a.devices > 1,
               .segment_tokens = segment_tokens_of(a),
               .spills = a.spills};
  check_argument(a.devices % a.replicas == 0, "plan",
                 "expected --data-parallel to divide the {} devices, got {}", a.devices, a.replicas);
  check_argument(run.purpose == Purpose::train || (run.shard == Shard::none && run.replicas == 1), "plan",
                 "expected --shard and --data-parallel with --for train, got --for {}", name_of(run.purpose));
  const bool usual =
      run.attention == AttentionForm::blockwise && run.feed_forward == FeedForwardForm::blockwise;
  check_argument(run.purpose != Purpose::generate || usual, "plan",
                 "expected --attention and --feedforward blockwise with --for generate, got {} and {}",
                 name_of(run.attention), name_of(run.feed_forward));
  check_argument(run.segment_tokens == 0 || usual, "plan",
                 "expected --attention and --feedforward blockwise for segments and --spill, got {} and {}",
                 name_of(run.attention), name_of(run.feed_forward));
  check_argument(run.exchange == Exchange::copy || a.one_process, "plan",
                 "expected --one-process with --exchange share, got devices of several processes");
  check_argument(run.segment_tokens == 0 || a.devices == 1, "plan",
                 "expected one device for segments and --spill, got {}", a.devices);
  check_argument(run.segment_tokens % kLeastSegmentStep == 0, "plan",
                 "expected --segment-tokens that are a multiple of {}, got {}", kLeastSegmentStep,
                 run.segment_tokens);
  // The tier that other hardware's kernels would have is one that multiplies bfloat16 itself.
  if (a.hardware != "here") run.isa = Isa::avx512_bf16;
  return run;
}

/// The disk of --spill's folder, by blocks of keys and values of a segment.
Disk measure_disk_here(const PlanArguments& a, const RunShape& run) {
  std::error_code error;
  check_argument(fs::is_directory(a.spill, error), "plan",
                 "expected --spill with a folder to measure, or a --disk-rate, got '{}'", a.spill);
  constexpr std::int64_t kLeast = 1 << 20, kMost = 64 << 20;
  const std::int64_t block = 2 * run.segment_tokens * run.config.kv_heads * run.config.head_dim *
                             size_of(run.dtype) / kSpillAlignment * kSpillAlignment;
  return measure_disk(a.spill, std::clamp(block, kLeast, kMost), a.seconds);
}

/// Devices of this machine, as many as share it, measured together. Null where another process speaks.
std::optional<Hardware> measure_here(const PlanArguments& a) {
  const int cpus = std::max(1, static_cast<int>(allowed_cpus().count()));
  RingOptions ring{.threads = a.threads, .processes = a.processes};
  const bool launched = ring.processes != nullptr;
  ring.devices = launched ? std::clamp(a.devices / ring.processes->size(), 1, std::max(1, cpus / a.threads))
                 : a.one_process ? std::min(a.devices, 1024)
                                 : std::min(a.devices, std::max(std::min(a.devices, 2), cpus / a.threads));
  const ProcessFacts own{.host = read_host_facts(allowed_cpus()),
                         .version = RONDO_VERSION,
                         .build = program_fingerprint(),
                         .instruction_set = kernels::tier_name(ring.isa),
                         .devices = ring.devices,
                         .threads = ring.threads};
  const ModelConfig model = model_config(a.model);
  const DType dtype = a.dtype == "f32" ? DType::f32 : DType::bf16;
  RingFindings found;
  KernelRates rates;
  run_ring(ring, [&](Context& context, Communicator& communicator) {
    RingFindings seen = probe_ring(context, communicator, own, {.seconds = a.seconds});
    const KernelRates reached = measure_kernels(context, communicator, model, dtype, a.seconds / 2);
    if (context.device == 0) found = std::move(seen), rates = reached;
  });
  if (!ring.leads()) return std::nullopt;
  int sharing = 0;
  for (const ProcessFacts& process : found.processes)
    if (process.host.host == found.processes.front().host.host) sharing += process.devices;
  const std::int64_t memory = ::sysconf(_SC_PHYS_PAGES) * ::sysconf(_SC_PAGE_SIZE);
  Hardware here = measured_hardware(found, memory / sharing);
  apply(rates, dtype, here);
  here.node_devices = sharing;
  if (!launched && !a.one_process && a.devices > 1) {
    here.node.copies_itself = here.network.copies_itself = false;
    if (a.network_rate == 0)
      std::fprintf(stderr,
                   "rondo: no network was measured, its rate is that of copies within a process; give "
                   "--network-rate, start it under mpirun, or say --one-process\n");
  }
  return here;
}

std::optional<Hardware> chosen_hardware(const PlanArguments& a) {
  std::optional<Hardware> hardware =
      a.hardware == "here" ? measure_here(a) : std::optional(find_hardware(known_hardware(a), a.hardware));
  if (!hardware) return hardware;
  if (a.network_rate > 0) {
    hardware->network.bytes_per_second = a.network_rate * 1e9;
    hardware->network.copies_itself = false;
    hardware->network.latency = a.network_latency * 1e-6;
    if (hardware->node_devices == 1) hardware->node = hardware->network;
  }
  if (a.disk_rate > 0)
    hardware->disk = {.read_bytes_per_second = a.disk_rate * 1e9,
                      .write_bytes_per_second = a.disk_rate * 1e9};
  else if (a.hardware == "here" && a.spills)
    hardware->disk = measure_disk_here(a, run_shape(a));
  return hardware;
}

/// A point of rings of so many devices.
PlanPoint point_at(const MemoryModel& memory, const Hardware& hardware, int devices, std::int64_t limit) {
  const MemoryModel ring = memory.on(devices);
  PlanPoint point{.devices = ring.run().devices_in_all(), .context = longest_context(ring, limit).tokens};
  if (point.context == 0) return point;
  const StepTime time = estimate_step(ring, hardware, point.context);
  point.seconds = time.seconds, point.mfu = time.mfu;
  return point;
}

/// Segments that were left to the memory, as train has them: the most tokens it has room for.
void choose_segments(const PlanArguments& a, std::int64_t limit, RunShape& run) {
  if (!run.spills || a.segment_tokens > 0) return;
  const MemoryModel shortest(with_shortest_segments(run));
  fit_segments(run,
               a.context > 0 ? a.context : std::max<std::int64_t>(1, longest_context(shortest, limit).tokens),
               limit);
}

PlanFindings find(const PlanArguments& a, Hardware hardware) {
  PlanFindings f{.model = a.model, .run = run_shape(a), .hardware = std::move(hardware)};
  const std::int64_t limit = parse_bytes("--memory-limit", a.memory_limit);
  f.limit = limit > 0 ? limit : f.hardware.memory;
  choose_segments(a, f.limit, f.run);
  const MemoryModel memory(f.run);
  f.parameters = memory.parameters();
  f.longest = longest_context(memory, f.limit);
  f.asked = a.context > 0;
  f.context = f.asked ? a.context : f.longest.tokens;
  f.entries = memory.entries(std::max<std::int64_t>(f.context, 1));
  f.peak = memory.peak(f.entries);
  if (f.context > 0) {
    f.simulated = f.run.devices <= kMostSimulated;
    f.time = f.simulated ? simulate_step(memory, f.hardware, f.context)
                         : estimate_step(memory, f.hardware, f.context);
  }
  if (!f.fits())
    f.fewest_devices = fewest_devices(memory, std::max<std::int64_t>(f.context, 1), f.limit, kMostDevices);
  // A machine's threads are no cluster: what is measured within one process says nothing about more devices.
  f.disk_bytes = spilled_bytes(f.run, f.context);
  const bool alone = f.run.segment_tokens > 0 || a.one_process || !f.run.may_be_a_ring();
  const int most = alone ? f.run.devices : kMostDevices / f.run.replicas;
  if (f.hardware.slowest_link(kMostDevices).bytes_per_second > 0 || most == 1)
    for (int devices = 1;; devices = std::min(2 * devices, most)) {
      f.points.push_back(point_at(memory, f.hardware, devices, f.limit));
      if (devices == most) break;
    }
  return f;
}

void print_list(const PlanArguments& a) {
  std::string text = "models:\n";
  for (const NamedModel& model : named_models())
    text += fmt::format("  {:12}{}: {}\n", model.name, model.title,
                        describe(model.config, ParameterTable(model.config).parameters()));
  text += "hardware:\n  here        this machine, measured\n";
  for (const Hardware& one : known_hardware(a)) text += fmt::format("  {:12}{}\n", one.name, one.title);
  std::fputs(text.c_str(), stdout);
}

int plan(PlanArguments a) {
  const bool json = a.format == "json";
  if (a.list) return print_list(a), 0;
  if (a.paper) return std::fputs((json ? paper_json() : paper_text()).c_str(), stdout), 0;
  check_argument(!a.model.empty(), "plan",
                 "expected a model, got none; rondo plan --list names those it knows");
  static_cast<void>(MemoryModel(run_shape(a)));  // what is wrong is said before anything is measured
  parse_bytes("--memory-limit", a.memory_limit);
  if (a.hardware == "here" && (a.processes = join_processes()) != nullptr)
    a.devices = std::max(a.devices, a.processes->size());  // at least the ring that is there
  const std::optional<Hardware> hardware = chosen_hardware(a);
  if (!hardware) return 0;
  const PlanFindings found = find(a, *hardware);
  if (!a.chart.empty()) write_file_atomically(a.chart, plan_chart(found));
  std::fputs((json ? plan_json(found) : plan_text(found)).c_str(), stdout);
  return 0;
}

void add_run_options(CLI::App& command, PlanArguments& a) {
  add(command, "--for", a.purpose, "What is planned: training, evaluation, or generation")
      ->check(one_of({"train", "eval", "generate"}));
  add(command, "--ctx-size", a.context, "Context in tokens of the whole sequence; 0: the longest that fits")
      ->check(between<std::int64_t>(0, kMostTokens));
  add(command, "--dtype", a.dtype, "Storage of activations and weights at work")
      ->check(one_of({"f32", "bf16"}));
  add(command, "--remat", a.remat,
      "Computed again in the backward pass: all of a layer, all but attention, or none")
      ->check(one_of({"layer", "attention", "none"}));
  a.forms.add_to(command);
  add(command, "--shard", a.shard,
      "What each device holds only a part of: nothing, the optimizer's state, or "
      "weights and gradients too")
      ->check(one_of({"none", "optimizer", "parameters"}));
  add(command, "--block-tokens", a.block_tokens, "Tokens of a feed-forward and loss block")
      ->check(between<std::int64_t>(1, kMostTokens));
  add(command, "--devices", a.devices, "Devices in all, up to 100000; rings of up to 1024 are simulated")
      ->check(between(1, kMostDevices));
  add(command, "--data-parallel", a.replicas,
      "Rings that the devices form, each with sequences of its own; divides the devices")
      ->check(between(1, 100'000));
  add_switch(command, "--one-process", a.one_process, "Devices are threads of one process");
  add(command, "--layout", a.layout, "Which token lives on which device")
      ->check(one_of({"contiguous", "striped", "zigzag"}));
  add(command, "--exchange", a.exchange, "How devices hand over keys and values: copied, or as views")
      ->check(one_of({"copy", "share"}));
  add(command, "--segment-tokens", a.segment_tokens,
      "Tokens that the device works on at a time, a multiple of 512; 0: all, with --spill the most, up to "
      "8192, "
      "that fit")
      ->check(between<std::int64_t>(0, kMostTokens));
  command
      .add_option("--spill", a.spill,
                  "Segments that are not worked on are on the disk; of this folder, which is measured, with "
                  "--hardware here [none]")
      ->expected(0, 1);
  add(command, "--memory-limit", a.memory_limit,
      "Most bytes a device may hold, such as 512M or 2G; 0: the hardware's memory");
}

}  // namespace

Run add_plan_command(CLI::App& app) {
  auto a = std::make_shared<PlanArguments>();
  CLI::App* command =
      app.add_subcommand("plan", "Memory by ledger entry, longest context and time of a run, before it runs");
  command->add_option("model", a->model, "Hugging Face folder, run, config.json, or a name (--list)");
  add_run_options(*command, *a);
  constexpr const char* kGroup = "Hardware";
  add(*command, "--hardware", a->hardware, "Name of a device (--list), or here: this machine, measured")
      ->group(kGroup);
  command
      ->add_option("--hardware-file", a->hardware_file,
                   "TOML file with more hardware, as docs/plan.md says [none]")
      ->group(kGroup);
  add(*command, "--network-rate", a->network_rate,
      "Rate of a device's link to other hosts in 1e9 bytes a second; 0: the hardware's")
      ->check(at_least(0.0))
      ->group(kGroup);
  add(*command, "--network-latency", a->network_latency,
      "Latency of that link in microseconds, with --network-rate")
      ->check(at_least(0.0))
      ->group(kGroup);
  add(*command, "--disk-rate", a->disk_rate,
      "Rate at which --spill reads and writes in 1e9 bytes a second; 0: the hardware's")
      ->check(at_least(0.0))
      ->group(kGroup);
  add(*command, "--threads", a->threads, "Threads per device, with --hardware here")
      ->check(between(1, 1024))
      ->group(kGroup);
  add(*command, "--seconds", a->seconds, "About how long to measure with --hardware here, in seconds")
      ->check(between(0.01, 3600.0))
      ->group(kGroup);
  add(*command, "--format", a->format, "Tables for people, or one JSON object")
      ->check(one_of({"table", "json"}));
  command->add_option("--chart", a->chart,
                      "SVG file to write: longest context and step time against devices [none]");
  add_switch(*command, "--list", a->list, "Name the models and the hardware that are known, and end");
  add_switch(*command, "--paper", a->paper,
             "Tables 2 and 3 of the Ring Attention paper beside this model, and end");
  return [a, command] {
    a->spills = given(*command, "--spill");
    return plan(*a);
  };
}

}  // namespace rondo::apps
