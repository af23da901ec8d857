option(RONDO_BUILD_TESTS "Build the tests" ${PROJECT_IS_TOP_LEVEL})
option(RONDO_SLOW_TESTS "Build the slow tests too" ON)
option(RONDO_BUILD_APPS "Build the rondo command" ON)
set(RONDO_MPI "AUTO" CACHE STRING "Rings of several processes: AUTO (where there is an MPI), ON or OFF")
set(RONDO_SANITIZE "" CACHE STRING "Sanitizers to build with: empty, address,undefined or thread")
set(RONDO_CPU_TIERS "portable;avx2;avx512;avx512_bf16" CACHE STRING
    "Instruction-set tiers of the CPU kernels; one of them is chosen at run time")

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Build type" FORCE)
endif()

# What every room is compiled with; never exported to users of the installed package.
add_library(rondo_build_flags INTERFACE)
target_compile_options(rondo_build_flags INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Werror
                       # A designated initialiser that leaves a member at its default is what we write on purpose.
                       -Wno-missing-field-initializers)
if(RONDO_SANITIZE)
  # g++ 12 warns of uninitialised members inside its own <regex> once it is instrumented.
  target_compile_options(rondo_build_flags INTERFACE -Wno-maybe-uninitialized)
  add_compile_options(-fsanitize=${RONDO_SANITIZE} -fno-omit-frame-pointer -g1)
  add_link_options(-fsanitize=${RONDO_SANITIZE})
  if(RONDO_SANITIZE MATCHES "address.*undefined")
    # Most of what these find the address sanitizer finds as well. Together with alignment, which the command and the
    # tests do without, they are half of the time to compile.
    add_compile_options(-fno-sanitize=null,object-size,vptr)
    set(RONDO_LESS_SANITIZED -fno-sanitize=alignment)
  endif()
endif()
