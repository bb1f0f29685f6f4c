/* Measuring which channels matter, against sums by hand, and reading back what is written of it. */
#include "engine/attention/channel_stats.h"

#include "engine/attention/channel_file.h"
#include "tests/attention_scene.h"
#include "tests/temp_folder.h"

#include <cmocka.h>

enum { ROWS = 23, LAYER_OF_TWO = 1 };

static const struct model_config config = {
    .n_layers = 2, .n_heads = N_HEADS, .n_kv_heads = N_KV_HEADS, .head_dim = HEAD_DIM};

/* The sum over a scene's rows, whose keys are all of the scene's. */
static double sum_of(const struct scene *s, int head, int d)
{
    double sum = 0;
    const float *k = s->in.k + head / (N_HEADS / N_KV_HEADS) * ROWS * HEAD_DIM;
    for (int row = 0; row < ROWS; row++)
        sum += fabs((double)s->in.q[(row * N_HEADS + head) * HEAD_DIM + d] *
                    (double)k[row * HEAD_DIM + d]);
    return sum;
}

/* Calls of so many rows each, as a prefill makes them. */
static struct json *measured(struct scene *s, int rows)
{
    struct channel_stats *stats = channel_stats_open(backend, dev, &config, rows);
    struct attention_method method = channel_stats_method(stats);
    for (int layer = 0; layer < config.n_layers; layer++)
        for (int first = 0; first < ROWS && (layer == LAYER_OF_TWO || first == 0); first += rows) {
            struct attention att = s->att;
            struct step_state step = {.n_context = first};
            backend->upload(dev, s->stage.step, &step, sizeof step);
            att.q += first * att.q_stride;
            att.out += first * N_HEADS * HEAD_DIM;
            att.n_rows = first + rows < ROWS ? rows : ROWS - first;
            att.layer = layer;
            method.attend(method.user, &att);
        }
    struct json *root = channel_stats_to_json(stats);
    channel_stats_close(stats);
    return root;
}

static int16_t *read_back(const struct temp_folder *folder, const struct json *root)
{
    struct buf text = {0};
    struct error err = {0};
    json_write(&text, root, false);
    temp_write_text(folder, "channels.json", text.data);
    buf_free(&text);
    int16_t *channels =
        channel_file_read(temp_path(folder, "channels.json"), "qk_proj", &config, HEAD_DIM, &err);
    if (!channels)
        fail_msg("%s", err.text);
    return channels;
}

static void test_channels_are_ordered_by_their_share_of_scores(void **state)
{
    (void)state;
    struct temp_folder folder = temp_folder_make();
    for (int rows = 1; rows <= ROWS; rows += 11) {
        struct scene *s = scene_open(ROWS, ROWS, 7);
        struct json *root = measured(s, rows);
        int16_t *channels = read_back(&folder, root);
        for (int head = 0; head < N_HEADS; head++)
            for (int i = 1; i < HEAD_DIM; i++) {
                const int16_t *list = channels + (LAYER_OF_TWO * N_HEADS + head) * HEAD_DIM;
                double before = sum_of(s, head, list[i - 1]), here = sum_of(s, head, list[i]);
                if (!(before >= here - 1e-12))
                    fail_msg("head %d: channel %d with %g before %d with %g", head, list[i - 1],
                             before, list[i], here);
            }
        free(channels);
        json_free(root);
        scene_close(s);
    }
    temp_folder_remove(&folder);
}

static void test_measuring_leaves_attention_dense(void **state)
{
    (void)state;
    struct scene *s = scene_open(ROWS, ROWS, 7);
    json_free(measured(s, 5));
    float *got = download_out(s);
    set_seed(s, 7);
    float *want = dense_out(s);
    expect_same_out("measured", got, want, ROWS);
    free(got);
    free(want);
    scene_close(s);
}

static void test_channels_at_random_are_each_element_once(void **state)
{
    (void)state;
    int16_t *all = channel_file_random(&config, HEAD_DIM), *few = channel_file_random(&config, 3);
    for (int head = 0; head < config.n_layers * N_HEADS; head++) {
        bool seen[HEAD_DIM] = {false};
        for (int i = 0; i < HEAD_DIM; i++) {
            int channel = all[head * HEAD_DIM + i];
            assert_in_range(channel, 0, HEAD_DIM - 1);
            assert_false(seen[channel]);
            seen[channel] = true;
        }
        assert_memory_equal(few + head * 3, all + head * HEAD_DIM, 3 * sizeof *few);
    }
    assert_memory_not_equal(all, all + HEAD_DIM, HEAD_DIM * sizeof *all);
    free(all);
    free(few);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_channels_are_ordered_by_their_share_of_scores),
        cmocka_unit_test(test_measuring_leaves_attention_dense),
        cmocka_unit_test(test_channels_at_random_are_each_element_once),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
