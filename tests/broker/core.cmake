# The tests of the broker's pure core.
file(GLOB broker_core_tests CONFIGURE_DEPENDS ${CMAKE_CURRENT_LIST_DIR}/core*_test.cpp
  ${CMAKE_CURRENT_LIST_DIR}/tenant_test.cpp)
if(broker_core_tests)
  limpet_add_test(broker_core_test SOURCES ${broker_core_tests}
    ${PROJECT_SOURCE_DIR}/tests/sim/reference_store.cpp LIBS limpet_broker_core)
endif()
