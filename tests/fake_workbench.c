/* The workbench on the fake engine: the program that screen and timing tests drive.
 *   fake_workbench [CONTEXT-FILE [QUESTION]...]
 *   fake_workbench resume -- SESSION     as the program restarts itself
 * FAKE_AUTO_RESTART=1 is --auto-restart. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "tui/workbench.h"

int main(int argc, char **argv)
{
    struct error err;
    struct buf context = {0};
    struct workbench_options options = {.model = getenv("FAKE_MODEL")};
    if (!options.model)
        options.model = "presets/model";
    options.auto_restart = getenv("FAKE_AUTO_RESTART") != NULL;
    if (argc == 4 && strcmp(argv[1], "resume") == 0 && strcmp(argv[2], "--") == 0) {
        options.resume = session_read(argv[3], &err);
        if (!options.resume) {
            fprintf(stderr, "%s\n", err.text);
            return err.code;
        }
    } else if (argc > 1) {
        if (!file_read(&context, argv[1], 64 << 20, &err)) {
            fprintf(stderr, "%s\n", err.text);
            return err.code;
        }
        options.context = context.data;
        options.n_context = context.len;
        options.context_origin = argv[1];
        options.questions = (const char *const *)argv + 2;
        options.n_questions = argc - 2;
    } else {
        options.sample = "paris";
    }
    int code = workbench_run(&options);
    buf_free(&context);
    return code;
}
