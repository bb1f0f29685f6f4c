#include "tui/format.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

struct figure format_count(uint64_t n)
{
    char digits[FORMAT_MAX];
    struct figure f = {""};
    int n_digits = snprintf(digits, sizeof digits, "%" PRIu64, n);
    size_t to = 0;
    for (int i = 0; i < n_digits && to + 2 < sizeof f.text; i++) {
        if (i > 0 && (n_digits - i) % 3 == 0)
            f.text[to++] = ',';
        f.text[to++] = digits[i];
    }
    f.text[to] = '\0';
    return f;
}

struct figure format_bytes(double n)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    struct figure f;
    size_t unit = 0;
    while (n >= 1024 && unit + 1 < sizeof units / sizeof *units) {
        n /= 1024;
        unit++;
    }
    snprintf(f.text, sizeof f.text, unit == 0 || n >= 100 ? "%.0f %s" : "%.1f %s", n, units[unit]);
    return f;
}

struct figure format_rate(double per_s)
{
    struct figure f;
    if (!(per_s > 0) || !isfinite(per_s))
        snprintf(f.text, sizeof f.text, "    —");
    else if (per_s < 999.95)
        snprintf(f.text, sizeof f.text, "%5.1f", per_s);
    else if (per_s < 99999.5)
        snprintf(f.text, sizeof f.text, "%5.0f", per_s);
    else
        snprintf(f.text, sizeof f.text, "%4.0fk", fmin(per_s / 1000, 9999));
    return f;
}

struct figure format_factor(double x)
{
    struct figure f;
    if (!(x > 0) || !isfinite(x))
        snprintf(f.text, sizeof f.text, "    —");
    else if (x < 9.995)
        snprintf(f.text, sizeof f.text, "×%.2f", x);
    else if (x < 99.95)
        snprintf(f.text, sizeof f.text, "×%.1f", x);
    else
        snprintf(f.text, sizeof f.text, "×%4.0f", fmin(x, 9999));
    return f;
}

struct figure format_share(double ratio)
{
    struct figure f;
    if (!(ratio >= 0) || !isfinite(ratio))
        snprintf(f.text, sizeof f.text, "     —");
    else
        snprintf(f.text, sizeof f.text, "%5.1f%%", fmin(ratio, 9.99) * 100);
    return f;
}

struct figure format_ratio(double ratio)
{
    struct figure f;
    if (!(ratio >= 0) || !isfinite(ratio))
        snprintf(f.text, sizeof f.text, "    —");
    else
        snprintf(f.text, sizeof f.text, "%5.3f", fmin(ratio, 9.999));
    return f;
}

struct figure format_seconds(double s)
{
    struct figure f;
    long n = s < 0 || !isfinite(s) ? 0 : (long)ceil(fmin(s, 1e8));
    if (n < 60)
        snprintf(f.text, sizeof f.text, "%lds", n);
    else if (n < 3600)
        snprintf(f.text, sizeof f.text, "%ldm %lds", n / 60, n % 60);
    else
        snprintf(f.text, sizeof f.text, "%ldh %ldm", n / 3600, n / 60 % 60);
    return f;
}

struct figure format_clock(double s)
{
    struct figure f;
    long n = s < 0 || !isfinite(s) ? 0 : (long)fmin(s, 1e8);
    snprintf(f.text, sizeof f.text, "%02ld:%02ld", n / 60, n % 60);
    return f;
}
