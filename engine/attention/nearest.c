#include "engine/attention/nearest.h"

#include <ctype.h>
#include <string.h>

enum { MAX_LENGTH = 63 };

static char folded(char c)
{
    return c == '_' ? '-' : (char)tolower((unsigned char)c);
}

static int min3(int a, int b, int c)
{
    int m = a < b ? a : b;
    return m < c ? m : c;
}

/* Levenshtein's distance with swapped neighbours as one edit (optimal string alignment); case and
 * the two dashes do not count. */
static int edit_distance(const char *a, int n_a, const char *b, int n_b)
{
    int rows[3][MAX_LENGTH + 1] = {0};
    for (int j = 0; j <= n_b; j++)
        rows[0][j] = j;
    for (int i = 1; i <= n_a; i++) {
        int *row = rows[i % 3], *above = rows[(i - 1) % 3], *above2 = rows[(i + 1) % 3];
        row[0] = i;
        for (int j = 1; j <= n_b; j++) {
            char x = folded(a[i - 1]), y = folded(b[j - 1]);
            row[j] = min3(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == folded(b[j - 2]) && folded(a[i - 2]) == y &&
                above2[j - 2] + 1 < row[j])
                row[j] = above2[j - 2] + 1;
        }
    }
    return rows[n_a % 3][n_b];
}

void nearest_offer(struct nearest *n, const char *name)
{
    size_t n_given = strlen(n->given), n_name = strlen(name);
    if (!n_given || n_given > MAX_LENGTH || n_name > MAX_LENGTH)
        return;
    int distance = edit_distance(n->given, (int)n_given, name, (int)n_name);
    int limit = 1 + (int)n_name / 3;
    if (distance <= limit && (!n->best || distance < n->distance)) {
        n->best = name;
        n->distance = distance;
    }
}
