#include "rondo/plan/hardware.h"

#define TOML_HEADER_ONLY 1
#include <fmt/ranges.h>
#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <functional>

#include "rondo/core/error.h"
#include "rondo/io/file_error.h"

namespace rondo {

namespace {

constexpr const char* kOperation = "hardware";

/// The keys of one table of the file: what was read is known, and all must be known in the end.
class Keys {
 public:
  Keys(const toml::table& table, std::string where, const std::string& origin)
      : table_(table), where_(std::move(where)), origin_(origin) {}

  std::string text(const char* key) {
    const toml::node* node = find(key);
    if (node == nullptr) return "";
    check_argument(node->is_string(), kOperation,
                   "expected a text for '{}' of [{}] in {}, got something else", key, where_, origin_);
    return node->as_string()->get();
  }
  /// A number above 0 (or `or_zero`: at least 0, and 0 where the key is missing).
  double number(const char* key, bool or_zero = false) {
    const toml::node* node = find(key);
    if (node == nullptr && or_zero) return 0;
    check_argument(node != nullptr, kOperation, "expected '{}' in [{}] of {}, got none", key, where_,
                   origin_);
    const auto value = node->value<double>();
    check_argument(node->is_number() && std::isfinite(*value) && (*value > 0 || (or_zero && *value == 0)),
                   kOperation, "expected a number {} 0 for '{}' of [{}] in {}, got {}",
                   or_zero ? "of at least" : "above", key, where_, origin_,
                   node->is_number() ? fmt::format("{}", *value) : "something else");
    return *value;
  }
  double share(const char* key) {
    const double value = number(key);
    check_argument(value <= 1, kOperation, "expected at most 1 for '{}' of [{}] in {}, got {}", key, where_,
                   origin_, value);
    return value;
  }
  /// Null where there is none.
  const toml::table* table(const char* key) {
    const toml::node* node = find(key);
    check_argument(node == nullptr || node->is_table(), kOperation, "expected a table for '{}' of [{}] in {}",
                   key, where_, origin_);
    return node == nullptr ? nullptr : node->as_table();
  }
  void finish() const {
    for (const auto& [key, node] : table_)
      check_argument(std::find(known_.begin(), known_.end(), key.str()) != known_.end(), kOperation,
                     "expected {} in [{}] of {}, got '{}'", fmt::join(known_, ", "), where_, origin_,
                     key.str());
  }

 private:
  const toml::node* find(const char* key) {
    known_.emplace_back(key);
    return table_.get(key);
  }
  const toml::table& table_;
  std::string where_;
  const std::string& origin_;
  std::vector<std::string> known_;
};

Link link_of(Keys& keys) {
  return {.bytes_per_second = keys.number("gb_per_s") * 1e9,
          .latency = keys.number("latency_us", true) * 1e-6,
          .busy_per_byte = keys.number("busy_ns_per_byte", true) * 1e-9};
}

Hardware hardware_of(const std::string& name, const toml::table& table, const std::string& origin) {
  Keys keys(table, name, origin);
  Hardware hardware{.name = name, .title = keys.text("title"), .source = keys.text("source")};
  hardware.memory = static_cast<std::int64_t>(keys.number("memory_gib") * 0x1p30);
  hardware.memory_bytes_per_second = keys.number("memory_gb_per_s") * 1e9;
  hardware.f32_flops = keys.number("f32_tflops") * 1e12;
  hardware.bf16_flops = keys.number("bf16_tflops") * 1e12;
  hardware.attention_efficiency = keys.share("attention_efficiency");
  hardware.linear_efficiency = keys.share("linear_efficiency");
  if (const toml::table* network = keys.table("network")) {
    Keys of_network(*network, name + ".network", origin);
    hardware.network = link_of(of_network);
    of_network.finish();
  }
  if (const toml::table* node = keys.table("node")) {
    Keys of_node(*node, name + ".node", origin);
    const double devices = of_node.number("devices");
    check_argument(devices == std::floor(devices) && devices <= 1 << 20, kOperation,
                   "expected a whole number of 'devices' in [{}.node] of {}, got {}", name, origin, devices);
    hardware.node_devices = static_cast<int>(devices);
    hardware.node = link_of(of_node);
    of_node.finish();
  }
  if (const toml::table* disk = keys.table("disk")) {
    Keys of_disk(*disk, name + ".disk", origin);
    hardware.disk = {.read_bytes_per_second = of_disk.number("read_gb_per_s") * 1e9,
                     .write_bytes_per_second = of_disk.number("write_gb_per_s") * 1e9};
    of_disk.finish();
  }
  keys.finish();
  check_argument(hardware.network.bytes_per_second > 0, kOperation,
                 "expected 'network' in [{}] of {}, got none", name, origin);
  if (hardware.node_devices == 1) hardware.node = hardware.network;
  return hardware;
}

}  // namespace

const Link& Hardware::link_from(int device, int devices) const {
  const int next = (device + 1) % devices;
  return device / node_devices == next / node_devices ? node : network;
}

std::vector<Hardware> parse_hardware(std::string_view text, const std::string& origin) {
  toml::table table;
  try {
    table = toml::parse(text, origin);
  } catch (const toml::parse_error& error) {
    io_error(kOperation, origin, "line {}: {}", error.source().begin.line, std::string(error.description()));
  }
  std::vector<Hardware> all;
  for (const auto& [key, node] : table) {
    const std::string name(key.str());
    check_argument(node.is_table() && name != "here", kOperation,
                   "expected tables [NAME] of hardware in {}, got '{}'{}", origin, name,
                   name == "here" ? ", which is what is measured" : "");
    all.push_back(hardware_of(name, *node.as_table(), origin));
  }
  return all;
}

std::vector<Hardware> read_hardware(const std::filesystem::path& file) {
  std::error_code error;
  check_file(std::filesystem::is_regular_file(file, error), kOperation, file,
             "expected a readable file, got none");
  std::ifstream stream(file, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  check_file(stream.good() || stream.eof(), kOperation, file, "expected a readable file, got an error");
  return parse_hardware(text, file.string());
}

std::vector<Hardware> built_in_hardware() {
  return parse_hardware(built_in_hardware_text(), "the built-in table");
}

const Hardware& find_hardware(const std::vector<Hardware>& all, std::string_view name) {
  const auto at = std::find_if(all.begin(), all.end(), [&](const Hardware& one) { return one.name == name; });
  if (at != all.end()) return *at;
  std::vector<std::string> names;
  for (const Hardware& one : all) names.push_back(one.name);
  argument_error(kOperation, "expected here or one of {}, got '{}'", fmt::join(names, ", "), name);
}

Hardware measured_hardware(const RingFindings& found, std::int64_t memory) {
  Hardware here{
      .name = "here", .title = "this machine", .source = "measured as rondo doctor does", .memory = memory};
  const auto least = [&](double DeviceRates::*rate) {
    double slowest = found.devices.front().*rate;
    for (const DeviceRates& device : found.devices) slowest = std::min(slowest, device.*rate);
    return slowest;
  };
  here.memory_bytes_per_second = least(&DeviceRates::read_together);
  here.f32_flops = least(&DeviceRates::f32_together);
  here.bf16_flops = least(&DeviceRates::bf16_together);
  // What attention and products of usual shapes reach (docs/numbers.md, "Kernels").
  here.attention_efficiency = here.attention_backward_efficiency = 0.85;
  here.linear_efficiency = 0.9;
  const bool one_process = found.processes.size() == 1;
  Link& link = here.network;
  for (const HopRates& hop : found.hops) {
    const double rate = hop.largest().together;
    link.bytes_per_second = link.bytes_per_second == 0 ? rate : std::min(link.bytes_per_second, rate);
    link.latency = std::max(link.latency, hop.latency);
  }
  link.copies_itself = one_process;
  if (!one_process)
    link.busy_per_byte = 0.5e-9;  // a nanosecond for a byte sent and received (docs/numbers.md)
  here.node = link;
  return here;
}

}  // namespace rondo
