#include "site/site_chain.h"

#include <stdlib.h>

#define PAGE_PIECES 1024u

repl_result site_chain_read(struct repl_index *index, const char *volume, struct repl_chain *chain,
                            struct repl_error *err)
{
    struct repl_log_piece *page = malloc(PAGE_PIECES * sizeof *page);
    struct repl_log_commit at = {0};
    repl_result result = page == NULL
                             ? repl_fail(err, REPL_E_NOMEM, "out of memory for a list of segments")
                             : REPL_SUCCESS;
    for (bool more = true; more && repl_ok(result);) {
        uint32_t count = 0;
        result = repl_index_pieces(index, volume, at.to_seq, at.part, page, PAGE_PIECES, &count,
                                   &more, err);
        for (uint32_t i = 0; i < count && repl_ok(result); i++)
            result = repl_chain_add(chain, &page[i], err);
        if (count > 0)
            at = page[count - 1].commit;
    }
    free(page);
    return result;
}

repl_result site_chain_lists(struct repl_index *index, const char *volume,
                             const struct repl_segment_id *id, bool *listed, struct repl_error *err)
{
    struct repl_log_piece piece;
    uint32_t count = 0;
    bool more;
    *listed = id->supply != 0;
    if (*listed)
        return REPL_SUCCESS;
    REPL_TRY(repl_index_pieces(index, volume, id->part > 0 ? id->to_seq : id->to_seq - 1,
                               id->part > 0 ? id->part - 1 : UINT32_MAX, &piece, 1, &count, &more,
                               err));
    *listed = count > 0 && piece.commit.to_seq == id->to_seq && piece.commit.part == id->part &&
              piece.merge == id->merge;
    return REPL_SUCCESS;
}
