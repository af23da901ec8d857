#pragma once

#include <stdexcept>

namespace rondo::apps {

/// Work that had begun failed: exit status 1, whatever the cause.
class RunFailure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace rondo::apps
