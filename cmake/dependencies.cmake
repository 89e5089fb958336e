# Every package from outside, found once; docs/dependencies.md says why each is here.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(cppzmq CONFIG REQUIRED)           # cppzmq (the shared libzmq behind it)
find_package(FlatBuffers CONFIG REQUIRED)      # flatbuffers::flatbuffers
find_program(LIMPET_FLATC flatc REQUIRED)
find_program(LIMPET_PYTHON3 python3 REQUIRED)
find_package(prometheus-cpp CONFIG REQUIRED)   # prometheus-cpp::core
find_package(SQLite3 REQUIRED)                 # SQLite::SQLite3
find_package(hwy CONFIG REQUIRED)              # hwy::hwy
find_package(nlohmann_json CONFIG REQUIRED)    # nlohmann_json::nlohmann_json
find_package(spdlog CONFIG REQUIRED)           # spdlog::spdlog
find_package(CLI11 CONFIG REQUIRED)            # CLI11::CLI11
find_package(toml11 CONFIG REQUIRED)           # toml11::toml11
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(HTTPLIB REQUIRED IMPORTED_TARGET cpp-httplib)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
if(NOT LIMPET_SANITIZE)  # sanitizers bring an allocator of their own
  pkg_check_modules(JEMALLOC REQUIRED IMPORTED_TARGET jemalloc)
endif()
if(LIMPET_TESTS)
  find_package(GTest CONFIG REQUIRED)
endif()
