/* The tracking programs as clang left them, within the agent. A program that brings these two
 * symbols itself (a test, with programs that can be told to overlook events) gets its own. */
    .section .rodata
    .balign 16
    .globl repl_track_object
    .type repl_track_object, %object
repl_track_object:
    .incbin REPL_TRACK_OBJECT
    .globl repl_track_object_end
    .type repl_track_object_end, %object
repl_track_object_end:
    .byte 0
    .size repl_track_object, repl_track_object_end - repl_track_object
    .section .note.GNU-stack, "", %progbits
