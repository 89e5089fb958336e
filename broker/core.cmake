# The broker's decisions: pure, linked by the broker, its tests, the simulator and the benches.
file(GLOB broker_core_sources CONFIGURE_DEPENDS
  ${PROJECT_SOURCE_DIR}/broker/core*.cpp ${PROJECT_SOURCE_DIR}/broker/*_table.cpp
  ${PROJECT_SOURCE_DIR}/broker/*_queue.cpp ${PROJECT_SOURCE_DIR}/broker/timers.cpp)
if(broker_core_sources)
  limpet_add_library(limpet_broker_core SOURCES ${broker_core_sources} PUBLIC limpet_schema)
endif()
