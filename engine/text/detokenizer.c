/* Decoding, at once and token by token: both feed the same decoder run. */
#include "engine/text/tokenizer.h"

#include "engine/text/tokenizer_parts.h"

static void feed(const struct tokenizer *t, struct decoder_run *run, int32_t id, bool skip_special,
                 struct buf *out)
{
    const struct token *token = vocabulary_by_id(t->vocab, id);
    if (token && !(skip_special && token->special))
        decoder_run_token(run, token->decoded, token->n_decoded, out);
}

void tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n, bool skip_special,
                      struct buf *out)
{
    struct decoder_run *run = decoder_run_new(t->decoder);
    for (size_t i = 0; i < n; i++)
        feed(t, run, ids[i], skip_special, out);
    decoder_run_finish(run, out);
    decoder_run_free(run);
}

void detokenizer_init(struct detokenizer *d, const struct tokenizer *t)
{
    *d = (struct detokenizer){t, decoder_run_new(t->decoder)};
}

void detokenizer_push(struct detokenizer *d, int32_t id, struct buf *out)
{
    feed(d->tokenizer, d->run, id, true, out);
}

void detokenizer_flush(struct detokenizer *d, struct buf *out)
{
    decoder_run_finish(d->run, out);
}

void detokenizer_free(struct detokenizer *d)
{
    decoder_run_free(d->run);
    *d = (struct detokenizer){0};
}
