// Warnings, from findings that are made up.

#include "rondo/plan/diagnose.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace rondo {
namespace {

/// A ring without faults: `processes` of one device of one thread, `on_host` of them on each host, each bound
/// to a core of its own that has one CPU.
RingFindings healthy(int processes, int on_host) {
  RingFindings found;
  for (int p = 0; p < processes; ++p) {
    ProcessFacts facts{.version = "1.0", .build = 7, .instruction_set = "avx512"};
    facts.host = {.host = "node" + std::to_string(p / on_host), .host_cpus = 64, .numa_domains = 1};
    facts.host.cpus.set(static_cast<std::size_t>(p % on_host));
    facts.host.cores = facts.host.cpus;
    found.processes.push_back(facts);
    found.devices.push_back({100e9, 95e9, 200e9, 190e9, 20e9});
    const bool within = processes <= on_host || p % on_host != on_host - 1;
    found.hops.push_back(
        {within ? 2e-6 : 30e-6, {{1 << 20, 5e9, 5e9}, {8 << 20, within ? 6e9 : 1e9, within ? 6e9 : 1e9}}});
  }
  return found;
}

std::vector<std::string> codes(const RingFindings& found) {
  std::vector<std::string> all;
  for (const Warning& warning : diagnose(found)) {
    EXPECT_FALSE(warning.found.empty() || warning.why.empty() || warning.advice.empty()) << warning.code;
    all.push_back(warning.code);
  }
  return all;
}
using Codes = std::vector<std::string>;

void expect_found(const RingFindings& found, const std::string& code, const std::vector<std::string>& words) {
  const auto warnings = diagnose(found);
  const auto at =
      std::find_if(warnings.begin(), warnings.end(), [&](const Warning& w) { return w.code == code; });
  ASSERT_NE(at, warnings.end()) << code;
  for (const std::string& word : words)
    EXPECT_NE(at->found.find(word), std::string::npos) << "'" << word << "' is not in: " << at->found;
}

TEST(Diagnosis, OfHealthyRingsIsEmpty) {
  for (const auto& [processes, on_host] : {std::pair(1, 1), {2, 1}, {4, 2}, {8, 4}})
    EXPECT_EQ(codes(healthy(processes, on_host)), Codes());
  RingFindings alone = healthy(1, 1);
  alone.hops.clear();
  EXPECT_EQ(codes(alone), Codes());
}

TEST(Diagnosis, KnowsHowNeighboursAreConnected) {
  RingFindings found = healthy(4, 2);
  EXPECT_EQ(kind_of_hop(found, 0), HopKind::host);
  EXPECT_EQ(kind_of_hop(found, 1), HopKind::network);
  EXPECT_EQ(kind_of_hop(found, 3), HopKind::network);
  found.processes.resize(2);
  for (ProcessFacts& facts : found.processes) facts.devices = 2;
  EXPECT_EQ(kind_of_hop(found, 0), HopKind::process);
  EXPECT_EQ(kind_of_hop(found, 1), HopKind::host);
}

TEST(Diagnosis, OfMoreThreadsThanCpus) {
  RingFindings found = healthy(2, 2);
  for (ProcessFacts& facts : found.processes) facts.threads = 2;
  found.processes[0].host.cpus = found.processes[0].host.cores = parse_cpu_list("4-5");
  EXPECT_EQ(codes(found), Codes{"oversubscribed"});  // process 1, as mpirun binds it: to one core
  expect_found(found, "oversubscribed", {"process 1 on node0: 2 threads on 1", "(1)"});
  found.processes[1].host.cpus = found.processes[1].host.cores = parse_cpu_list("1,9");
  EXPECT_EQ(codes(found), Codes());
}

TEST(Diagnosis, OfProcessesBoundToTheSameCpus) {
  RingFindings found = healthy(4, 2);
  found.processes[3].host.cpus = found.processes[2].host.cpus;
  found.processes[3].host.cores = found.processes[2].host.cores;
  EXPECT_EQ(codes(found), Codes{"same-cpus"});
  expect_found(found, "same-cpus", {"processes 2, 3 on node1: 2 threads on 1"});
  // The same CPUs are no harm on another host, nor are wide sets with room for all.
  found = healthy(2, 1);
  found.processes[1].host.cpus = found.processes[0].host.cpus;
  EXPECT_EQ(codes(found), Codes());
  found = healthy(3, 3);
  for (ProcessFacts& facts : found.processes) facts.host.cpus = facts.host.cores = parse_cpu_list("0-2");
  EXPECT_EQ(codes(found), Codes());
  found.processes[0].threads = 2;
  expect_found(found, "same-cpus", {"processes 0, 1, 2 on node0: 4 threads on 3"});
}

TEST(Diagnosis, OfACrowdNamesTheSmallestPlace) {
  RingFindings found = healthy(3, 3);
  // 0 and 1 share one CPU; 2 may go anywhere and finds room.
  found.processes[1].host.cpus = found.processes[1].host.cores = parse_cpu_list("0");
  found.processes[2].host.cpus = found.processes[2].host.cores = parse_cpu_list("0-7");
  EXPECT_EQ(codes(found), Codes{"same-cpus"});
  expect_found(found, "same-cpus", {"processes 0, 1 on node0: 2 threads on 1"});
}

TEST(Diagnosis, OfSiblingsOfACore) {
  RingFindings found = healthy(2, 2);
  found.processes[0].host.cpus = parse_cpu_list("0");
  found.processes[1].host.cpus = parse_cpu_list("4");
  found.processes[0].host.cores = found.processes[1].host.cores = parse_cpu_list("0");
  EXPECT_EQ(codes(found), Codes{"shared-cores"});
  expect_found(found, "shared-cores", {"processes 0, 1 on node0: 2 threads on 1"});
}

TEST(Diagnosis, OfSeveralDomainsAndQuotas) {
  RingFindings found = healthy(2, 2);
  found.processes[1].host.numa_domains = 2;
  EXPECT_EQ(codes(found), Codes{"numa"});
  expect_found(found, "numa", {"process 1"});
  found = healthy(2, 2);
  found.processes[0].host.quota_cpus = 1.5;
  expect_found(found, "quota", {"1.5 CPUs", "node0", "2 threads"});
  found.processes[0].host.quota_cpus = 2;
  EXPECT_EQ(codes(found), Codes());
}

TEST(Diagnosis, OfMixtures) {
  RingFindings found = healthy(4, 2);
  found.processes[3].instruction_set = "avx2";
  EXPECT_EQ(codes(found), Codes{"mixed-instruction-sets"});
  expect_found(found, "mixed-instruction-sets", {"avx2 on process 3", "avx512 on processes 0, 1, 2"});
  found = healthy(2, 1);
  found.processes[0].threads = 4;
  found.processes[0].host.cpus = found.processes[0].host.cores = parse_cpu_list("0-3");
  EXPECT_EQ(codes(found), Codes{"mixed-shapes"});
}

TEST(Diagnosis, OfSlowDevices) {
  RingFindings found = healthy(4, 1);
  found.devices[2] = {70e9, 68e9, 140e9, 136e9, 20e9};
  EXPECT_EQ(codes(found), Codes{"slow-device"});
  expect_found(found, "slow-device", {"device 2", "72 %"});
  found.devices[2] = found.devices[0];
  for (DeviceRates& device : found.devices) device.f32_together = 0.5 * device.f32_alone;
  EXPECT_EQ(codes(found), Codes{"slower-together"});
  expect_found(found, "slower-together", {"devices 0, 1, 2, 3", "50 %"});
}

TEST(Diagnosis, OfSlowHopsComparesLikeWithLike) {
  RingFindings found = healthy(8, 2);  // hops of 6 and of 1 GB/s: as they should be
  EXPECT_EQ(codes(found), Codes());
  found.hops[3].messages.back().together = 0.3e9;
  EXPECT_EQ(codes(found), Codes{"slow-hop"});
  expect_found(found, "slow-hop", {"device 3 to 4", "0.3 GB/s", "between hosts"});
  found.hops[7].messages.back().together = 0.4e9;
  expect_found(found, "slow-hop", {"device 3 to 4", "device 7 to 0"});
}

TEST(Diagnosis, StaysShortOnLargeRings) {
  RingFindings found = healthy(64, 1);
  for (ProcessFacts& facts : found.processes) facts.threads = 2, facts.host.numa_domains = 2;
  const auto warnings = diagnose(found);
  ASSERT_EQ(warnings.size(), 2u);
  EXPECT_LT(warnings[0].found.size() + warnings[1].found.size(), 600u);
  expect_found(found, "oversubscribed", {"and 60 more"});
  expect_found(found, "numa", {"and 56 others"});
}

}  // namespace
}  // namespace rondo
