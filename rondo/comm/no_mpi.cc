// In the place of mpi.cc in a build without MPI.

#include "rondo/comm/processes.h"
#include "rondo/core/error.h"

namespace rondo {

std::shared_ptr<Processes> join_processes() {
  const int launched = launched_processes();
  check_argument(launched == 1, "mpi",
                 "expected one process, as this build of Rondo has no MPI, got a launcher that started {}; "
                 "install an MPI (Debian: libopenmpi-dev) and build again",
                 launched);
  return nullptr;
}

}  // namespace rondo
