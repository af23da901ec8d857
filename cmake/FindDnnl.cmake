# Finds oneDNN by its header and library and defines the imported target Dnnl::dnnl.
#
# Distributions' own package files are not used: some pull in OpenCL's development files, which Rondo has no use for.
# Sets Dnnl_FOUND and Dnnl_VERSION. Dnnl_ROOT or CMAKE_PREFIX_PATH point at an installation elsewhere.
find_path(Dnnl_INCLUDE_DIR NAMES oneapi/dnnl/dnnl.hpp dnnl.hpp)
find_library(Dnnl_LIBRARY NAMES dnnl)
mark_as_advanced(Dnnl_INCLUDE_DIR Dnnl_LIBRARY)

foreach(header oneapi/dnnl/dnnl_version.h dnnl_version.h)
  if(Dnnl_INCLUDE_DIR AND EXISTS ${Dnnl_INCLUDE_DIR}/${header})
    file(STRINGS ${Dnnl_INCLUDE_DIR}/${header} Dnnl_version_lines REGEX "define DNNL_VERSION_(MAJOR|MINOR|PATCH) +[0-9]")
    list(TRANSFORM Dnnl_version_lines REPLACE "[^0-9]" "")
    list(JOIN Dnnl_version_lines "." Dnnl_VERSION)
    break()
  endif()
endforeach()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(Dnnl REQUIRED_VARS Dnnl_LIBRARY Dnnl_INCLUDE_DIR VERSION_VAR Dnnl_VERSION)

if(Dnnl_FOUND AND NOT TARGET Dnnl::dnnl)
  add_library(Dnnl::dnnl UNKNOWN IMPORTED)
  set_target_properties(Dnnl::dnnl PROPERTIES IMPORTED_LOCATION ${Dnnl_LIBRARY}
                                              INTERFACE_INCLUDE_DIRECTORIES ${Dnnl_INCLUDE_DIR})
endif()
