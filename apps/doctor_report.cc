#include "apps/doctor_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/markdown_table.h"
#include "apps/options.h"

namespace rondo::apps {

namespace {

using Json = nlohmann::ordered_json;

std::int64_t own_tokens(const DoctorFindings& found) {
  const auto devices = static_cast<std::int64_t>(found.ring.devices.size());
  return found.model.context / devices;  // of the device with the fewest
}

std::string giga(double rate) { return fmt::format("{:.3g}", rate / 1e9); }

std::string processes_table(const RingFindings& ring) {
  MarkdownTable table({"process", "host", "devices x threads", "CPUs of the host", "may run on",
                       "NUMA domains", "instruction set", "version"});
  for (std::size_t p = 0; p < ring.processes.size(); ++p) {
    const ProcessFacts& facts = ring.processes[p];
    table.add({fmt::format("{}", p), facts.host.host, fmt::format("{} x {}", facts.devices, facts.threads),
               facts.host.host_cpus > 0 ? fmt::format("{}", facts.host.host_cpus) : "not known",
               facts.host.cpus.any() ? format_cpu_list(facts.host.cpus) : "not known",
               facts.host.numa_domains > 0 ? fmt::format("{}", facts.host.numa_domains) : "not known",
               facts.instruction_set, facts.version});
  }
  return table.text();
}

std::string devices_table(const RingFindings& ring) {
  MarkdownTable table({"device", "f32 GFLOP/s alone", "all at once", "bf16 GFLOP/s alone", "all at once",
                       "memory read GB/s"});
  for (std::size_t d = 0; d < ring.devices.size(); ++d) {
    const DeviceRates& rates = ring.devices[d];
    table.add({fmt::format("{}", d), giga(rates.f32_alone), giga(rates.f32_together), giga(rates.bf16_alone),
               giga(rates.bf16_together), giga(rates.read_together)});
  }
  return table.text();
}

std::string hops_table(const RingFindings& ring) {
  if (ring.hops.empty()) return "";
  std::vector<std::string> header = {"hop", "", "latency us"};
  for (const MessageRate& rate : ring.hops.front().messages) {
    header.push_back(fmt::format("{}: GB/s alone", format_bytes(static_cast<double>(rate.bytes))));
    header.push_back("all at once");
  }
  MarkdownTable table(header);
  for (std::size_t hop = 0; hop < ring.hops.size(); ++hop) {
    const HopRates& rates = ring.hops[hop];
    std::vector<std::string> row = {fmt::format("{} -> {}", hop, (hop + 1) % ring.hops.size()),
                                    name_of(kind_of_hop(ring, static_cast<int>(hop))),
                                    fmt::format("{:.3g}", rates.latency * 1e6)};
    for (const MessageRate& rate : rates.messages)
      row.push_back(giga(rate.alone)), row.push_back(giga(rate.together));
    table.add(std::move(row));
  }
  return table.text();
}

std::string hiding(const DoctorFindings& found) {
  if (found.needs.empty()) return "One device exchanges nothing.\n\n";
  const DoctorModel& m = found.model;
  std::string text = fmt::format(
      "Tokens per device from which attention takes as long as the exchange of {} keys and values beside it "
      "({} query heads on {} of {}):\n\n",
      name_of(m.dtype), m.heads, m.kv_heads, m.head_dim);
  const bool asked = m.context > 0;
  MarkdownTable table(asked ? std::vector<std::string>{"pass", "mask", "needed", "yours", ""}
                            : std::vector<std::string>{"pass", "mask", "needed"});
  for (const DoctorNeed& need : found.needs) {
    std::vector<std::string> row = {need.pass, need.mask, fmt::format("{:.0f}", std::ceil(need.tokens))};
    if (asked) {
      row.push_back(fmt::format("{}", own_tokens(found)));
      row.push_back(static_cast<double>(own_tokens(found)) >= need.tokens ? "enough" : "too few");
    }
    table.add(std::move(row));
  }
  text += table.text();
  text += fmt::format(
      "c >= kappa F e / (2 g B), kappa 1 full and 2 balanced causal, and the latency; with F = {}FLOP/s of "
      "the fastest device, B = {}B/s and {:.3g} us of the slowest hop while all work.\nF is what registers "
      "allow: attention reaches a part of it, and needs that much fewer tokens.\n",
      format_rate(found.slowest.flops), format_rate(found.slowest.bytes_per_second),
      found.slowest.latency * 1e6);
  if (found.ring.processes.size() == 1)
    text +=
        "Within one process the receiving device copies by itself: the numbers say where computing takes as "
        "long as that; --exchange share does without.\n";
  return text + "\n";
}

}  // namespace

DoctorFindings judge(RingFindings ring, const DoctorModel& model) {
  DoctorFindings found{.ring = std::move(ring), .warnings = {}, .model = model, .slowest = {}, .needs = {}};
  found.warnings = diagnose(found.ring);
  if (found.ring.hops.empty()) return found;
  HopModel& hop = found.slowest;
  hop = {.bytes_per_second = found.ring.hops.front().largest().together,
         .heads = model.heads,
         .kv_heads = model.kv_heads,
         .head_dim = model.head_dim,
         .dtype = model.dtype};
  for (const DeviceRates& rates : found.ring.devices)
    hop.flops = std::max(hop.flops, model.dtype == DType::f32 ? rates.f32_together : rates.bf16_together);
  for (const HopRates& rates : found.ring.hops) {
    hop.bytes_per_second = std::min(hop.bytes_per_second, rates.largest().together);
    hop.latency = std::max(hop.latency, rates.latency);
  }
  for (const bool causal : {true, false}) {
    HopModel masked = hop;
    masked.causal = causal;
    const char* mask = causal ? "causal" : "none";
    found.needs.push_back({"forward", mask, tokens_to_hide_forward(masked)});
    found.needs.push_back({"backward", mask, tokens_to_hide_backward(masked)});
  }
  return found;
}

std::string doctor_markdown(const DoctorFindings& found) {
  std::string text =
      processes_table(found.ring) + devices_table(found.ring) + hops_table(found.ring) + hiding(found);
  if (found.warnings.empty()) return text + "No warnings.\n";
  for (std::size_t n = 0; n < found.warnings.size(); ++n) {
    const Warning& warning = found.warnings[n];
    text += fmt::format("Warning {} ({}): {}.\n  why: {}.\n  do:  {}.\n", n + 1, warning.code, warning.found,
                        warning.why, warning.advice);
  }
  return text;
}

std::string doctor_json(const DoctorFindings& found) {
  const RingFindings& ring = found.ring;
  Json json{{"processes", Json::array()},
            {"devices", Json::array()},
            {"hops", Json::array()},
            {"hiding", Json::array()},
            {"warnings", Json::array()}};
  for (const ProcessFacts& p : ring.processes)
    json["processes"].push_back({{"host", p.host.host},
                                 {"processor", p.host.processor},
                                 {"devices", p.devices},
                                 {"threads", p.threads},
                                 {"cpus", format_cpu_list(p.host.cpus)},
                                 {"cores", p.host.cores.count()},
                                 {"host_cpus", p.host.host_cpus},
                                 {"numa_domains", p.host.numa_domains},
                                 {"quota_cpus", p.host.quota_cpus},
                                 {"isa", p.instruction_set},
                                 {"version", p.version},
                                 {"build", fmt::format("{:016x}", p.build)}});
  for (std::size_t d = 0; d < ring.devices.size(); ++d) {
    const DeviceRates& r = ring.devices[d];
    json["devices"].push_back({{"device", d},
                               {"process", ring.process_of(static_cast<int>(d))},
                               {"f32_flops_alone", r.f32_alone},
                               {"f32_flops_together", r.f32_together},
                               {"bf16_flops_alone", r.bf16_alone},
                               {"bf16_flops_together", r.bf16_together},
                               {"read_bytes_per_second", r.read_together}});
  }
  for (std::size_t h = 0; h < ring.hops.size(); ++h) {
    Json hop{{"from", h},
             {"to", (h + 1) % ring.hops.size()},
             {"kind", name_of(kind_of_hop(ring, static_cast<int>(h)))},
             {"latency_seconds", ring.hops[h].latency},
             {"messages", Json::array()}};
    for (const MessageRate& rate : ring.hops[h].messages)
      hop["messages"].push_back({{"bytes", rate.bytes},
                                 {"bytes_per_second_alone", rate.alone},
                                 {"bytes_per_second_together", rate.together}});
    json["hops"].push_back(std::move(hop));
  }
  for (const DoctorNeed& need : found.needs) {
    Json line{{"pass", need.pass}, {"mask", need.mask}, {"tokens_needed", need.tokens}};
    if (found.model.context > 0) line["tokens"] = own_tokens(found);
    json["hiding"].push_back(std::move(line));
  }
  for (const Warning& w : found.warnings)
    json["warnings"].push_back({{"code", w.code}, {"found", w.found}, {"why", w.why}, {"advice", w.advice}});
  return json.dump() + "\n";
}

}  // namespace rondo::apps
