/* Keys: bytes from a terminal become key codes.  Pure: no terminal is read here.
 *
 * A code is a code point, or one of the specials below, with KEY_ALT added where Esc came right
 * before.  Control letters keep their ASCII codes 1..26. */
#ifndef ATTNSCOPE_TUI_KEYS_H
#define ATTNSCOPE_TUI_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/buf.h"

enum {
    CODE_TAB = 9,
    CODE_NEWLINE = 10,
    CODE_ENTER = 13,
    CODE_ESC = 27,
    CODE_BACKSPACE = 127,
    CODE_UP = 0x110000, /* past Unicode */
    CODE_DOWN,
    CODE_LEFT,
    CODE_RIGHT,
    CODE_HOME,
    CODE_END,
    CODE_PAGE_UP,
    CODE_PAGE_DOWN,
    CODE_INSERT,
    CODE_DELETE,
    CODE_BACKTAB,
    CODE_PASTE,         /* a bracketed paste has ended: key.paste */
    CODE_UNKNOWN,       /* a sequence that means nothing here: ignored whole */
    CODE_F0 = 0x110100, /* CODE_F0 + n is Fn */
    CODE_ALT = 0x200000
};

#define CODE_CTRL(letter) ((letter)&0x1F)

struct key {
    int code;
    struct buf paste; /* CODE_PASTE: its bytes, CR as LF; the caller frees */
};

enum { KEY_PASTE_MAX_BYTES = 64 << 20 }; /* what is pasted beyond is dropped */

/* Bytes read and not yet decoded.  Zero-initialised is empty. */
struct key_decoder {
    struct buf bytes;
    size_t at;
    bool in_paste;
    bool paste_cut;
    struct buf paste;
};

void key_decoder_feed(struct key_decoder *d, const char *bytes, size_t n);
/* The next key; false when more bytes are needed.  With flush, what is pending is not waited for:
 * a lone Esc is Esc. */
bool key_decoder_next(struct key_decoder *d, bool flush, struct key *out);
/* True if bytes wait that may be the beginning of a sequence: flush after the escape delay. */
bool key_decoder_pending(const struct key_decoder *d);
void key_decoder_free(struct key_decoder *d);

/* What a line editor expects to read for this key; appends to out. */
void key_write_bytes(int code, struct buf *out);
/* "F5", "Ctrl-R", "Alt-Enter", "Tab", "x". */
void key_write_name(int code, struct buf *out);

#endif
