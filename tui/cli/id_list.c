/* Lists of ids: see the header. */
#include "tui/cli/id_list.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/file.h"

#define MAX_LIST_BYTES (UINT64_C(64) << 20)

static bool parse_numbers(const char *text, const char *option, struct token_list *out,
                          struct error *err)
{
    static const char between[] = " \t\r\n,[]";
    for (const char *at = text + strspn(text, between); *at;) {
        char *end;
        errno = 0;
        long value = strtol(at, &end, 10);
        if (end == at || errno || value < 0 || value > INT32_MAX ||
            (*end && !strchr(between, *end)))
            return fail_code(err, EXIT_CODE_USAGE,
                             "--%s: '%.12s' is not a whole number from 0 to %d", option, at,
                             INT32_MAX);
        token_list_add(out, (int32_t)value);
        at = end + strspn(end, between);
    }
    return true;
}

bool id_list_parse(const char *text, const char *option, struct token_list *out, struct error *err)
{
    if (text[0] != '@')
        return parse_numbers(text, option, out, err);
    struct buf file = {0};
    bool ok = file_read(&file, text + 1, MAX_LIST_BYTES, err) &&
              parse_numbers(file.data ? file.data : "", option, out, err);
    buf_free(&file);
    return ok;
}
