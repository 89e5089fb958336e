# GPU backends: which toolchains are there, and how kernels are compiled.
#
# Kernels are compiled by custom commands: CMake 3.25 knows neither nvcc's C++20 nor Debian's HIP,
# and both vendors compile the same files. LIMPET_<VENDOR>: AUTO (on where the compiler is found),
# ON (it must be), OFF.
include_guard()

set(LIMPET_CUDA AUTO CACHE STRING "NVIDIA GPUs: AUTO, ON or OFF")
set(LIMPET_CUDA_ARCH sm_90a CACHE STRING "What nvcc compiles for: sm_90a (Hopper), sm_80, …")

set(limpet_cuda_found FALSE)
if(LIMPET_CUDA AND NOT LIMPET_SANITIZE)
  find_package(CUDAToolkit QUIET)
  if(CUDAToolkit_NVCC_EXECUTABLE AND TARGET CUDA::cudart_static)
    set(limpet_cuda_found TRUE)
  endif()
endif()
if(LIMPET_CUDA STREQUAL "ON" AND NOT limpet_cuda_found)
  message(FATAL_ERROR "LIMPET_CUDA is ON, but there is no nvcc, or no static CUDA runtime")
endif()

# sm_90a and its like are exact targets: written so, no other code is made beside theirs.
string(REPLACE sm_ compute_ virtual ${LIMPET_CUDA_ARCH})
set(LIMPET_CUDA_FLAGS -std=c++20 -O3 -gencode=arch=${virtual},code=${LIMPET_CUDA_ARCH}
  --expt-relaxed-constexpr "-Xcompiler=-Wall,-fPIC" -Werror=all-warnings)
if(LIMPET_CUDA_ARCH STREQUAL "sm_90a")
  list(APPEND LIMPET_CUDA_FLAGS -DLIMPET_GPU_SM90A)  # the host's code may launch its own kernels
endif()

# limpet_gpu_objects(<var> <vendor> <compiler> <flags> SOURCES ...): objects of .cu files.
function(limpet_gpu_objects var vendor compiler flags)
  cmake_parse_arguments(G "" "" "SOURCES" ${ARGN})
  set(objects)
  foreach(source ${G_SOURCES})
    file(RELATIVE_PATH name ${PROJECT_SOURCE_DIR} ${source})
    set(object ${PROJECT_BINARY_DIR}/${vendor}/${name}.o)
    get_filename_component(folder ${object} DIRECTORY)
    file(MAKE_DIRECTORY ${folder})
    add_custom_command(OUTPUT ${object}
      COMMAND ${LIMPET_CCACHE} ${compiler} ${flags} -I${PROJECT_SOURCE_DIR} -MD -MF ${object}.d
              -c ${source} -o ${object}
      DEPENDS ${source} DEPFILE ${object}.d
      COMMENT "Compiling ${name} for ${vendor}" VERBATIM COMMAND_EXPAND_LISTS)
    list(APPEND objects ${object})
  endforeach()
  set(${var} ${objects} PARENT_SCOPE)
endfunction()
