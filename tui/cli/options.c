/* Command-line options: see the header. */
#include "tui/cli/options.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/attention/metrics.h"
#include "engine/text/screen_text.h"

enum { MAX_OPTIONS = 48 };

const struct cli_exit_code cli_exit_codes[] = {
    {"0", "ok"},
    {"1", "something went wrong while running"},
    {"2", "the command line is wrong"},
    {"3", "an --assert expression does not hold"},
    {"4", "a model or file is invalid or not supported"},
    {"5", "no device, or out of memory"},
    {"128+n", "ended by signal n"},
    {NULL, NULL},
};

static void show_help(const struct cli_command *command)
{
    printf("attnscope %s %s\n  %s\n", command->name, command->usage, command->summary);
    if (command->examples)
        printf("\nExamples:\n%s", command->examples);
    printf("\nOptions:\n");
    for (const struct cli_option *o = command->options; o->name; o++) {
        char left[48];
        snprintf(left, sizeof left, "--%s%s%s", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
        printf("  %-27s %s\n", left, o->help);
    }
    printf("  %-27s %s\n", "--help", "this text");
    if (!command->shows_figures)
        return;
    printf("\nFigures:\n");
    for (const struct metric *m = metrics; m->name; m++)
        printf("  %s%s%s: %s\n", m->name, m->unit[0] ? ", " : "", m->unit, m->definition);
}

static bool wrong(const struct cli_command *command, const struct error *err, int *code)
{
    char *text = screen_text_name(err->text, 0);
    fprintf(stderr, "attnscope %s: %s (see: attnscope %s --help)\n", command->name, text,
            command->name);
    free(text);
    *code = EXIT_CODE_USAGE;
    return false;
}

/* What getopt_long found wrong, as a sentence. */
static void explain(int c, char **argv, struct error *err)
{
    const char *last = argv[optind - 1];
    if (c == ':')
        fail(err, "%s needs a value", last);
    else if (optopt)
        fail(err, "there is no option -%c", optopt);
    else
        fail(err, "there is no option %s, or it takes no value", last);
}

bool cli_parse(const struct cli_command *command, int argc, char **argv, cli_handler *handle,
               void *user, int *code)
{
    struct option longs[MAX_OPTIONS + 2] = {0};
    int n = 0;
    for (; command->options[n].name && n < MAX_OPTIONS; n++)
        longs[n] =
            (struct option){command->options[n].name,
                            command->options[n].arg ? required_argument : no_argument, NULL, 0};
    longs[n] = (struct option){"help", no_argument, NULL, 0};

    struct error err = {0};
    optind = 1;
    opterr = 0;
    for (;;) {
        int which = 0;
        int c = getopt_long(argc, argv, ":h", longs, &which);
        if (c == -1)
            break;
        if (c == 'h' || (c == 0 && which == n)) {
            show_help(command);
            *code = EXIT_CODE_OK;
            return false;
        }
        if (c != 0) {
            explain(c, argv, &err);
            return wrong(command, &err, code);
        }
        if (!handle(user, longs[which].name, optarg, &err))
            return wrong(command, &err, code);
    }
    if (argc - optind > command->max_positional) {
        fail(&err, "unexpected argument '%s'", argv[optind + command->max_positional]);
        return wrong(command, &err, code);
    }
    for (int i = optind; i < argc; i++)
        if (!handle(user, NULL, argv[i], &err))
            return wrong(command, &err, code);
    return true;
}

bool cli_int(const char *name, const char *value, int64_t min, int64_t max, int64_t *out,
             struct error *err)
{
    char *end;
    errno = 0;
    long long v = strtoll(value, &end, 10);
    if (end == value || *end || errno || v < min || v > max)
        return fail(err, "--%s %s: expected a whole number from %" PRId64 " to %" PRId64, name,
                    value, min, max);
    *out = v;
    return true;
}

bool cli_real(const char *name, const char *value, double min, double max, double *out,
              struct error *err)
{
    char *end;
    double v = strtod(value, &end);
    if (end == value || *end || !isfinite(v) || v < min || v > max)
        return fail(err, "--%s %s: expected a number from %g to %g", name, value, min, max);
    *out = v;
    return true;
}

bool cli_choice(const char *name, const char *value, const char *const *choices, int *out,
                struct error *err)
{
    struct buf list = {0};
    for (int i = 0; choices[i]; i++) {
        if (strcmp(choices[i], value) == 0) {
            *out = i;
            buf_free(&list);
            return true;
        }
        buf_printf(&list, "%s%s", i ? ", " : "", choices[i]);
    }
    fail(err, "--%s %s: expected one of %s", name, value, list.data);
    buf_free(&list);
    return false;
}

void cli_engine_defaults(struct engine_options *out)
{
    *out = (struct engine_options){.backend = "auto", .kv_dtype = DTYPE_BF16};
}

bool cli_engine_option(struct engine_options *out, const char *name, const char *value,
                       struct error *err, bool *ok)
{
    static const char *const kv_names[] = {"bf16", "f32", NULL};
    static const char *const isa_names[] = {"auto", "reference", "avx2", "avx512", NULL};
    static const char *const choices[] = {"auto", "cpu", "cuda", NULL};
    int64_t n = 0;
    int choice = 0;
    if (strcmp(name, "backend") == 0) {
        *ok = cli_choice(name, value, choices, &choice, err);
        out->backend = choices[choice];
    } else if (strcmp(name, "threads") == 0) {
        *ok = cli_int(name, value, 1, 1024, &n, err);
        out->n_threads = (int)n;
    } else if (strcmp(name, "kv") == 0) {
        *ok = cli_choice(name, value, kv_names, &choice, err);
        out->kv_dtype = choice ? DTYPE_F32 : DTYPE_BF16;
    } else if (strcmp(name, "isa") == 0) {
        *ok = cli_choice(name, value, isa_names, &choice, err);
        out->isa = (enum device_isa)choice;
    } else {
        return false;
    }
    return true;
}

int cli_fail(const struct error *err)
{
    char *text = screen_text_name(err->text, 0);
    fprintf(stderr, "attnscope: %s\n", text);
    free(text);
    return err->code ? err->code : EXIT_CODE_RUNTIME;
}

void cli_append_fields(struct buf *out, const struct json *object)
{
    for (const struct json *v = json_first(object); v; v = json_next(v)) {
        buf_printf(out, "%-34s ", json_key(v));
        if (json_is_bool(v))
            buf_append_str(out, json_bool(v, false) ? "yes" : "no");
        else if (json_string(v))
            screen_text_filter(out, json_string(v), strlen(json_string(v)), SCREEN_TEXT_LINE);
        else
            buf_printf(out, "%.6g", json_number(v, 0));
        buf_append_char(out, '\n');
    }
}

bool cli_write(const char *text, size_t n, struct error *err)
{
    errno = 0;
    if ((n && fwrite(text, 1, n, stdout) != n) || fflush(stdout) != 0)
        return fail_code(err, EXIT_CODE_RUNTIME, "standard output: %s; nothing more was written",
                         errno ? strerror(errno) : "write error");
    return true;
}
