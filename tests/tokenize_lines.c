/* Encodes and decodes for tests/reference/check_tokenizers.py: `tokenize_lines FOLDER`.
 *
 * A request on stdin is a byte, two little-endian 32-bit numbers (flags, n) and a payload: 'E', the
 * tokenize_flags and n bytes of text; or 'D', skip_special (0 or 1) and n 32-bit ids.  The answer
 * on stdout is a 32-bit count, and so many 32-bit ids or bytes of text.  For 'D' with skip_special
 * the text is streamed too, and the program ends with 1 if that differs. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/error.h"
#include "engine/base/memory.h"
#include "engine/text/tokenizer.h"

#define MAX_REQUEST 100000000u

static void answer(const void *items, size_t n, size_t size)
{
    uint32_t count = (uint32_t)n;
    fwrite(&count, sizeof count, 1, stdout);
    fwrite(items ? items : "", size, n, stdout);
}

static int encode(const struct tokenizer *t, const char *text, size_t n, uint32_t flags)
{
    struct token_list ids = {0};
    struct error err;
    bool ok = tokenizer_encode(t, text, n, (int)flags, &ids, &err);
    if (ok)
        answer(ids.ids, ids.n, sizeof *ids.ids);
    else
        fprintf(stderr, "tokenize_lines: %s\n", err.text);
    token_list_free(&ids);
    return ok ? 0 : 1;
}

static int decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special)
{
    struct buf whole = {0}, streamed = {0};
    struct detokenizer d;
    int rc = 0;
    tokenizer_decode(t, ids, n, skip_special, &whole);
    detokenizer_init(&d, t);
    for (size_t i = 0; i < n; i++)
        detokenizer_push(&d, ids[i], &streamed);
    detokenizer_flush(&d, &streamed);
    if (skip_special && (streamed.len != whole.len ||
                         (whole.len && memcmp(streamed.data, whole.data, whole.len) != 0))) {
        fprintf(stderr, "tokenize_lines: streamed \"%s\", whole \"%s\"\n", streamed.data,
                whole.data);
        rc = 1;
    }
    answer(whole.data, whole.len, 1);
    detokenizer_free(&d);
    buf_free(&whole);
    buf_free(&streamed);
    return rc;
}

static int serve(const struct tokenizer *t)
{
    char op;
    uint32_t head[2];
    int rc = 0;
    while (rc == 0 && fread(&op, 1, 1, stdin) == 1) {
        if (fread(head, sizeof head, 1, stdin) != 1 || head[1] > MAX_REQUEST)
            return 1;
        size_t size = op == 'D' ? sizeof(int32_t) : 1;
        void *payload = xcalloc(head[1] + 1, size);
        if (fread(payload, size, head[1], stdin) != head[1])
            rc = 1;
        else if (op == 'D')
            rc = decode(t, payload, head[1], head[0]);
        else
            rc = encode(t, payload, head[1], head[0]);
        free(payload);
    }
    return fflush(stdout) ? 1 : rc;
}

int main(int argc, char **argv)
{
    struct error err;
    if (argc != 2) {
        fprintf(stderr, "usage: tokenize_lines FOLDER\n");
        return 2;
    }
    struct tokenizer *t = tokenizer_open(argv[1], &err);
    if (!t) {
        fprintf(stderr, "%s\n", err.text);
        return err.code;
    }
    int rc = serve(t);
    tokenizer_close(t);
    return rc;
}
