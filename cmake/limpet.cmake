# Functions the folders' CMakeLists share.

find_program(LIMPET_CCACHE ccache)
if(LIMPET_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${LIMPET_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${LIMPET_CCACHE})
endif()

# What every target of ours is compiled with; carried by this interface library.
add_library(limpet_flags INTERFACE)
target_compile_features(limpet_flags INTERFACE cxx_std_20)
target_include_directories(limpet_flags INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(limpet_flags INTERFACE -Wall -Wextra -Werror -ffp-contract=off
  -ffile-prefix-map=${PROJECT_SOURCE_DIR}/=)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  # g++ 12 warns of overlaps in std::string's own operator+ that cannot be (GCC bug 105651).
  target_compile_options(limpet_flags INTERFACE -Wno-restrict)
endif()
if(LIMPET_SANITIZE)
  target_compile_options(limpet_flags INTERFACE -fsanitize=${LIMPET_SANITIZE}
    -fno-omit-frame-pointer -fno-sanitize-recover=undefined -g1)
  target_link_options(limpet_flags INTERFACE -fsanitize=${LIMPET_SANITIZE})
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    # Instrumented code makes g++ see uninitialized members of variants that are there (bug 105562).
    target_compile_options(limpet_flags INTERFACE -Wno-maybe-uninitialized)
  endif()
endif()
if(LIMPET_FUZZ)
  target_compile_options(limpet_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()

# limpet_add_library(<name> SOURCES ... [PUBLIC ...] [PRIVATE ...]): a static library of ours.
function(limpet_add_library name)
  cmake_parse_arguments(L "" "" "SOURCES;PUBLIC;PRIVATE" ${ARGN})
  add_library(${name} STATIC ${L_SOURCES})
  target_link_libraries(${name} PUBLIC limpet_flags ${L_PUBLIC} PRIVATE ${L_PRIVATE})
endfunction()

# limpet_add_program(<name> SOURCES ... LIBS ...): an executable in bin/.
function(limpet_add_program name)
  cmake_parse_arguments(P "" "" "SOURCES;LIBS" ${ARGN})
  add_executable(${name} ${P_SOURCES})
  target_link_libraries(${name} PRIVATE limpet_flags ${P_LIBS})
endfunction()

# limpet_add_test(<name> SOURCES ... LIBS ... [ARGS ...]): a GoogleTest program, run whole by ctest.
# The project's root is its working directory, so tests name data as models/… and tests/golden/….
function(limpet_add_test name)
  cmake_parse_arguments(T "" "TIMEOUT" "SOURCES;LIBS;ARGS" ${ARGN})
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 300)
  endif()
  add_executable(${name} ${T_SOURCES})
  target_link_libraries(${name} PRIVATE limpet_flags ${T_LIBS} GTest::gmock GTest::gtest_main)
  add_test(NAME ${name} COMMAND ${name} ${T_ARGS} WORKING_DIRECTORY ${PROJECT_SOURCE_DIR})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${T_TIMEOUT})
endfunction()

# limpet_op_sources(<var> <suffix>): one backend's kernels, found by name: ops/<op>/<op><suffix>.
function(limpet_op_sources var suffix)
  file(GLOB found CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/ops/*/*${suffix}")
  set(${var} ${found} PARENT_SCOPE)
endfunction()
