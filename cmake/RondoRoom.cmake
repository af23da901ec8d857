# rondo_room(NAME [PRIVATE] [SOURCES ...] [USES room ...] [LIBRARIES target ...])
#
# One folder, one static library rondo_NAME. USES names the rooms it may include: a room that is not
# named there is not linked, so a dependency cannot quietly run backwards (tests/architecture checks includes).
# A PRIVATE room is not installed and is no part of rondo_all.
function(rondo_room name)
  cmake_parse_arguments(ROOM "PRIVATE" "" "SOURCES;USES;LIBRARIES" ${ARGN})
  add_library(rondo_${name} STATIC ${ROOM_SOURCES})
  add_library(rondo::${name} ALIAS rondo_${name})
  set_target_properties(rondo_${name} PROPERTIES EXPORT_NAME ${name} POSITION_INDEPENDENT_CODE ON)
  target_compile_features(rondo_${name} PUBLIC cxx_std_20)
  target_include_directories(rondo_${name} PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>
                                                  $<INSTALL_INTERFACE:include>)
  foreach(used IN LISTS ROOM_USES)
    target_link_libraries(rondo_${name} PUBLIC rondo_${used})
  endforeach()
  target_link_libraries(rondo_${name} PUBLIC ${ROOM_LIBRARIES} PRIVATE $<BUILD_INTERFACE:rondo_build_flags>)
  if(NOT ROOM_PRIVATE)
    set_property(GLOBAL APPEND PROPERTY RONDO_ROOMS rondo_${name})
  endif()
endfunction()
