// What is read of a host, from files made up for the purpose.

#include "rondo/plan/host.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/temporary_folder.h"

namespace rondo {
namespace {

namespace fs = std::filesystem;

TEST(CpuLists, AreReadAndWritten) {
  for (const char* text : {"0-3,8", "5", "", "0,2,4-6,1023"})
    EXPECT_EQ(format_cpu_list(parse_cpu_list(text)), text);
  EXPECT_EQ(format_cpu_list(parse_cpu_list("0-3,8\n")), "0-3,8");
  EXPECT_EQ(format_cpu_list(parse_cpu_list("3-1,x,7,2000-3000,1020-5000")), "7,1020-1023");
}

TEST(AllowedCpus, AreSome) {
  const CpuSet cpus = allowed_cpus();
  EXPECT_TRUE(cpus.any());
  const HostFacts facts = read_host_facts(cpus);
  EXPECT_FALSE(facts.host.empty());
  EXPECT_TRUE(facts.cores.any());
  EXPECT_LE(facts.cores.count(), cpus.count());
}

/// 8 CPUs: 4 cores of two siblings (0 and 4, ...), two domains of two cores.
class MadeUpHost : public testing::Test {
 protected:
  void SetUp() override {
    write("sys/devices/system/cpu/online", "0-7\n");
    for (int cpu = 0; cpu < 8; ++cpu)
      write("sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/thread_siblings_list",
            std::to_string(cpu % 4) + "," + std::to_string(cpu % 4 + 4) + "\n");
    write("sys/devices/system/node/node0/cpulist", "0-1,4-5\n");
    write("sys/devices/system/node/node1/cpulist", "2-3,6-7\n");
    write("sys/devices/system/node/nodes", "9\n");  // not a domain
    write("proc/cpuinfo", "processor\t: 0\nmodel name\t: Made-up 9000\n");
  }
  void write(const std::string& path, const std::string& text) {
    fs::create_directories((folder_ / path).parent_path());
    test::write_text(folder_ / path, text);
  }
  HostFacts read(const char* cpus) const { return read_host_facts(parse_cpu_list(cpus), folder_.path()); }
  test::TemporaryFolder folder_;
};

TEST_F(MadeUpHost, CoresAndDomains) {
  const HostFacts all = read("0-7");
  EXPECT_EQ(all.processor, "Made-up 9000");
  EXPECT_EQ(all.host_cpus, 8);
  EXPECT_EQ(format_cpu_list(all.cores), "0-3");
  EXPECT_EQ(all.numa_domains, 2);
  EXPECT_EQ(all.quota_cpus, 0);
  const HostFacts half = read("1,4,5");
  EXPECT_EQ(format_cpu_list(half.cores), "0-1");
  EXPECT_EQ(half.numa_domains, 1);
}

TEST_F(MadeUpHost, QuotasOfControlGroups) {
  write("proc/self/cgroup", "0::/job/step\n");
  write("sys/fs/cgroup/job/step/cpu.max", "max 100000\n");
  EXPECT_EQ(read("0").quota_cpus, 0);
  write("sys/fs/cgroup/job/cpu.max", "250000 100000\n");
  EXPECT_EQ(read("0").quota_cpus, 2.5);
  write("sys/fs/cgroup/job/step/cpu.max", "400000 100000\n");
  EXPECT_EQ(read("0").quota_cpus, 2.5);  // the least on the way up
  write("sys/fs/cgroup/cpu.max", "150000 100000\n");
  EXPECT_EQ(read("0").quota_cpus, 1.5);
}

TEST_F(MadeUpHost, QuotasOfTheFirstVersion) {
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(read("0").quota_cpus, 0);
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n");
  EXPECT_EQ(read("0").quota_cpus, 0.5);
}

TEST(HostFacts, OfASystemWithoutTheFiles) {
  const test::TemporaryFolder empty;
  const HostFacts facts = read_host_facts(parse_cpu_list("0,2"), empty.path());
  EXPECT_EQ(format_cpu_list(facts.cores), "0,2");
  EXPECT_EQ(facts.host_cpus, 0);
  EXPECT_EQ(facts.numa_domains, 0);
}

TEST(ProgramFingerprint, IsOfTheContent) {
  const test::TemporaryFolder folder;
  test::write_text(folder / "a", std::string(700'000, 'x'));
  test::write_text(folder / "b", std::string(700'000, 'x'));
  test::write_text(folder / "c", std::string(699'999, 'x') + "y");
  test::write_text(folder / "d", std::string(700'001, 'x'));
  const auto of = [&](const char* name) { return program_fingerprint(folder / name); };
  EXPECT_EQ(of("a"), of("b"));
  EXPECT_NE(of("a"), of("c"));
  EXPECT_NE(of("a"), of("d"));
  EXPECT_EQ(of("none"), 0u);
  EXPECT_NE(program_fingerprint(), 0u);
}

}  // namespace
}  // namespace rondo
