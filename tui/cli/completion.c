/* `attnscope completion`: scripts for shells, from the tables of commands and options; names that
 * may change, of stacks, samples and models, they ask the program for when Tab is pressed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/attention/masker.h"
#include "engine/model/hub.h"
#include "presets/preset.h"
#include "tui/cli/commands.h"
#include "tui/cli/document.h"

/* --- Names --------------------------------------------------------------------------------------
 */

static void write_presets(struct preset_list list, struct buf *out)
{
    for (size_t i = 0; i < list.n; i++)
        buf_printf(out, "%s\n", list.entries[i].name);
    preset_list_free(&list);
}

static void write_stacks(struct buf *out)
{
    write_presets(preset_list_stacks(), out);
    for (int i = 0; maskers[i]; i++)
        buf_printf(out, "%s\n", maskers[i]->name);
}

static void write_samples(struct buf *out)
{
    write_presets(preset_list_samples(), out);
}

static void write_models(struct buf *out)
{
    struct hub_list list = {0};
    hub_scan(&list);
    for (size_t i = 0; i < list.n; i++)
        if (!list.models[i].problem && !strpbrk(list.models[i].name, " \t\n'\"\\$`"))
            buf_printf(out, "%s\n", list.models[i].name);
    hub_list_free(&list);
}

/* --- What follows an option
 * ----------------------------------------------------------------------- */

enum value_kind { VALUE_NONE, VALUE_WORDS, VALUE_FILE, VALUE_STACK, VALUE_SAMPLE, VALUE_OTHER };

static enum value_kind value_of(const struct cli_option *o)
{
    if (!o->arg)
        return VALUE_NONE;
    if (strchr(o->arg, '|'))
        return VALUE_WORDS;
    if (!strcmp(o->name, "stack") || !strcmp(o->name, "baseline"))
        return VALUE_STACK;
    if (!strcmp(o->name, "sample"))
        return VALUE_SAMPLE;
    return !strcmp(o->arg, "FILE") || !strcmp(o->arg, "SESSION") ? VALUE_FILE : VALUE_OTHER;
}

/* "auto|cpu" as "auto cpu". */
static void write_words(const struct cli_option *o, struct buf *out)
{
    for (const char *c = o->arg; *c; c++)
        buf_append_char(out, *c == '|' ? ' ' : *c);
}

static void write_command_names(struct buf *out)
{
    for (int i = 0; commands[i]; i++)
        buf_printf(out, "%s%s", i ? " " : "", commands[i]->name);
}

static const struct cli_option no_options[] = {{NULL, NULL, NULL}};

static const struct cli_option *options_of(const struct cli_command *c)
{
    return c->options ? c->options : no_options;
}

/* --- bash
 * ------------------------------------------------------------------------------------------ */

static void write_bash_values(const struct cli_command *c, struct buf *out)
{
    for (const struct cli_option *o = options_of(c); o->name; o++) {
        enum value_kind kind = value_of(o);
        if (kind == VALUE_NONE)
            continue;
        buf_printf(out, "    \"%s --%s\") ", c->name, o->name);
        if (kind == VALUE_WORDS) {
            buf_append_str(out, "_attnscope_words \"");
            write_words(o, out);
            buf_append_str(out, "\"");
        } else {
            buf_append_str(out, kind == VALUE_FILE     ? "_attnscope_files"
                                : kind == VALUE_STACK  ? "_attnscope_names stacks"
                                : kind == VALUE_SAMPLE ? "_attnscope_names samples"
                                                       : "COMPREPLY=()");
        }
        buf_append_str(out, "; return ;;\n");
    }
}

static void write_bash_options(const struct cli_command *c, struct buf *out)
{
    buf_printf(out, "    \"%s\") options=\"", c->name);
    for (const struct cli_option *o = options_of(c); o->name; o++)
        buf_printf(out, "--%s ", o->name);
    buf_append_str(out, "--help\" ;;\n");
}

static void write_bash(struct buf *out)
{
    buf_append_str(out, "# bash completion of attnscope; made by: attnscope completion bash\n"
                        "_attnscope_words() { COMPREPLY=($(compgen -W \"$1\" -- \"$cur\")); }\n"
                        "_attnscope_names() { _attnscope_words \"$(\"${COMP_WORDS[0]}\" completion "
                        "\"$1\" 2>/dev/null)\"; }\n"
                        "_attnscope_files() { compopt -o filenames 2>/dev/null; "
                        "mapfile -t COMPREPLY < <(compgen -f -- \"$cur\"); }\n"
                        "\n"
                        "_attnscope() {\n"
                        "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                        "    local command= options=\n"
                        "    case \" ");
    write_command_names(out);
    buf_append_str(out, " \" in *\" ${COMP_WORDS[1]} \"*) "
                        "[ \"$COMP_CWORD\" -gt 1 ] && command=${COMP_WORDS[1]} ;; esac\n"
                        "    case \"$command $prev\" in\n");
    write_bash_values(&command_workbench, out);
    for (int i = 0; commands[i]; i++)
        write_bash_values(commands[i], out);
    buf_append_str(out, "    esac\n    case \"$command\" in\n");
    write_bash_options(&command_workbench, out);
    for (int i = 0; commands[i]; i++)
        write_bash_options(commands[i], out);
    buf_append_str(out, "    esac\n"
                        "    case \"$cur\" in -*) _attnscope_words \"$options\"; return ;; esac\n"
                        "    _attnscope_files\n"
                        "    case \"$COMP_CWORD $command\" in\n"
                        "    \"1 \") COMPREPLY+=($(compgen -W \"");
    write_command_names(out);
    buf_append_str(out,
                   " $(\"${COMP_WORDS[0]}\" completion models 2>/dev/null)\" -- \"$cur\")) ;;\n"
                   "    \"2 ask\") COMPREPLY+=($(compgen -W \"$(\"${COMP_WORDS[0]}\" "
                   "completion models 2>/dev/null)\" -- \"$cur\")) ;;\n"
                   "    \"2 stacks\") _attnscope_names stacks ;;\n"
                   "    \"2 completion\") _attnscope_words \"bash zsh fish\" ;;\n"
                   "    \"2 bench\") _attnscope_words \"decode prefill attention select "
                   "gemv\" ;;\n"
                   "    \"2 debug\") _attnscope_words \"tokens template logits attention\" "
                   ";;\n"
                   "    \"2 calibrate\") _attnscope_words double-sparsity ;;\n"
                   "    esac\n"
                   "}\n"
                   "complete -F _attnscope attnscope\n");
}

/* --- zsh
 * -------------------------------------------------------------------------------------------- */

/* Inside '...' of a specification: brackets and colons are its own. */
static void write_zsh_text(const char *text, struct buf *out)
{
    for (; *text; text++) {
        if (*text == '\'')
            buf_append_str(out, "'\\''");
        else if (strchr("[]:\\", *text))
            buf_printf(out, "\\%c", *text);
        else
            buf_append_char(out, *text);
    }
}

static void write_zsh_option(const struct cli_option *o, struct buf *out)
{
    enum value_kind kind = value_of(o);
    buf_printf(out, " \\\n        '*--%s[", o->name);
    write_zsh_text(o->help, out);
    buf_append_char(out, ']');
    if (kind != VALUE_NONE) {
        buf_append_char(out, ':');
        write_zsh_text(o->arg, out);
        buf_append_char(out, ':');
    }
    if (kind == VALUE_WORDS) {
        buf_append_char(out, '(');
        write_words(o, out);
        buf_append_char(out, ')');
    } else {
        buf_append_str(out, kind == VALUE_FILE     ? "_files"
                            : kind == VALUE_STACK  ? "_attnscope_names stacks"
                            : kind == VALUE_SAMPLE ? "_attnscope_names samples"
                            : kind == VALUE_OTHER  ? " "
                                                   : "");
    }
    buf_append_char(out, '\'');
}

static void write_zsh_command(const struct cli_command *c, struct buf *out)
{
    if (c->name[0])
        buf_printf(out, "    %s) ", c->name);
    else
        buf_append_str(out, "    *) ");
    buf_append_str(out, "_arguments -s '--help[the options]'");
    for (const struct cli_option *o = options_of(c); o->name; o++)
        write_zsh_option(o, out);
    buf_append_str(out, " \\\n        '*::: :_files' ;;\n");
}

static void write_zsh(struct buf *out)
{
    buf_append_str(out, "#compdef attnscope\n"
                        "# zsh completion of attnscope; made by: attnscope completion zsh\n"
                        "_attnscope_names() {\n"
                        "    local -a names\n"
                        "    names=(${(f)\"$(attnscope completion $1 2>/dev/null)\"})\n"
                        "    compadd -a names\n"
                        "}\n\n"
                        "_attnscope() {\n"
                        "    local -a commands\n"
                        "    commands=(");
    for (int i = 0; commands[i]; i++) {
        buf_printf(out, "\n        '%s:", commands[i]->name);
        write_zsh_text(commands[i]->summary, out);
        buf_append_char(out, '\'');
    }
    buf_append_str(out, ")\n"
                        "    if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then\n"
                        "        _describe command commands\n"
                        "        _attnscope_names models\n"
                        "        _files\n"
                        "        return\n"
                        "    fi\n"
                        "    case $words[2] in\n");
    for (int i = 0; commands[i]; i++)
        write_zsh_command(commands[i], out);
    write_zsh_command(&command_workbench, out);
    buf_append_str(out, "    esac\n}\n_attnscope \"$@\"\n");
}

/* --- fish
 * -------------------------------------------------------------------------------------------- */

static void write_fish_text(const char *text, struct buf *out)
{
    for (; *text; text++) {
        if (*text == '\'' || *text == '\\')
            buf_append_char(out, '\\');
        buf_append_char(out, *text);
    }
}

static void write_fish_command(const struct cli_command *c, struct buf *out)
{
    for (const struct cli_option *o = options_of(c); o->name; o++) {
        enum value_kind kind = value_of(o);
        if (c->name[0])
            buf_printf(out, "complete -c attnscope -n '__fish_seen_subcommand_from %s'", c->name);
        else
            buf_append_str(out, "complete -c attnscope -n __fish_use_subcommand");
        buf_printf(out, " -l %s", o->name);
        if (kind == VALUE_FILE)
            buf_append_str(out, " -r -F");
        else if (kind != VALUE_NONE)
            buf_append_str(out, " -x");
        if (kind == VALUE_WORDS) {
            buf_append_str(out, " -a '");
            write_words(o, out);
            buf_append_char(out, '\'');
        } else if (kind == VALUE_STACK || kind == VALUE_SAMPLE) {
            buf_printf(out, " -a '(attnscope completion %s 2>/dev/null)'",
                       kind == VALUE_STACK ? "stacks" : "samples");
        }
        buf_append_str(out, " -d '");
        write_fish_text(o->help, out);
        buf_append_str(out, "'\n");
    }
}

static void write_fish(struct buf *out)
{
    buf_append_str(out, "# fish completion of attnscope; made by: attnscope completion fish\n");
    for (int i = 0; commands[i]; i++) {
        buf_printf(out, "complete -c attnscope -n __fish_use_subcommand -a %s -d '",
                   commands[i]->name);
        write_fish_text(commands[i]->summary, out);
        buf_append_str(out, "'\n");
    }
    buf_append_str(out, "complete -c attnscope -n __fish_use_subcommand -a "
                        "'(attnscope completion models 2>/dev/null)'\n");
    write_fish_command(&command_workbench, out);
    for (int i = 0; commands[i]; i++)
        write_fish_command(commands[i], out);
}

/* --- The command
 * --------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*write)(struct buf *out);
} kinds[] = {
    {"bash", write_bash},     {"zsh", write_zsh},         {"fish", write_fish},
    {"stacks", write_stacks}, {"samples", write_samples}, {"models", write_models},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static bool handle(void *user, const char *name, const char *value, struct error *err)
{
    int *kind = user;
    (void)name;
    for (*kind = 0; *kind < N_KINDS; ++*kind)
        if (!strcmp(kinds[*kind].name, value))
            return true;
    return fail_code(err, EXIT_CODE_USAGE,
                     "'%s' is neither a shell (bash, zsh, fish) nor a list of names (stacks, "
                     "samples, models)",
                     value);
}

static int run(int argc, char **argv)
{
    struct error err = {0};
    struct buf out = {0};
    int code, kind = N_KINDS;
    if (!cli_parse(&command_completion, argc, argv, handle, &kind, &code))
        return code;
    if (kind == N_KINDS) {
        fail_code(&err, EXIT_CODE_USAGE, "completion needs a shell: bash, zsh or fish");
        return cli_fail(&err);
    }
    kinds[kind].write(&out);
    bool ok = cli_write(out.data, out.len, &err);
    buf_free(&out);
    return ok ? EXIT_CODE_OK : cli_fail(&err);
}

const struct cli_command command_completion = {
    .name = "completion",
    .usage = "bash|zsh|fish|stacks|samples|models",
    .summary = "a completion script for a shell, or the names that it offers",
    .examples =
        "  attnscope completion bash > ~/.local/share/bash-completion/completions/attnscope\n",
    .options = no_options,
    .max_positional = 1,
    .run = run,
};
