/* Whole frames against plain text in tests/golden/screens.  Included after cmocka.h. */
#ifndef ATTNSCOPE_TESTS_GOLDEN_SCREEN_H
#define ATTNSCOPE_TESTS_GOLDEN_SCREEN_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/file.h"
#include "tui/panes.h"

/* The frame as text; the caller frees out. */
static inline void frame_text(const struct app *app, struct buf *out)
{
    struct grid g;
    grid_init(&g, 1, 1, app->ascii);
    screen_render(app, &g);
    buf_clear(out);
    grid_to_text(&g, out);
    grid_free(&g);
}

/* Compares with tests/golden/screens/NAME.txt; ATTNSCOPE_WRITE_GOLDEN=1 writes it instead. */
static inline void check_golden(struct app *app, const char *name)
{
    struct buf got = {0}, want = {0};
    struct error err;
    char path[512];
    snprintf(path, sizeof path, ATTNSCOPE_SOURCE_DIR "/tests/golden/screens/%s.txt", name);
    frame_text(app, &got);
    if (getenv("ATTNSCOPE_WRITE_GOLDEN")) {
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fwrite(got.data, 1, got.len, file);
        fclose(file);
    }
    if (!file_read(&want, path, 1 << 20, &err))
        fail_msg("%s", err.text);
    if (strcmp(got.data, want.data))
        print_error("%s: got\n%s\nwant\n%s\n", name, got.data, want.data);
    assert_string_equal(got.data, want.data);
    buf_free(&want);
    buf_free(&got);
}

#endif
