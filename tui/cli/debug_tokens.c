/* `debug tokens`: text to ids and pieces, or ids to text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buf.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/text/screen_text.h"
#include "engine/text/tokenizer.h"
#include "tui/cli/debug.h"
#include "tui/cli/id_list.h"

#define MAX_TEXT_BYTES (UINT64_C(1) << 30)

struct args {
    const char *model, *text, *file, *ids;
    int flags;
    bool as_json;
};

static bool handle(void *user, const char *name, const char *value, struct error *err)
{
    struct args *a = user;
    (void)err;
    if (!name)
        a->model = value;
    else if (strcmp(name, "text") == 0)
        a->text = value;
    else if (strcmp(name, "file") == 0)
        a->file = value;
    else if (strcmp(name, "ids") == 0)
        a->ids = value;
    else if (strcmp(name, "special") == 0)
        a->flags |= TOKENIZE_SPECIAL;
    else if (strcmp(name, "add-bos") == 0)
        a->flags |= TOKENIZE_ADD_BOS_EOS;
    else if (strcmp(name, "json") == 0)
        a->as_json = true;
    return true;
}

/* The ids of the command line or of the text. */
static bool collect(const struct args *a, const struct tokenizer *t, struct token_list *out,
                    struct error *err)
{
    if (a->ids)
        return id_list_parse(a->ids, "ids", out, err);
    struct buf text = {0};
    bool ok = true;
    if (a->text)
        buf_append_str(&text, a->text);
    else if (strcmp(a->file, "-") == 0)
        ok = file_read_fd(&text, 0, "standard input", MAX_TEXT_BYTES, err);
    else
        ok = file_read(&text, a->file, MAX_TEXT_BYTES, err);
    ok = ok && tokenizer_encode(t, text.data ? text.data : "", text.len, a->flags, out, err);
    buf_free(&text);
    return ok;
}

static void write_result(struct buf *out, const struct args *a, const struct tokenizer *t,
                         const struct token_list *list)
{
    struct buf text = {0};
    tokenizer_decode(t, list->ids, list->n, false, &text);
    if (a->as_json) {
        struct json *o = json_new_object(), *ids = json_new_array(), *pieces = json_new_array();
        for (size_t i = 0; i < list->n; i++) {
            const char *piece = tokenizer_piece(t, list->ids[i]);
            json_add_int(ids, list->ids[i]);
            json_add_string(pieces, piece ? piece : "");
        }
        json_set(o, "ids", ids);
        json_set(o, "pieces", pieces);
        json_set_string_n(o, "text", text.data ? text.data : "", text.len);
        json_write(out, o, false);
        buf_append_char(out, '\n');
        json_free(o);
    } else {
        for (size_t i = 0; i < list->n; i++) {
            const char *piece = tokenizer_piece(t, list->ids[i]);
            char *shown = screen_text_name(piece ? piece : "<unused>", 0);
            buf_printf(out, "%7d  %s\n", list->ids[i], shown);
            free(shown);
        }
        buf_printf(out, "%zu tokens\n", list->n);
        if (a->ids) {
            screen_text_filter(out, text.data ? text.data : "", text.len, SCREEN_TEXT_NEWLINES);
            buf_append_char(out, '\n');
        }
    }
    buf_free(&text);
}

static int run(int argc, char **argv)
{
    struct args a = {0};
    struct error err = {0};
    int code;
    if (!cli_parse(&command_debug_tokens, argc, argv, handle, &a, &code))
        return code;
    if (!a.text && !a.file && !a.ids) {
        fail_code(&err, EXIT_CODE_USAGE, "debug tokens needs --text, --file or --ids");
        return cli_fail(&err);
    }
    struct token_list list = {0};
    struct buf out = {0};
    char *folder = cli_model_folder(a.model, &err);
    struct tokenizer *t = folder ? tokenizer_open(folder, &err) : NULL;
    bool ok = t && collect(&a, t, &list, &err);
    if (ok) {
        write_result(&out, &a, t, &list);
        ok = cli_write(out.data, out.len, &err);
    }
    buf_free(&out);
    token_list_free(&list);
    tokenizer_close(t);
    free(folder);
    return ok ? EXIT_CODE_OK : cli_fail(&err);
}

const struct cli_command command_debug_tokens = {
    .name = "debug tokens",
    .usage = "[MODEL] --text T | --file F | --ids 1,2,3",
    .summary = "text to token ids and pieces, or ids to text",
    .options =
        (const struct cli_option[]){{"text", "T", "the text"},
                                    {"file", "F", "a file with the text, - for stdin"},
                                    {"ids", "LIST", "ids, 1,2,3 or @FILE, to decode"},
                                    {"special", NULL, "recognise special tokens in the text"},
                                    {"add-bos", NULL, "add what the post-processor adds"},
                                    {"json", NULL, "one JSON object"},
                                    {NULL, NULL, NULL}},
    .max_positional = 1,
    .run = run,
};
