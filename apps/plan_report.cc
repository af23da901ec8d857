#include "apps/plan_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/markdown_table.h"
#include "apps/model_source.h"
#include "apps/options.h"

namespace rondo::apps {

namespace {

using Json = nlohmann::ordered_json;

/// 1048576 -> "1,048,576"
std::string grouped(std::int64_t number) {
  const std::string digits = fmt::format("{}", number);
  std::string text;
  for (std::size_t n = 0; n < digits.size(); ++n) {
    if (n > 0 && (digits.size() - n) % 3 == 0) text += ',';
    text += digits[n];
  }
  return text;
}

std::string bytes_text(std::int64_t bytes) { return format_bytes(static_cast<double>(bytes)); }

std::string seconds_text(double seconds) {
  if (seconds >= 120) return format_duration(seconds);
  return seconds >= 0.1 ? fmt::format("{:.3g} s", seconds) : fmt::format("{:.3g} ms", seconds * 1e3);
}

std::string percent(double share) { return fmt::format("{:.1f} %", 100 * share); }

std::int64_t shard_of(const PlanFindings& found) {
  return (found.context + found.run.devices - 1) / found.run.devices;
}

/// Tokens that attention takes at a time: a device's own, or a segment's.
std::int64_t worked_on(const PlanFindings& f) {
  return f.run.spills ? std::min(f.run.segment_tokens, f.context) : shard_of(f);
}

std::string heading(const PlanFindings& f) {
  const RunShape& run = f.run;
  std::string text = fmt::format("{}: {}\n", f.model, describe(run.config, f.parameters));
  const std::string ring =
      run.devices == 1 ? "one device" : fmt::format("a ring of {} devices", grouped(run.devices));
  text += fmt::format("{} of {}\n",
                      run.replicas == 1 ? ring : fmt::format("{} times {}", grouped(run.replicas), ring),
                      f.hardware.title.empty() ? f.hardware.name : f.hardware.title);
  text += fmt::format("{}, {}, {}", name_of(run.purpose), name_of(run.dtype), name_of(run.layout));
  if (run.purpose == Purpose::train)
    text += fmt::format(", --remat {}, --shard {}", name_of(run.remat), name_of(run.shard));
  if (run.attention != AttentionForm::blockwise)
    text += fmt::format(", --attention {}", name_of(run.attention));
  if (run.feed_forward != FeedForwardForm::blockwise)
    text += fmt::format(", --feedforward {}", name_of(run.feed_forward));
  return text + "\n\n";
}

std::string memory_text(const PlanFindings& f) {
  std::string text;
  const std::int64_t tokens = std::max<std::int64_t>(f.context, 1);
  text += fmt::format("Memory of a device with a context of {} tokens, {} of them its own:\n\n",
                      grouped(tokens), grouped(std::max<std::int64_t>(shard_of(f), 1)));
  MarkdownTable table({"entry", "bytes", ""});
  for (std::size_t n = 0; n < f.entries.size(); ++n)
    if (f.entries[n] > 0)
      table.add({name_of(static_cast<Entry>(n)), bytes_text(f.entries[n]),
                 percent(static_cast<double>(f.entries[n]) /
                         static_cast<double>(std::max<std::int64_t>(1, sum_of(f.entries))))});
  table.add({"most at one time", bytes_text(f.peak),
             f.fits() ? fmt::format("of {}", bytes_text(f.limit))
                      : fmt::format("MORE than {}", bytes_text(f.limit))});
  text += table.text();
  if (f.run.spills)
    text += fmt::format("On the disk, with segments of {} tokens: {}\n", grouped(f.run.segment_tokens),
                        format_bytes(f.disk_bytes));
  if (f.longest.tokens == 0)
    return text + fmt::format(
                      "No context fits: {} alone take {}; more devices with --shard parameters, or a larger "
                      "--memory-limit\n",
                      name_of(f.longest.limits),
                      bytes_text(f.longest.entries[static_cast<std::size_t>(f.longest.limits)]));
  text += fmt::format("Longest context that fits: {} tokens, {} of a device; what limits it is {}\n",
                      grouped(f.longest.tokens), grouped(f.longest.tokens / f.run.devices),
                      name_of(f.longest.limits));
  if (!f.fits())
    text += f.fewest_devices > 0 ? fmt::format("The context fits on {} devices\n", grouped(f.fewest_devices))
                                 : std::string("The context fits on no number of devices up to 100,000\n");
  return text;
}

std::string time_text(const PlanFindings& f) {
  const StepTime& t = f.time;
  if (f.context == 0) return "";
  const char* what = f.run.purpose == Purpose::train      ? "A step"
                     : f.run.purpose == Purpose::evaluate ? "Evaluating the context"
                                                          : "Reading the prompt";
  std::string text =
      fmt::format("\n{} of {} tokens takes {} ({}):\n\n", what, grouped(f.context * f.run.replicas),
                  seconds_text(t.seconds), f.simulated ? "by simulation of the schedule" : "in closed form");
  MarkdownTable table({"part", "time", "share"});
  const auto add = [&](const char* part, double seconds) {
    if (seconds > 0) table.add({part, seconds_text(seconds), percent(seconds / t.seconds)});
  };
  add("attention", t.attention);
  add("matrix products", t.linear);
  add("norms, activations, packing", t.elementwise);
  add("optimizer", t.update);
  add("moving bytes by itself", t.moving);
  add(f.run.spills ? "waiting for the disk" : "waiting for what travels", t.exposed);
  text += table.text();
  text += fmt::format("{} tokens/s, {}FLOP/s of a device, MFU {}\n",
                      format_rate(static_cast<double>(f.context * f.run.replicas) / t.seconds),
                      format_rate(t.useful_flops / t.seconds / f.run.devices_in_all()), percent(t.mfu));
  if (t.per_token > 0) text += fmt::format("Each further token: {}\n", seconds_text(t.per_token));
  if (f.run.spills)
    text += fmt::format("The step reads {} and writes {}\n", format_bytes(t.disk_read),
                        format_bytes(t.disk_written));
  if (f.run.devices > 1 || f.run.spills) {
    const double needed = f.run.purpose == Purpose::train
                              ? std::max(t.tokens_to_hide_forward, t.tokens_to_hide_backward)
                              : t.tokens_to_hide_forward;
    text += fmt::format("Tokens of a {}: forward {}",
                        f.run.spills ? "segment that hide the disk" : "device that hide the exchange",
                        grouped(std::llround(std::ceil(t.tokens_to_hide_forward))));
    if (f.run.purpose == Purpose::train)
      text += fmt::format(", backward {}", grouped(std::llround(std::ceil(t.tokens_to_hide_backward))));
    text += fmt::format("; yours {}: {}\n", grouped(worked_on(f)),
                        static_cast<double>(worked_on(f)) >= needed ? "enough" : "too few");
  }
  if (f.run.devices > 1) {
    text += fmt::format("Each device sends {} in a step\n", format_bytes(t.sent_per_device));
  }
  return text + fmt::format("What limits: {}\n", f.fits() ? name_of(t.bound) : "memory");
}

std::string points_text(const PlanFindings& f) {
  std::string text = "\nBy devices, each at the longest context that fits (in closed form):\n\n";
  MarkdownTable table({"devices", "longest context", "step", "MFU"});
  for (const PlanPoint& point : f.points)
    if (point.context == 0)
      table.add({grouped(point.devices), "none", "", ""});
    else
      table.add(
          {grouped(point.devices), grouped(point.context), seconds_text(point.seconds), percent(point.mfu)});
  return text + table.text();
}

Json json_of(const Link& link) {
  return {{"bytes_per_second", link.bytes_per_second}, {"latency_seconds", link.latency}};
}

Json json_of(const EntryBytes& entries) {
  Json json = Json::object();
  for (std::size_t n = 0; n < entries.size(); ++n)
    if (entries[n] > 0) json[name_of(static_cast<Entry>(n))] = entries[n];
  return json;
}

Json time_json(const PlanFindings& f) {
  const StepTime& t = f.time;
  Json json{{"method", f.simulated ? "simulation" : "closed form"},
            {"seconds", t.seconds},
            {"computing_seconds", t.computing},
            {"exposed_seconds", t.exposed},
            {"attention_seconds", t.attention},
            {"linear_seconds", t.linear},
            {"elementwise_seconds", t.elementwise},
            {"update_seconds", t.update},
            {"moving_seconds", t.moving},
            {"tokens_per_second", static_cast<double>(f.context * f.run.replicas) / t.seconds},
            {"useful_flops", t.useful_flops},
            {"mfu", t.mfu},
            {"sent_bytes_per_device", t.sent_per_device}};
  if (t.per_token > 0) json["seconds_per_token"] = t.per_token;
  if (f.run.devices > 1 || f.run.spills)
    json["tokens_to_hide"] = {{"forward", t.tokens_to_hide_forward},
                              {"backward", t.tokens_to_hide_backward},
                              {"yours", worked_on(f)}};
  if (f.run.spills) json["disk"] = {{"read_bytes", t.disk_read}, {"written_bytes", t.disk_written}};
  return json;
}

}  // namespace

std::string plan_text(const PlanFindings& f) {
  return heading(f) + memory_text(f) + time_text(f) + points_text(f);
}

std::string plan_json(const PlanFindings& f) {
  const RunShape& run = f.run;
  Json json{{"model", {{"name", f.model}, {"parameters", f.parameters}}},
            {"hardware",
             {{"name", f.hardware.name},
              {"title", f.hardware.title},
              {"memory", f.hardware.memory},
              {"memory_bytes_per_second", f.hardware.memory_bytes_per_second},
              {"f32_flops", f.hardware.f32_flops},
              {"bf16_flops", f.hardware.bf16_flops},
              {"attention_efficiency", f.hardware.attention_efficiency},
              {"linear_efficiency", f.hardware.linear_efficiency},
              {"node_devices", f.hardware.node_devices},
              {"node", json_of(f.hardware.node)},
              {"network", json_of(f.hardware.network)},
              {"disk",
               {{"read_bytes_per_second", f.hardware.disk.read_bytes_per_second},
                {"write_bytes_per_second", f.hardware.disk.write_bytes_per_second}}}}},
            {"run",
             {{"purpose", name_of(run.purpose)},
              {"devices", run.devices_in_all()},
              {"data_parallel", run.replicas},
              {"dtype", run.dtype == DType::f32 ? "f32" : "bf16"},
              {"remat", name_of(run.remat)},
              {"shard", name_of(run.shard)},
              {"layout", name_of(run.layout)},
              {"exchange", name_of(run.exchange)},
              {"attention", name_of(run.attention)},
              {"feedforward", name_of(run.feed_forward)},
              {"block_tokens", run.block_tokens},
              {"segment_tokens", run.segment_tokens},
              {"spills", run.spills},
              {"one_process", !run.between_processes}}},
            {"context", f.context},
            {"memory",
             {{"limit", f.limit},
              {"peak", f.peak},
              {"fits", f.fits()},
              {"entries", json_of(f.entries)},
              {"disk_bytes", f.disk_bytes}}},
            {"longest_context", {{"tokens", f.longest.tokens}, {"limited_by", name_of(f.longest.limits)}}}};
  if (!f.fits()) json["fewest_devices"] = f.fewest_devices > 0 ? Json(f.fewest_devices) : Json(nullptr);
  if (f.context > 0) {
    json["time"] = time_json(f);
    json["limited_by"] = f.fits() ? name_of(f.time.bound) : "memory";
  }
  json["by_devices"] = Json::array();
  for (const PlanPoint& point : f.points)
    json["by_devices"].push_back({{"devices", point.devices},
                                  {"longest_context", point.context},
                                  {"seconds", point.seconds},
                                  {"mfu", point.mfu}});
  return json.dump(2) + "\n";
}

}  // namespace rondo::apps
