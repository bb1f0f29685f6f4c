/* `debug template`: a list of messages through the model's chat template. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/base/buf.h"
#include "engine/base/json.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "tui/cli/debug.h"

#define MAX_MESSAGES_BYTES (UINT64_C(64) << 20)

struct args {
    const char *model, *messages;
    bool no_generation_prompt;
};

static bool handle(void *user, const char *name, const char *value, struct error *err)
{
    struct args *a = user;
    (void)err;
    if (!name)
        a->model = value;
    else if (strcmp(name, "messages") == 0)
        a->messages = value;
    else if (strcmp(name, "no-generation-prompt") == 0)
        a->no_generation_prompt = true;
    return true;
}

/* The file is a list of messages, or an object of all variables. */
static struct json *variables(const struct args *a, const struct tokenizer *t, struct error *err)
{
    static const char *const specials[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    struct json *file = json_parse_file(a->messages, MAX_MESSAGES_BYTES, err);
    if (!file)
        return NULL;
    struct json *all;
    if (json_is_array(file)) {
        all = json_new_object();
        json_set(all, "messages", file);
    } else {
        all = file;
    }
    if (json_is_null(json_get(all, "add_generation_prompt")))
        json_set_bool(all, "add_generation_prompt", !a->no_generation_prompt);
    for (size_t i = 0; i < sizeof specials / sizeof specials[0]; i++) {
        const char *text = tokenizer_special(t, specials[i]);
        if (text && json_is_null(json_get(all, specials[i])))
            json_set_string(all, specials[i], text);
    }
    return all;
}

static int run(int argc, char **argv)
{
    struct args a = {0};
    struct error err = {0};
    int code;
    if (!cli_parse(&command_debug_template, argc, argv, handle, &a, &code))
        return code;
    if (!a.messages) {
        fail_code(&err, EXIT_CODE_USAGE, "debug template needs --messages FILE");
        return cli_fail(&err);
    }
    struct buf out = {0};
    struct chat_template *template = NULL;
    struct json *all = NULL;
    struct tokenizer *t = NULL;
    char *folder = cli_model_folder(a.model, &err);
    bool ok = folder && chat_template_open(&template, folder, &err);
    if (ok && !template)
        ok = fail(&err, "%s: this model has no chat template (it completes text)", folder);
    ok = ok && (t = tokenizer_open(folder, &err)) && (all = variables(&a, t, &err)) &&
         chat_template_render(template, all, (long long)time(NULL), &out, &err);
    /* The rendered text is for programs: raw, as it would be tokenised. */
    ok = ok && cli_write(out.data, out.len, &err);
    buf_free(&out);
    json_free(all);
    tokenizer_close(t);
    chat_template_free(template);
    free(folder);
    return ok ? EXIT_CODE_OK : cli_fail(&err);
}

const struct cli_command command_debug_template = {
    .name = "debug template",
    .usage = "[MODEL] --messages FILE",
    .summary = "the prompt that the model's chat template makes of messages",
    .options =
        (const struct cli_option[]){
            {"messages", "FILE", "JSON: a list of {role, content}, or an object of variables"},
            {"no-generation-prompt", NULL, "do not open the assistant's turn"},
            {NULL, NULL, NULL}},
    .max_positional = 1,
    .run = run,
};
