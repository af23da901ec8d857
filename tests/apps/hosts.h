#pragma once
// Hosts for tests: scripts/hosts.

#include <cstdlib>
#include <string>

namespace rondo::test {

/// Hosts that are network namespaces: takes them away again.
class Hosts {
 public:
  static int run(const std::string& words) {
    return std::system((RONDO_SOURCE_DIR "/scripts/hosts " + words + " > /dev/null 2>&1").c_str());
  }
  explicit Hosts(int count, const std::string& rate = "")
      : made_(run("up " + std::to_string(count) + " " + rate) == 0) {}
  Hosts(const Hosts&) = delete;
  Hosts& operator=(const Hosts&) = delete;
  ~Hosts() {
    if (made_) run("down");
  }
  bool made() const { return made_; }

 private:
  bool made_;
};

}  // namespace rondo::test
