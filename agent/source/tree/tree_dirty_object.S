/* The programs that notice writes to a tree's files, as clang left them, within the agent. */
    .section .rodata
    .balign 16
    .globl repl_tree_dirty_object
    .type repl_tree_dirty_object, %object
repl_tree_dirty_object:
    .incbin REPL_TREE_DIRTY_OBJECT
    .globl repl_tree_dirty_object_end
    .type repl_tree_dirty_object_end, %object
repl_tree_dirty_object_end:
    .byte 0
    .size repl_tree_dirty_object, repl_tree_dirty_object_end - repl_tree_dirty_object
    .section .note.GNU-stack, "", %progbits
