#pragma once
// Devices that do something together in which each may fail: all learn of it, and none is left alone.

#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include "rondo/comm/communicator.h"
#include "rondo/core/error.h"

namespace rondo {

/// What each device says, on every device: collective. Cut off after 1,000 bytes.
std::vector<std::string> gather_words(Communicator& communicator, const std::string& own);

/// Device 0's path on every device: collective. At most 4,095 bytes, the system's own limit.
std::filesystem::path broadcast_path(Communicator& communicator, const std::filesystem::path& own);

/// Runs `work` and returns what a failure in it says, else nothing. CommunicationError is thrown on: the ring
/// itself broke, and nobody can be told.
template <class Work>
std::string failure_of(Work&& work) {
  try {
    work();
    return "";
  } catch (const CommunicationError&) {
    throw;
  } catch (const std::exception& error) {
    return error.what();
  }
}

/// Throws the same IoError on every device when one of them failed: "[operation] device D could not DO:
/// WORDS". Collective.
void agree(Communicator& communicator, const std::string& own_failure, const char* operation,
           const char* could_not);

}  // namespace rondo
