#pragma once
// What devices and the links between them can do: from the table that ships with Rondo, from a file like it,
// or measured here.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "rondo/core/dtype.h"
#include "rondo/plan/probe.h"

namespace rondo {

/// Between a device and the next one round the ring.
struct Link {
  double bytes_per_second = 0;  ///< in one direction while all devices send
  double latency = 0;           ///< seconds until the first byte of a message has arrived
  double busy_per_byte = 0;     ///< seconds of the device itself for each byte sent or received
  /// The receiving device copies by itself when it waits: nothing travels beside its computation.
  bool copies_itself = false;
};

/// Where --spill puts what is not worked on: rates of large blocks, checksums included. 0: none is known.
struct Disk {
  double read_bytes_per_second = 0, write_bytes_per_second = 0;
};

/// Devices that are all alike.
struct Hardware {
  std::string name, title, source;
  std::int64_t memory = 0;               ///< bytes of a device
  double memory_bytes_per_second = 0;    ///< of a device
  double f32_flops = 0, bf16_flops = 0;  ///< peak of a device, operations per second
  /// Parts of the peak that kernels reach. Backward attention may differ from forward; 0: alike.
  double attention_efficiency = 0, attention_backward_efficiency = 0, linear_efficiency = 0;
  int node_devices = 1;  ///< devices joined by `node`; neighbours of different nodes are joined by `network`
  Link node, network;
  Disk disk;

  double peak(DType dtype) const { return dtype == DType::f32 ? f32_flops : bf16_flops; }
  /// The slowest link of a ring of so many devices, the one that an exchange waits for. Of one device: none.
  const Link& slowest_link(int devices) const { return devices > node_devices ? network : node; }
  /// From ring device `device` to the next one.
  const Link& link_from(int device, int devices) const;
};

/// The text of a table as rondo/plan/hardware.toml explains it. `origin` names it in messages. IoError for
/// what is no TOML, ArgumentError naming a key that is unknown, missing, or whose value makes no sense.
std::vector<Hardware> parse_hardware(std::string_view text, const std::string& origin);
/// parse_hardware of a file; IoError when it cannot be read.
std::vector<Hardware> read_hardware(const std::filesystem::path& file);
/// The table that ships with Rondo.
const char* built_in_hardware_text();
std::vector<Hardware> built_in_hardware();

/// The one of that name; ArgumentError naming all there are.
const Hardware& find_hardware(const std::vector<Hardware>& all, std::string_view name);

/// What `rondo doctor` found of a ring, as hardware of its slowest device and hop. `memory` is a device's.
Hardware measured_hardware(const RingFindings& found, std::int64_t memory);

}  // namespace rondo
