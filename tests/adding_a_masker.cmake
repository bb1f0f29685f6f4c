# The masker of docs/adding-a-masker.md, built from the page, and the tests of every masker run on
# a table that holds it: its objects come before the library's table of the same name.
set(masker_tree ${CMAKE_CURRENT_BINARY_DIR}/adding_a_masker)
set(masker_sources ${masker_tree}/engine/attention/maskers.c
  ${masker_tree}/engine/attention/maskers/pyramid.c)
add_custom_command(
  OUTPUT ${masker_sources} ${masker_tree}/engine/attention/maskers/maskers.h
    ${masker_tree}/tests/test_pyramid.c
  COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/adding_a_masker.sh ${CMAKE_SOURCE_DIR} ${masker_tree}
  DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/adding_a_masker.sh
    ${CMAKE_SOURCE_DIR}/docs/adding-a-masker.md
    ${CMAKE_SOURCE_DIR}/engine/attention/maskers.c
    ${CMAKE_SOURCE_DIR}/engine/attention/maskers/maskers.h)
add_custom_target(adding_a_masker DEPENDS ${masker_sources}
  ${masker_tree}/engine/attention/maskers/maskers.h ${masker_tree}/tests/test_pyramid.c)

add_library(added_masker OBJECT ${masker_sources})
add_dependencies(added_masker adding_a_masker)
target_include_directories(added_masker BEFORE PRIVATE ${masker_tree})

# added_masker_test(NAME SOURCE)
function(added_masker_test name source)
  add_executable(${name} ${source} $<TARGET_OBJECTS:added_masker>)
  add_dependencies(${name} adding_a_masker)
  target_link_libraries(${name} PRIVATE attnscope_attention PkgConfig::CMOCKA)
  target_compile_definitions(${name} PRIVATE ATTNSCOPE_SOURCE_DIR="${CMAKE_SOURCE_DIR}"
    ATTNSCOPE_BUILD_DIR="${CMAKE_BINARY_DIR}")
  target_compile_options(${name} PRIVATE -Wno-missing-prototypes)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT 300)
endfunction()

added_masker_test(test_added_masker ${masker_tree}/tests/test_pyramid.c)
added_masker_test(test_added_masker_invariants test_maskers.c)
added_masker_test(test_added_masker_stack test_stack.c)
