/* Sequences are parsed by their grammar (ECMA-48: CSI parameters final), not from a table of whole
 * strings, so that an unknown one is dropped whole and never leaks its letters into the program.
 * Modifiers are dropped: Ctrl-Up is Up. */
#include "tui/keys.h"

#include <string.h>

#include "engine/base/utf8.h"

static const char PASTE_BEGIN[] = "200";
static const char PASTE_END[] = "\033[201~";

enum { MAX_SEQUENCE_BYTES = 32 };

void key_decoder_feed(struct key_decoder *d, const char *bytes, size_t n)
{
    if (d->at == d->bytes.len) {
        buf_clear(&d->bytes);
        d->at = 0;
    }
    buf_append(&d->bytes, bytes, n);
}

bool key_decoder_pending(const struct key_decoder *d)
{
    return !d->in_paste && d->at < d->bytes.len;
}

void key_decoder_free(struct key_decoder *d)
{
    buf_free(&d->bytes);
    buf_free(&d->paste);
    *d = (struct key_decoder){0};
}

/* CSI n ~ */
static int tilde_key(int n)
{
    static const int keys[] = {
        [1] = CODE_HOME,    [2] = CODE_INSERT,    [3] = CODE_DELETE,   [4] = CODE_END,
        [5] = CODE_PAGE_UP, [6] = CODE_PAGE_DOWN, [7] = CODE_HOME,     [8] = CODE_END,
        [11] = CODE_F0 + 1, [12] = CODE_F0 + 2,   [13] = CODE_F0 + 3,  [14] = CODE_F0 + 4,
        [15] = CODE_F0 + 5, [17] = CODE_F0 + 6,   [18] = CODE_F0 + 7,  [19] = CODE_F0 + 8,
        [20] = CODE_F0 + 9, [21] = CODE_F0 + 10,  [23] = CODE_F0 + 11, [24] = CODE_F0 + 12,
    };
    if (n < 0 || n >= (int)(sizeof keys / sizeof *keys) || !keys[n])
        return CODE_UNKNOWN;
    return keys[n];
}

/* The final letter of a CSI or SS3 sequence. */
static int letter_key(char final)
{
    switch (final) {
    case 'A':
        return CODE_UP;
    case 'B':
        return CODE_DOWN;
    case 'C':
        return CODE_RIGHT;
    case 'D':
        return CODE_LEFT;
    case 'H':
        return CODE_HOME;
    case 'F':
        return CODE_END;
    case 'M':
        return CODE_ENTER; /* SS3: keypad Enter */
    case 'P':
    case 'Q':
    case 'R':
    case 'S':
        return CODE_F0 + 1 + (final - 'P');
    case 'Z':
        return CODE_BACKTAB;
    default:
        return CODE_UNKNOWN;
    }
}

/* A sequence at s [n bytes] that starts with Esc.  Returns its length, 0 if it is unfinished. */
static size_t parse_escape(const char *s, size_t n, int *code, bool *paste)
{
    *paste = false;
    if (n < 2)
        return 0;
    if (s[1] == 'O') {
        if (n < 3)
            return 0;
        *code = letter_key(s[2]);
        return 3;
    }
    if (s[1] != '[')
        return 1;               /* Alt, or Esc alone: the caller decides */
    if (n > 2 && s[2] == '[') { /* the Linux console's F1..F5 */
        if (n < 4)
            return 0;
        *code = s[3] >= 'A' && s[3] <= 'E' ? CODE_F0 + 1 + (s[3] - 'A') : CODE_UNKNOWN;
        return 4;
    }
    size_t i = 2;
    int number = 0;
    bool first = true;
    while (i < n && i < MAX_SEQUENCE_BYTES && s[i] >= 0x20 && s[i] <= 0x3F) {
        if (s[i] >= '0' && s[i] <= '9' && first && number < 10000)
            number = number * 10 + (s[i] - '0');
        else
            first = false;
        i++;
    }
    if (i >= MAX_SEQUENCE_BYTES) {
        *code = CODE_UNKNOWN;
        return i;
    }
    if (i >= n)
        return 0;
    if (s[i] < 0x40 || s[i] > 0x7E) { /* broken off by a control: drop what came */
        *code = CODE_UNKNOWN;
        return i;
    }
    if (s[i] == '~' && !strncmp(s + 2, PASTE_BEGIN, 3) && i == 5)
        *paste = true;
    *code = s[i] == '~' ? tilde_key(number) : letter_key(s[i]);
    if (s[i] == 'M')
        *code = CODE_UNKNOWN; /* a mouse report */
    return i + 1;
}

/* Moves pasted bytes to d->paste; true when the end has come. */
static bool take_paste(struct key_decoder *d)
{
    const size_t n_end = sizeof PASTE_END - 1;
    const char *from = d->bytes.data + d->at;
    size_t n = d->bytes.len - d->at;
    const char *end = n >= n_end ? memmem(from, n, PASTE_END, n_end) : NULL;
    /* An unfinished end marker may stand at the end: hold that much back. */
    size_t n_take = end ? (size_t)(end - from) : n;
    if (!end)
        for (size_t k = n < n_end - 1 ? n : n_end - 1; k > 0; k--)
            if (!memcmp(from + n - k, PASTE_END, k)) {
                n_take = n - k;
                break;
            }
    size_t room = KEY_PASTE_MAX_BYTES - d->paste.len;
    size_t n_keep = n_take < room ? n_take : room;
    if (n_keep > 0) {
        char *to = buf_reserve(&d->paste, n_keep);
        for (size_t i = 0; i < n_keep; i++)
            to[i] = from[i] == '\r' ? '\n' : from[i];
        d->paste.len += n_keep;
        d->paste.data[d->paste.len] = '\0';
    }
    d->at += n_take + (end ? n_end : 0);
    return end != NULL;
}

static bool next_escape(struct key_decoder *d, bool flush, struct key *out)
{
    const char *s = d->bytes.data + d->at;
    size_t n = d->bytes.len - d->at;
    bool paste = false;
    size_t length = parse_escape(s, n, &out->code, &paste);
    if (length == 0 && !flush)
        return false;
    if (length > 1) {
        d->at += length;
        if (paste) {
            d->in_paste = true;
            return key_decoder_next(d, flush, out);
        }
        return true;
    }
    d->at += 1;
    out->code = CODE_ESC;
    if (n < 2 || length == 0 || s[1] == CODE_ESC)
        return true;
    struct key next;
    if (!key_decoder_next(d, true, &next))
        return true;
    if (next.code == CODE_PASTE)
        *out = next;
    else
        out->code = next.code | CODE_ALT;
    return true;
}

bool key_decoder_next(struct key_decoder *d, bool flush, struct key *out)
{
    *out = (struct key){0};
    if (d->in_paste) {
        if (!take_paste(d))
            return false;
        d->in_paste = false;
        out->code = CODE_PASTE;
        out->paste = d->paste;
        d->paste = (struct buf){0};
        return true;
    }
    if (d->at >= d->bytes.len)
        return false;
    const char *s = d->bytes.data + d->at;
    size_t n = d->bytes.len - d->at;
    if (*s == CODE_ESC)
        return next_escape(d, flush, out);
    if (*s == 8) { /* Ctrl-H: what some terminals send for Backspace */
        d->at++;
        out->code = CODE_BACKSPACE;
        return true;
    }
    uint32_t code = 0;
    int n_bad = 1;
    int length = utf8_decode(s, n, &code, &n_bad);
    if (length < 0 && !flush)
        return false;
    if (length <= 0) {
        d->at += length < 0 ? n : (size_t)n_bad;
        out->code = CODE_UNKNOWN;
        return true;
    }
    d->at += (size_t)length;
    out->code = (int)code;
    return true;
}

static const struct {
    int code;
    const char *name, *bytes;
} SPECIALS[] = {
    {CODE_TAB, "Tab", "\t"},
    {CODE_NEWLINE, "Ctrl-J", "\n"},
    {CODE_ENTER, "Enter", "\r"},
    {CODE_ESC, "Esc", "\033"},
    {' ', "Space", " "},
    {CODE_BACKSPACE, "Backspace", "\177"},
    {CODE_UP, "Up", "\033[A"},
    {CODE_DOWN, "Down", "\033[B"},
    {CODE_RIGHT, "Right", "\033[C"},
    {CODE_LEFT, "Left", "\033[D"},
    {CODE_HOME, "Home", "\033[H"},
    {CODE_END, "End", "\033[F"},
    {CODE_PAGE_UP, "PgUp", ""},
    {CODE_PAGE_DOWN, "PgDn", ""},
    {CODE_INSERT, "Insert", ""},
    {CODE_DELETE, "Del", "\033[3~"},
    {CODE_BACKTAB, "S-Tab", ""},
    {CODE_UNKNOWN, "?", ""},
    {CODE_PASTE, "paste", ""},
};

void key_write_bytes(int code, struct buf *out)
{
    if (code & CODE_ALT) {
        buf_append_char(out, CODE_ESC);
        code &= ~CODE_ALT;
    }
    for (size_t i = 0; i < sizeof SPECIALS / sizeof *SPECIALS; i++)
        if (SPECIALS[i].code == code) {
            buf_append_str(out, SPECIALS[i].bytes);
            return;
        }
    if (code < 0x110000)
        buf_append_utf8(out, (uint32_t)code);
}

void key_write_name(int code, struct buf *out)
{
    if (code & CODE_ALT) {
        buf_append_str(out, "Alt-");
        code &= ~CODE_ALT;
    }
    for (size_t i = 0; i < sizeof SPECIALS / sizeof *SPECIALS; i++)
        if (SPECIALS[i].code == code) {
            buf_append_str(out, SPECIALS[i].name);
            return;
        }
    if (code > CODE_F0 && code <= CODE_F0 + 12)
        buf_printf(out, "F%d", code - CODE_F0);
    else if (code >= 1 && code <= 26)
        buf_printf(out, "Ctrl-%c", 'A' + code - 1);
    else if (code < 0x110000)
        buf_append_utf8(out, (uint32_t)code);
}
