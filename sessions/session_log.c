/* Writing a session log: lines go into a pending buffer, the buffer goes to the file at once and
 * is kept where the file does not take it (disk full), so that no line is lost or doubled. */
#include "sessions/session_log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "engine/base/buf.h"
#include "engine/base/file.h"
#include "engine/base/json.h"
#include "engine/base/memory.h"
#include "sessions/session_record.h"

enum { MAX_PENDING_BYTES = 64 << 20 };
#define SYNC_EVERY_S 1.0

struct session_log {
    int fd;
    char *path;
    double started_s;   /* monotonic time of t = 0 */
    double synced_s;    /* of the last sync */
    bool dirty;         /* written since the last sync */
    struct buf pending; /* bytes the file has not taken yet */
    size_t n_dropped;   /* lines dropped because pending was full */
    char problem[256];  /* "" while all is saved */
};

static double now_s(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec * 1e-9;
}

static void set_problem(struct session_log *log, const char *reason)
{
    if (log->problem[0])
        return;
    time_t now = time(NULL);
    struct tm tm;
    localtime_r(&now, &tm);
    snprintf(log->problem, sizeof log->problem, "NOT SAVED since %02d:%02d: %s", tm.tm_hour,
             tm.tm_min, reason);
}

/* Gives the file as much of pending as it takes. */
static void write_pending(struct session_log *log)
{
    size_t done = 0;
    while (done < log->pending.len) {
        ssize_t n = write(log->fd, log->pending.data + done, log->pending.len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            set_problem(log, n < 0 ? strerror(errno) : "nothing was written");
            break;
        }
        done += (size_t)n;
        log->dirty = true;
    }
    memmove(log->pending.data, log->pending.data + done, log->pending.len - done);
    log->pending.len -= done;
    if (!log->pending.len && !log->n_dropped)
        log->problem[0] = '\0';
}

static void sync_file(struct session_log *log)
{
    log->synced_s = now_s();
    if (!log->dirty)
        return;
    log->dirty = false;
    /* EINVAL: the file is no regular one (a pipe for a viewer): nothing to sync. */
    if (fdatasync(log->fd) != 0 && errno != EINVAL && errno != EROFS)
        set_problem(log, strerror(errno));
}

/* Takes the record, stamps it with the time and writes its line. */
static void write_record(struct session_log *log, struct json *record)
{
    if (!log || !record) {
        json_free(record);
        return;
    }
    struct buf text = {0};
    json_write(&text, record, false);
    json_free(record);
    if (log->pending.len + text.len > MAX_PENDING_BYTES) {
        log->n_dropped++;
    } else {
        double t = round((now_s() - log->started_s) * 1e6) / 1e6;
        buf_printf(&log->pending, "{\"t\":%.6f,", t);
        buf_append(&log->pending, text.data + 1, text.len - 1);
        buf_append_char(&log->pending, '\n');
    }
    buf_free(&text);
    write_pending(log);
}

static struct session_log *log_start(int fd, char *path)
{
    struct session_log *log = xcalloc(1, sizeof *log);
    log->fd = fd;
    log->path = path;
    log->started_s = log->synced_s = now_s();
    return log;
}

/* Locks fd against a second writer; closes it on failure. */
static bool lock_file(int fd, const char *path, struct error *err)
{
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return true;
    close(fd);
    return fail_code(err, EXIT_CODE_RUNTIME,
                     "%s: another attnscope is writing this session; end it first, or resume a "
                     "copy of the file",
                     path);
}

static int create_file(const char *path)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd >= 0)
        fchmod(fd, 0600); /* whatever the umask took away or left */
    return fd;
}

static char *state_folder(void)
{
    char *state = path_xdg("XDG_STATE_HOME", ".local/state");
    char *folder = path_join(state, "attnscope");
    free(state);
    return folder;
}

/* A fresh name from the date and time; -1 with err on failure. */
static int create_in_state_folder(char **path, struct error *err)
{
    char *folder = state_folder();
    int fd = -1;
    *path = NULL;
    if (!path_make_folders(folder, err))
        goto out;
    time_t now = time(NULL);
    struct tm tm;
    localtime_r(&now, &tm);
    for (int i = 1; i < 1000 && fd < 0; i++) {
        char name[64], stamp[32];
        strftime(stamp, sizeof stamp, "%Y-%m-%d-%H%M%S", &tm);
        if (i == 1)
            snprintf(name, sizeof name, "%s.jsonl", stamp);
        else
            snprintf(name, sizeof name, "%s-%d.jsonl", stamp, i);
        free(*path);
        *path = path_join(folder, name);
        fd = create_file(*path);
        if (fd < 0 && errno != EEXIST)
            break;
    }
    if (fd < 0)
        fail_code(err, EXIT_CODE_RUNTIME, "%s: %s; the session cannot be saved there", *path,
                  strerror(errno));
out:
    free(folder);
    return fd;
}

struct session_log *session_log_create(const char *path, struct error *err)
{
    char *used = NULL;
    int fd;
    if (path) {
        used = xstrdup(path);
        fd = create_file(path);
        if (fd < 0)
            fail_code(err, EXIT_CODE_RUNTIME,
                      "%s: %s; give --save a new file in a folder that "
                      "can be written",
                      path, strerror(errno));
    } else {
        fd = create_in_state_folder(&used, err);
    }
    if (fd < 0 || !lock_file(fd, used, err)) {
        free(used);
        return NULL;
    }
    struct session_log *log = log_start(fd, used);
    char started[40];
    time_t now = time(NULL);
    struct tm tm;
    gmtime_r(&now, &tm);
    strftime(started, sizeof started, "%Y-%m-%dT%H:%M:%SZ", &tm);
    buf_printf(&log->pending,
               "{\"v\":1,\"t\":0,\"ev\":\"session\",\"build\":\"%s\","
               "\"started\":\"%s\"}\n",
               ATTNSCOPE_VERSION, started);
    write_pending(log);
    return log;
}

struct session_log *session_log_continue(const char *path, struct error *err)
{
    struct session *before = session_read(path, err);
    if (!before)
        return NULL;
    double last_at_s = before->last_at_s;
    session_free(before);
    int fd = open(path, O_RDWR | O_APPEND | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        fail_code(err, EXIT_CODE_RUNTIME, "%s: %s", path, strerror(errno));
        return NULL;
    }
    if (!lock_file(fd, path, err))
        return NULL;
    struct session_log *log = log_start(fd, xstrdup(path));
    log->started_s -= last_at_s;
    /* A torn last line is ended here, so that readers skip it and no line is glued to it. */
    char last = '\n';
    off_t end = lseek(fd, 0, SEEK_END);
    if (end > 0 && pread(fd, &last, 1, end - 1) == 1 && last != '\n')
        buf_append_char(&log->pending, '\n');
    session_log_action(log, "resume", NULL);
    return log;
}

void session_log_close(struct session_log *log)
{
    if (!log)
        return;
    session_log_flush(log);
    close(log->fd);
    buf_free(&log->pending);
    free(log->path);
    free(log);
}

void session_log_model(struct session_log *log, const struct model_info *model)
{
    write_record(log, record_from_model(model));
}

void session_log_context(struct session_log *log, const char *text, size_t n, const char *origin)
{
    struct json *record = json_new_object();
    json_set_string(record, "ev", "context");
    json_set_int(record, "bytes", (int64_t)n);
    if (origin)
        record_set_bytes(record, "origin", origin, strlen(origin));
    record_set_bytes(record, "text", text, n);
    write_record(log, record);
}

void session_log_questions(struct session_log *log, char *const *questions, int n, int current)
{
    struct json *record = json_new_object();
    json_set_string(record, "ev", "questions");
    json_set_int(record, "current", current);
    struct json *list = json_new_array();
    for (int i = 0; i < n; i++)
        json_add_string(list, questions[i]);
    json_set(record, "questions", list);
    write_record(log, record);
}

void session_log_stack(struct session_log *log, int lane, const char *name,
                       const struct stack *stack)
{
    struct json *record = json_new_object();
    json_set_string(record, "ev", "stack");
    json_set_int(record, "lane", lane);
    if (stack) {
        json_set_string(record, "name", name ? name : "");
        json_set(record, "stack", stack_items_to_json(stack));
    } else {
        json_set_bool(record, "removed", true);
    }
    write_record(log, record);
}

void session_log_run(struct session_log *log, const struct request *request)
{
    write_record(log, record_from_request(request));
}

void session_log_event(struct session_log *log, const struct event *event)
{
    if (!log)
        return;
    write_record(log, record_from_event(event));
    if (event->kind == EVENT_DONE || event->kind == EVENT_FINISHED)
        sync_file(log);
}

void session_log_action(struct session_log *log, const char *action, const char *argument)
{
    struct json *record = json_new_object();
    json_set_string(record, "ev", "action");
    json_set_string(record, "name", action);
    if (argument)
        record_set_bytes(record, "arg", argument, strlen(argument));
    write_record(log, record);
}

void session_log_tick(struct session_log *log)
{
    if (!log || now_s() - log->synced_s < SYNC_EVERY_S)
        return;
    if (log->pending.len)
        write_pending(log);
    sync_file(log);
}

void session_log_flush(struct session_log *log)
{
    if (!log)
        return;
    if (log->pending.len)
        write_pending(log);
    sync_file(log);
}

const char *session_log_path(const struct session_log *log)
{
    return log->path;
}

const char *session_log_problem(const struct session_log *log)
{
    return log && log->problem[0] ? log->problem : NULL;
}

static int newest_first(const void *a, const void *b)
{
    double x = ((const struct session_entry *)a)->modified_unix_s;
    double y = ((const struct session_entry *)b)->modified_unix_s;
    return (x < y) - (x > y);
}

size_t session_list(struct session_entry **out)
{
    struct session_entry *entries = NULL;
    size_t n = 0, capacity = 0;
    char *folder = state_folder();
    DIR *dir = opendir(folder);
    for (struct dirent *d = dir ? readdir(dir) : NULL; d; d = readdir(dir)) {
        size_t len = strlen(d->d_name);
        if (len < 7 || strcmp(d->d_name + len - 6, ".jsonl") != 0)
            continue;
        char *path = path_join(folder, d->d_name);
        struct stat st;
        if (lstat(path, &st) != 0 || !S_ISREG(st.st_mode)) {
            free(path);
            continue;
        }
        entries = array_grow(entries, &capacity, n + 1, sizeof *entries);
        entries[n++] = (struct session_entry){.path = path,
                                              .name = xstrndup(d->d_name, len - 6),
                                              .modified_unix_s = (double)st.st_mtim.tv_sec +
                                                                 (double)st.st_mtim.tv_nsec * 1e-9,
                                              .n_bytes = (uint64_t)st.st_size};
    }
    if (dir)
        closedir(dir);
    free(folder);
    if (n)
        qsort(entries, n, sizeof *entries, newest_first);
    *out = entries;
    return n;
}

void session_list_free(struct session_entry *entries, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(entries[i].path);
        free(entries[i].name);
    }
    free(entries);
}
