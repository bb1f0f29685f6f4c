/* Which tokens of two answers differ: a shortest edit script over token ids.
 * Source: Myers 1986, "An O(ND) difference algorithm and its variations". */
#ifndef ATTNSCOPE_TUI_TOKEN_DIFF_H
#define ATTNSCOPE_TUI_TOKEN_DIFF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One run of differences: base tokens [base, base + n_base) against lane tokens [...). */
struct diff_run {
    int base, n_base, lane, n_lane;
};

struct token_diff {
    struct diff_run *runs; /* [n] owned, ascending */
    int n;
    int n_a, n_b; /* of the answers it was made from */
};

/* Scripts longer than this are not looked for: all after the common beginning differs. */
enum { TOKEN_DIFF_MAX_EDITS = 512 };

void token_diff_compute(struct token_diff *d, const int32_t *a, int n_a, const int32_t *b, int n_b);
void token_diff_free(struct token_diff *d);

#endif
