# `cmake --install`: the rooms, their headers and a package for find_package(rondo). Included last, when all rooms are known.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

get_property(rooms GLOBAL PROPERTY RONDO_ROOMS)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/rondo)

# The packages behind what rooms link, found again by rondoConfig.cmake: `fmt` of fmt::fmt.
set(rondo_dependencies)
foreach(room IN LISTS rooms)
  get_target_property(libraries ${room} LINK_LIBRARIES)
  foreach(library IN LISTS libraries)
    if(library MATCHES "^([A-Za-z0-9_]+)::" AND NOT CMAKE_MATCH_1 STREQUAL "rondo")
      list(APPEND rondo_dependencies ${CMAKE_MATCH_1})
    endif()
  endforeach()
endforeach()
list(REMOVE_DUPLICATES rondo_dependencies)

install(TARGETS ${rooms} rondo_all EXPORT rondoTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT rondoTargets NAMESPACE rondo:: DESTINATION ${package_dir})
install(DIRECTORY rondo/ DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/rondo
        FILES_MATCHING PATTERN "*.h" PATTERN "kernels/cpu" EXCLUDE)

configure_package_config_file(cmake/rondoConfig.cmake.in ${PROJECT_BINARY_DIR}/rondoConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/rondoConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/rondoConfig.cmake ${PROJECT_BINARY_DIR}/rondoConfigVersion.cmake
        DESTINATION ${package_dir})
# What the package needs to find its own dependencies where they bring no package files of their own.
file(GLOB find_modules ${PROJECT_SOURCE_DIR}/cmake/Find*.cmake)
install(FILES ${find_modules} DESTINATION ${package_dir})
install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

if(TARGET rondo_command)
  install(TARGETS rondo_command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
