# Run by "cmake --install": manual pages and completion, as the program prints them.
# repl_program: the program, which has just been installed.
set(share "$ENV{DESTDIR}${CMAKE_INSTALL_PREFIX}/share")

function(install_document file)
    get_filename_component(directory "${share}/${file}" DIRECTORY)
    file(MAKE_DIRECTORY "${directory}")
    execute_process(COMMAND "${repl_program}" help ${ARGN}
        OUTPUT_FILE "${share}/${file}" RESULT_VARIABLE status)
    if(NOT status EQUAL 0)
        message(FATAL_ERROR "repl help ${ARGN}: ${status}")
    endif()
    message(STATUS "Installing: ${share}/${file}")
endfunction()

install_document(bash-completion/completions/repl --completion bash)
install_document(fish/vendor_completions.d/repl.fish --completion fish)
# Debian's zsh looks below /usr/share in a directory of its own for what packages bring.
if(CMAKE_INSTALL_PREFIX STREQUAL "/usr")
    install_document(zsh/vendor-completions/_repl --completion zsh)
else()
    install_document(zsh/site-functions/_repl --completion zsh)
endif()

install_document(man/man1/repl.1 --man)
install_document(man/man5/repl.conf.5 --man config)
execute_process(COMMAND "${repl_program}" --help OUTPUT_VARIABLE help)
string(REGEX MATCH "\nVerbs:\n.*\n\n\"repl help" verbs "${help}")
string(REGEX MATCHALL "\n  [a-z]+ " verbs "${verbs}")
foreach(verb IN LISTS verbs)
    string(STRIP "${verb}" verb)
    install_document(man/man1/repl-${verb}.1 --man ${verb})
endforeach()
