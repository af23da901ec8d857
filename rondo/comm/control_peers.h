#pragma once
// Connects every two processes by a TCP socket beside MPI: the kernel closes it when a process dies, and it
// needs nobody's progress.

#include <chrono>
#include <string>
#include <vector>

#include "rondo/comm/socket.h"

namespace rondo {

class Processes;

/// The way to another process.
struct ControlPeer {
  Socket socket;     ///< connected, non-blocking; none to this process itself
  std::string host;  ///< where it runs
};

/// One for each process, by rank. Called by all; addresses travel through `processes`. Throws
/// CommunicationError that names the process which could not be reached within `limit`.
std::vector<ControlPeer> connect_control(Processes& processes, std::chrono::milliseconds limit);

}  // namespace rondo
