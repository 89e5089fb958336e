# GPU backends: which toolchains are there, and how kernels are compiled.
#
# Kernels are compiled by custom commands: CMake 3.25 knows neither nvcc's C++20 nor Debian's HIP,
# and both vendors compile the same files. LIMPET_<VENDOR>: AUTO (on where the compiler is found),
# ON (it must be), OFF.
include_guard()

set(LIMPET_CUDA AUTO CACHE STRING "NVIDIA GPUs: AUTO, ON or OFF")
set(LIMPET_CUDA_ARCH sm_90a CACHE STRING "What nvcc compiles for: sm_90a (Hopper), sm_80, …")

set(limpet_cuda_found FALSE)
set(limpet_cuda_tools FALSE)
if(NOT LIMPET_SANITIZE)
  find_package(CUDAToolkit QUIET)
  if(CUDAToolkit_NVCC_EXECUTABLE AND TARGET CUDA::cudart_static)
    set(limpet_cuda_tools TRUE)
  endif()
endif()
if(LIMPET_CUDA)
  set(limpet_cuda_found ${limpet_cuda_tools})
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

# HIP: hipcc for AMD's cards; or, to run the same backend on an NVIDIA card, HIP's own platform for
# those, which is headers over CUDA: LIMPET_HIP_PLATFORM=nvidia, compiled by nvcc.
set(LIMPET_HIP AUTO CACHE STRING "AMD GPUs: AUTO, ON or OFF")
set(LIMPET_HIP_PLATFORM amd CACHE STRING "amd, or nvidia: the HIP backend on an NVIDIA card")
set(LIMPET_HIP_WAVES OFF CACHE BOOL "nvidia: two warps play a wave of 64 lanes, for tests of the ops")
set(LIMPET_HIP_ARCH gfx90a gfx1030 CACHE STRING "What hipcc compiles for")

set(limpet_hip_found FALSE)
if(LIMPET_HIP AND NOT LIMPET_SANITIZE)
  find_path(LIMPET_HIP_HEADERS hip/hip_runtime.h)
  find_program(LIMPET_HIP_COMPILER hipcc)
  find_library(LIMPET_HIP_RUNTIME amdhip64)
  if(LIMPET_HIP_PLATFORM STREQUAL "nvidia")
    if(LIMPET_HIP_HEADERS AND limpet_cuda_tools)
      set(limpet_hip_found TRUE)
      set(LIMPET_HIPCC ${CUDAToolkit_NVCC_EXECUTABLE})
      set(LIMPET_HIP_FLAGS ${LIMPET_CUDA_FLAGS} -x cu -DLIMPET_GPU_HIP -D__HIP_PLATFORM_NVIDIA__
        -include ${PROJECT_SOURCE_DIR}/backends/hip/cuda13.h)
      if(LIMPET_HIP_WAVES)
        list(APPEND LIMPET_HIP_FLAGS -DLIMPET_GPU_PLAYED_WAVES)
      endif()
    endif()
  elseif(LIMPET_HIP_HEADERS AND LIMPET_HIP_COMPILER AND LIMPET_HIP_RUNTIME)
    set(limpet_hip_found TRUE)
    # Where CUDA is installed too, hipcc would choose it.
    set(LIMPET_HIPCC ${CMAKE_COMMAND} -E env HIP_PLATFORM=amd ${LIMPET_HIP_COMPILER})
    set(LIMPET_HIP_FLAGS -x hip -std=c++20 -O3 -DLIMPET_GPU_HIP -fPIC -Wall -Werror)
    foreach(arch ${LIMPET_HIP_ARCH})
      list(APPEND LIMPET_HIP_FLAGS --offload-arch=${arch})
    endforeach()
  endif()
endif()
if(LIMPET_HIP STREQUAL "ON" AND NOT limpet_hip_found)
  message(FATAL_ERROR "LIMPET_HIP is ON, but its compiler, headers or runtime are not there")
endif()

# limpet_gpu_objects(<var> <vendor> <compiler> <flags> SOURCES ...): objects of a vendor's files.
function(limpet_gpu_objects var vendor compiler flags)
  cmake_parse_arguments(G "" "" "SOURCES" ${ARGN})
  set(objects)
  set(launcher ${LIMPET_CCACHE})
  list(LENGTH compiler words)
  if(words GREATER 1)  # one that must be started in its own way
    set(launcher)
  endif()
  foreach(source ${G_SOURCES})
    file(RELATIVE_PATH name ${PROJECT_SOURCE_DIR} ${source})
    set(object ${PROJECT_BINARY_DIR}/${vendor}/${name}.o)
    get_filename_component(folder ${object} DIRECTORY)
    file(MAKE_DIRECTORY ${folder})
    add_custom_command(OUTPUT ${object}
      COMMAND ${launcher} ${compiler} ${flags} -I${PROJECT_SOURCE_DIR} -MD -MF ${object}.d
              -c ${source} -o ${object}
      DEPENDS ${source} DEPFILE ${object}.d
      COMMENT "Compiling ${name} for ${vendor}" VERBATIM COMMAND_EXPAND_LISTS)
    list(APPEND objects ${object})
  endforeach()
  set(${var} ${objects} PARENT_SCOPE)
endfunction()
