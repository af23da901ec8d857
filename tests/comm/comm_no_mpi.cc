// A build without MPI: the file that CMake takes then, in the place of the library's.

#include <gtest/gtest.h>

#include <cstdlib>

#include "rondo/comm/processes.h"
#include "rondo/core/error.h"

namespace rondo {
namespace {

TEST(WithoutMpi, OneProcessRunsAndALaunchOfSeveralIsRefused) {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"}) ::unsetenv(name);
  EXPECT_EQ(join_processes(), nullptr);
  ::setenv("OMPI_COMM_WORLD_SIZE", "3", 1);
  try {
    join_processes();
    FAIL() << "three processes that each see one";
  } catch (const ArgumentError& error) {
    const std::string words = error.what();
    for (const char* part : {"has no MPI", "a launcher that started 3", "libopenmpi-dev"})
      EXPECT_NE(words.find(part), std::string::npos) << words;
  }
}

}  // namespace
}  // namespace rondo
