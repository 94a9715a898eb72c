# plumb_library(NAME DEPS … SOURCES … TESTS …): one folder of src, its tests beside it.
# *_avx2.cpp gets the flags of its level; all else is built for the base processor.
# What most sources include: parsed once for each library, not once for each source.
set(PLUMB_PRECOMPILED <fmt/format.h> <algorithm> <cmath> <filesystem> <functional> <map> <memory> <optional> <string> <vector>)

function(plumb_library name)
  cmake_parse_arguments(ARG "HEADERS_ONLY" "FOLDER" "DEPS;LIBS;SOURCES;TESTS" ${ARGN})
  if(NOT ARG_FOLDER)
    set(ARG_FOLDER ${name})
  endif()
  list(TRANSFORM ARG_SOURCES PREPEND ${CMAKE_SOURCE_DIR}/src/${ARG_FOLDER}/)
  list(TRANSFORM ARG_TESTS PREPEND ${CMAKE_SOURCE_DIR}/src/${ARG_FOLDER}/)
  list(TRANSFORM ARG_DEPS PREPEND plumb_)
  foreach(source ${ARG_SOURCES})
    if(source MATCHES "_avx2\\.cpp$")
      set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
    endif()
  endforeach()
  if(ARG_HEADERS_ONLY)
    add_library(plumb_${name} INTERFACE)
    target_link_libraries(plumb_${name} INTERFACE ${ARG_DEPS} ${ARG_LIBS})
  else()
    add_library(plumb_${name} STATIC ${ARG_SOURCES})
    target_link_libraries(plumb_${name} PUBLIC ${ARG_DEPS} ${ARG_LIBS})
    # Level files have flags of their own, with which the compiled headers do not go together.
    if(NOT name STREQUAL cpu)
      target_precompile_headers(plumb_${name} PRIVATE ${PLUMB_PRECOMPILED})
    endif()
  endif()
  set_property(GLOBAL APPEND PROPERTY PLUMB_LIBRARIES plumb_${name})
  set_property(GLOBAL APPEND PROPERTY PLUMB_UNIT_TESTS ${ARG_TESTS})
endfunction()

# plumb_embed_texts(OUTPUT.cpp PATTERN): puts the files into the program, each under its name without suffix.
function(plumb_embed_texts output pattern)
  file(GLOB texts CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${pattern})
  set(entries "")
  foreach(text ${texts})
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${text})
    get_filename_component(name ${text} NAME_WLE)
    file(READ ${text} content)
    string(APPEND entries "    {\"${name}\", R\"~(${content})~\"},\n")
  endforeach()
  list(LENGTH texts count)
  set(code "// Made by cmake/plumb.cmake from ${pattern}.
#include <array>

#include \"names/built_in_tables.h\"

namespace plumb {

std::span<const std::pair<std::string_view, std::string_view>> built_in_name_tables() {
  static constexpr std::array<std::pair<std::string_view, std::string_view>, ${count}> tables = {{
${entries}  }};
  return tables;
}

}  // namespace plumb
")
  file(CONFIGURE OUTPUT ${output} CONTENT "@code@" @ONLY)
endfunction()
