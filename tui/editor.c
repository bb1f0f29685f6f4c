#include "tui/editor.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/base/file.h"
#include "tui/signals.h"

enum { MAX_TEXT_BYTES = 64 << 20 };

static const char *editor_name(void)
{
    const char *visual = getenv("VISUAL"), *editor = getenv("EDITOR");
    return visual && *visual ? visual : editor && *editor ? editor : "vi";
}

static bool write_file(int fd, const char *text, struct error *err)
{
    size_t n = strlen(text);
    while (n > 0) {
        ssize_t done = write(fd, text, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return fail(err, "could not write the file for the editor: %s", strerror(errno));
        text += done;
        n -= (size_t)done;
    }
    return true;
}

static bool wait_for(pid_t child, struct error *err)
{
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return fail(err, "the editor was lost: %s", strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return true;
    return fail(err, "'%s' ended with an error: set VISUAL or EDITOR to an editor", editor_name());
}

char *editor_run(const char *text, struct error *err)
{
    const char *folder = getenv("TMPDIR");
    struct buf out = {0};
    char *path = path_join(folder && *folder ? folder : "/tmp", "attnscope-XXXXXX");
    char *command = NULL;
    bool ok = false;
    int fd = mkstemp(path); /* mode 0600 */
    if (fd < 0) {
        fail(err, "%s: %s", path, strerror(errno));
        goto out;
    }
    if (!write_file(fd, text, err))
        goto out;
    /* The name may hold options: the shell splits it, and gets the file as $1. */
    if (asprintf(&command, "%s \"$1\"", editor_name()) < 0) {
        command = NULL;
        fail(err, "out of memory");
        goto out;
    }
    pid_t child = fork();
    if (child == 0) {
        signals_restore_mask();
        execl("/bin/sh", "sh", "-c", command, "sh", path, (char *)NULL);
        _exit(127);
    }
    if (child < 0) {
        fail(err, "could not start the editor: %s", strerror(errno));
        goto out;
    }
    ok = wait_for(child, err) && file_read(&out, path, MAX_TEXT_BYTES, err);

out:
    if (fd >= 0) {
        close(fd);
        unlink(path);
    }
    free(path);
    free(command);
    if (ok)
        return buf_take(&out);
    buf_free(&out);
    return NULL;
}
