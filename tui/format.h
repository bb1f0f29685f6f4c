/* Numbers as screens show them: fixed widths, so that nothing jumps, and a dash for what is not
 * known. */
#ifndef ATTNSCOPE_TUI_FORMAT_H
#define ATTNSCOPE_TUI_FORMAT_H

#include <stddef.h>
#include <stdint.h>

enum { FORMAT_MAX = 32 };

/* A value in characters, to be used at once. */
struct figure {
    char text[FORMAT_MAX];
};

struct figure format_count(uint64_t n);     /* "32,104" */
struct figure format_bytes(double n_bytes); /* "14.2 GiB" */
struct figure format_rate(double per_s);    /* " 31.2" 5 wide, "    —" if <= 0 */
struct figure format_factor(double x);      /* "×1.88" 5 wide, "    —" if <= 0 */
struct figure format_share(double ratio);   /* " 91.1%" 6 wide, "     —" if < 0 */
struct figure format_ratio(double ratio);   /* "0.871" 5 wide, "    —" if < 0 */
struct figure format_seconds(double s);     /* "4s", "1m 20s", "2h 5m" */
struct figure format_clock(double s);       /* "00:09" */

#endif
